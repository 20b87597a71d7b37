import asyncio
import base64
import json
import os
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.state import MAX_BYTES, NAME, AgentState, BootstrapUse, StateFile
from keymanagers.base import KeyId
from spiffe_core.errors import InvalidConfig, Unavailable
from tests.support.needs import unprivileged
from tests.support.pki import Realm

REALM = Realm()
CHAIN = REALM.issue("/spire/agent/join_token/one").chain


def write(folder, **members):
    (folder / NAME).write_text(json.dumps(members))


def pem(certificate) -> str:
    return base64.b64encode(certificate.public_bytes(Encoding.PEM)).decode()


def test_an_agent_without_a_file_has_nothing(tmp_path):
    assert StateFile(tmp_path).state == AgentState()
    assert not (tmp_path / NAME).exists()


async def test_what_was_stored_is_there_at_the_next_start(tmp_path):
    changes = {
        "svid": CHAIN,
        "bundle": (REALM.root.der,),
        "reattestable": True,
        "bootstrap_use": BootstrapUse.REBOOTSTRAP,
        "bootstrap_started_at": datetime(2030, 1, 2, 3, 4, 5, 600, tzinfo=UTC),
        "connection_attempts": 3,
        "key_ids": (KeyId("one"), KeyId("two")),
    }
    await StateFile(tmp_path).change(**changes)
    assert StateFile(tmp_path).state == AgentState(**changes)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


async def test_a_bundle_of_thousands_of_authorities_is_there_at_the_next_start(tmp_path):
    many = (REALM.root.der,) * 6000
    await StateFile(tmp_path).change(bundle=many)
    assert StateFile(tmp_path).state.bundle == many


def test_what_a_killed_agent_has_left_unfinished_is_removed_and_nothing_else(tmp_path):
    names = [f".{NAME}.0123abcd", f".{NAME}.0123abcde", f".{NAME}.bak", ".keys.json.0123abcd"]
    for name in names:
        (tmp_path / name).touch()
    StateFile(tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == set(names[1:])


async def test_the_file_is_what_spires_agent_reads(tmp_path):
    await StateFile(tmp_path).change(svid=CHAIN, bundle=(REALM.root.der,))
    assert json.loads((tmp_path / NAME).read_bytes()) == {
        "svid": [pem(CHAIN[0])],
        "bundle": [pem(REALM.root.certificate)],
        "reattestable": False,
        "bootstrap_use": 0,
        "bootstrap_start_time": "0001-01-01T00:00:00Z",
        "connection_attempts": 0,
        "key_ids": [],
    }


async def test_lists_without_members_are_null_as_go_writes_them(tmp_path):
    await StateFile(tmp_path).change(reattestable=True)
    assert json.loads((tmp_path / NAME).read_bytes())["svid"] is None


def test_what_spires_agent_has_written_is_read(tmp_path):
    write(
        tmp_path,
        svid=[pem(CHAIN[0])],
        bundle=None,
        reattestable=True,
        bootstrap_use=2,
        bootstrap_start_time="2026-11-28T13:40:00.123456789+01:00",
        connection_attempts=0,
    )
    state = StateFile(tmp_path).state
    assert state.svid == CHAIN
    assert state.bundle == ()
    assert state.bootstrap_started_at == datetime(2026, 11, 28, 12, 40, 0, 123456, tzinfo=UTC)
    assert state.key_ids == ()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"svid": "no list"}',
        b'{"svid": [1]}',
        b'{"svid": ["bm8gUEVN"]}',
        b'{"svid": ["not base64!"]}',
        b'{"reattestable": 1}',
        b'{"bootstrap_use": 7}',
        b'{"bootstrap_use": true}',
        b'{"bootstrap_start_time": "yesterday"}',
        b"\xff",
    ],
    ids=[
        "empty",
        "cut off",
        "a list",
        "svid is text",
        "number in svid",
        "no certificate",
        "no base64",
        "number for a boolean",
        "unknown use",
        "boolean for a number",
        "no time",
        "no text",
    ],
)
def test_a_file_that_is_no_state_is_an_error_and_stays_as_it_is(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(InvalidConfig, match=r"is no state of an agent .*restore it, or remove it"):
        StateFile(tmp_path)
    assert (tmp_path / NAME).read_bytes() == content


def test_a_file_without_end_is_no_state(tmp_path):
    (tmp_path / NAME).touch()
    os.truncate(tmp_path / NAME, 1 << 40)
    with pytest.raises(InvalidConfig, match=f"longer than {MAX_BYTES} bytes"):
        StateFile(tmp_path)


async def test_a_change_that_cannot_be_stored_did_not_happen(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    file = StateFile(folder)
    await file.change(connection_attempts=1)
    (folder / NAME).unlink()
    folder.rmdir()
    with pytest.raises(Unavailable, match="cannot store the agent's state"):
        await file.change(connection_attempts=2)
    assert file.state.connection_attempts == 1


@unprivileged
def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    write(tmp_path)
    (tmp_path / NAME).chmod(0)
    with pytest.raises(InvalidConfig, match=r"cannot read the agent's state: .*permission denied"):
        StateFile(tmp_path)


async def test_nobody_else_waits_for_the_disk(tmp_path):
    storing = asyncio.ensure_future(StateFile(tmp_path).change(bundle=(REALM.root.der,) * 1000))
    had_turns = 0
    while not storing.done():
        await asyncio.sleep(0)
        had_turns += 1
    assert had_turns > 10


async def test_changes_at_once_are_made_one_after_the_other(tmp_path):
    file = StateFile(tmp_path)
    await asyncio.gather(file.change(connection_attempts=1), file.change(reattestable=True), file.change(svid=CHAIN))
    assert StateFile(tmp_path).state == AgentState(svid=CHAIN, reattestable=True, connection_attempts=1)


async def test_a_change_to_what_is_there_already_writes_nothing(tmp_path):
    file = StateFile(tmp_path)
    await file.change(connection_attempts=1)
    before = (tmp_path / NAME).stat().st_ino
    await file.change(connection_attempts=1)
    assert (tmp_path / NAME).stat().st_ino == before
