"""WorkloadAttestor ``unix``: what it reads of a process, and what it makes of it."""

import asyncio
import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from agent.config import PLUGIN_TYPES
from agent.workload_attestors.digests import Digests
from agent.workload_attestors.names import KEPT_FOR, Names, group_name, user_name
from agent.workload_attestors.registry import BUILT_IN
from agent.workload_attestors.unix import UnixAttestor, UnixConfig
from spiffe_core.errors import Internal, InvalidConfig, Unauthenticated
from spiffe_core.runtime.block import Block
from spiffe_core.runtime.peers import PeerProcess
from tests.support.clock import FakeClock
from tests.support.needs import privileged

STATUS: Final = """Name:\ta: b
Umask:\t0022
Uid:\t10\t11\t12\t13
Gid:\t20\t21\t22\t23
Groups:\t30 31\x20
VmRSS:\t1 kB
"""
PROGRAM: Final = Path(sys.executable).resolve()
"""What runs as this Python: a file that has not changed lately."""
USERS: Final = {11: "eff", 10: "real"}
GROUPS: Final = {21: "staff", 31: "wheel"}


def process(pid: int, uid: int = 11, gid: int = 21) -> PeerProcess:
    """A process that an attestor is asked about, and whose it was when it connected."""
    return PeerProcess(pid, uid, gid, None)


def me() -> PeerProcess:
    """This very process."""
    return process(os.getpid(), os.geteuid(), os.getegid())


@contextmanager
def proc(tmp_path: Path, status: str = STATUS, exe: Path | None = None) -> Iterator[UnixAttestor]:
    """An attestor that reads a /proc of the test's, in which process 7 runs."""
    folder = tmp_path / "proc" / "7"
    folder.mkdir(parents=True)
    (folder / "status").write_text(status)
    if exe is not None:
        (folder / "exe").symlink_to(exe)
    attestor = UnixAttestor(
        UnixConfig(discover_workload_path=exe is not None),
        proc=folder.parent,
        look_up_user=USERS.get,
        look_up_group=GROUPS.get,
    )
    try:
        yield attestor
    finally:
        attestor.close()


async def test_the_effective_ids_are_told_with_their_names_as_far_as_they_have_one(tmp_path):
    with proc(tmp_path) as attestor:
        assert await attestor.attest(process(7)) == [
            "uid:11",
            "user:eff",
            "gid:21",
            "group:staff",
            "supplementary_gid:30",
            "supplementary_gid:31",
            "supplementary_group:wheel",
        ]


@pytest.mark.conformance("WE-11")
@pytest.mark.parametrize(("uid", "gid"), [(10, 21), (11, 20), (0, 0)])
async def test_a_process_that_has_become_another_users_is_refused(tmp_path, uid, gid):
    with proc(tmp_path) as attestor, pytest.raises(Unauthenticated, match="no longer of the user and group"):
        await attestor.attest(process(7, uid, gid))


async def test_ids_without_names_are_told_alone(tmp_path):
    with proc(tmp_path, "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t\n") as attestor:
        assert await attestor.attest(process(7, 2, 6)) == ["uid:2", "gid:6"]


async def test_the_path_and_the_digest_of_the_program_are_told_if_asked_for(tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"content")
    with proc(tmp_path, exe=program) as attestor:
        values = await attestor.attest(process(7))
    assert values[-2:] == [f"path:{program}", f"sha256:{hashlib.sha256(b'content').hexdigest()}"]


@pytest.mark.parametrize(
    ("limit", "told"), [(0, True), (7, True), (8, True), (-1, False)], ids=["none", "exact", "more", "no digest"]
)
async def test_the_digest_depends_on_the_size_limit(tmp_path, limit, told):
    program = tmp_path / "program"
    program.write_bytes(b"content")
    with proc(tmp_path, exe=program) as attestor:
        attestor._config = UnixConfig(discover_workload_path=True, workload_size_limit=limit)
        values = await attestor.attest(process(7))
    assert any(value.startswith("sha256:") for value in values) == told
    assert f"path:{program}" in values


async def test_a_program_beyond_the_size_limit_fails_the_attestor(tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"content")
    with proc(tmp_path, exe=program) as attestor:
        attestor._config = UnixConfig(discover_workload_path=True, workload_size_limit=6)
        with pytest.raises(Internal, match=r"SHA256 digest: workload .*/7/exe exceeds size limit \(7 > 6\)"):
            await attestor.attest(process(7))


async def test_a_process_that_is_gone_fails_the_attestor(tmp_path):
    with proc(tmp_path) as attestor, pytest.raises(Internal, match=r"UIDs lookup: open .*/8/status: No such file"):
        await attestor.attest(process(8))


@pytest.mark.parametrize(
    "status",
    [
        "",
        "Name:\tx\nUid:\t1\nGid:\t1\t2\nGroups:\t\n",
        "Name:\tx\nUid:\tx\ty\nGid:\t1\t2\nGroups:\t\n",
        "Name:\tx\nUid:\t1\t2\nGid:\t1\t2\nGroups:\t",
    ],
    ids=["empty", "one number", "no numbers", "cut off"],
)
async def test_a_status_without_ids_fails_the_attestor(tmp_path, status):
    with proc(tmp_path, status) as attestor, pytest.raises(Internal, match="does not say whose the process is"):
        await attestor.attest(process(7))


async def test_a_program_that_cannot_be_read_fails_the_attestor(tmp_path):
    with (
        proc(tmp_path, exe=tmp_path / "gone") as attestor,
        pytest.raises(Internal, match=r"SHA256 digest: .*/7/exe: No such file or directory"),
    ):
        await attestor.attest(process(7))


async def test_this_very_process_is_told_as_it_is():
    attestor = UnixAttestor(UnixConfig(discover_workload_path=True))
    values = await attestor.attest(me())
    attestor.close()
    assert f"uid:{os.geteuid()}" in values
    assert f"gid:{os.getegid()}" in values
    assert f"path:{PROGRAM}" in values
    assert f"sha256:{hashlib.sha256(PROGRAM.read_bytes()).hexdigest()}" in values
    assert {value for value in values if value.startswith("supplementary_gid:")} == {
        f"supplementary_gid:{gid}" for gid in os.getgroups()
    }
    name = user_name(os.geteuid())
    assert (f"user:{name}" in values) == (name is not None)


@contextmanager
def named(name: bytes) -> Iterator[None]:
    """This process calls itself so."""
    comm = Path(f"/proc/{os.getpid()}/comm")
    usual = comm.read_bytes().strip()
    comm.write_bytes(name)
    try:
        yield
    finally:
        comm.write_bytes(usual)


async def test_a_process_cannot_name_itself_into_another_user():
    with named(b"x\nUid:\t7\t7"):
        values = await UnixAttestor().attest(me())
    assert values[0] == f"uid:{os.geteuid()}"


@privileged
async def test_another_users_process_is_told_as_it_is():
    groups = [4000000, 4000001]
    other = await asyncio.create_subprocess_exec("sleep", "60", user=65534, group=65533, extra_groups=groups)
    try:
        values = await UnixAttestor().attest(process(other.pid, 65534, 65533))
    finally:
        other.kill()
        await other.wait()
    assert "uid:65534" in values
    assert "gid:65533" in values
    assert {f"supplementary_gid:{gid}" for gid in groups} <= set(values)


def test_numbers_without_a_name_have_none():
    assert user_name(4_000_000_000) is None
    assert group_name(4_000_000_000) is None


async def test_a_name_is_looked_up_again_after_a_while_and_absences_too():
    clock, asked = FakeClock(), []

    def look_up(number: int) -> str | None:
        asked.append(number)
        return None if number == 9 else f"name {len(asked)}"

    names = Names(look_up, clock.monotonic)
    assert [await names.of(1), await names.of(1), await names.of(9), await names.of(9)] == [
        "name 1",
        "name 1",
        None,
        None,
    ]
    clock.advance(KEPT_FOR - 1)
    assert await names.of(1) == "name 1"
    clock.advance(1)
    assert await names.of(1) == "name 3"
    assert await names.of(9) is None
    assert asked == [1, 9, 1, 9]


async def test_callers_that_ask_for_one_name_at_once_wait_for_one_look_up():
    asked, answer = [], threading.Event()

    def look_up(number: int) -> str | None:
        asked.append(number)
        answer.wait(20)
        return "name"

    names = Names(look_up, lambda: 0.0)
    waiting = [asyncio.ensure_future(names.of(1)) for _ in range(50)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    answer.set()
    assert await asyncio.gather(*waiting[1:]) == ["name"] * 49
    assert asked == [1]


async def test_a_digest_is_that_of_the_content_of_the_moment(tmp_path):
    digests, path = Digests(), tmp_path / "program"
    for content in (b"one", b"two", b"three"):
        path.write_bytes(content)
        assert await digests.of(str(path), 0) == hashlib.sha256(content).hexdigest()
    digests.close()


async def test_a_file_that_changed_just_now_is_read_each_time_and_an_old_one_is_not(tmp_path):
    digests, fresh, settled = Digests(), tmp_path / "fresh", PROGRAM
    fresh.write_bytes(b"one")
    await digests.of(str(fresh), 0)
    assert not digests._kept
    found = await digests.of(str(settled), 0)
    assert list(digests._kept.values()) == [found]
    digests._kept = dict.fromkeys(digests._kept, "kept")
    assert await digests.of(str(settled), 0) == "kept"
    digests.close()


async def test_callers_that_ask_for_one_program_at_once_wait_for_one_reading():
    digests, path = Digests(), str(PROGRAM)
    answers = await asyncio.gather(*(digests.of(path, 0) for _ in range(30)))
    assert len(set(answers)) == 1
    assert not digests._read
    digests.close()


async def test_a_caller_that_gives_up_leaves_no_descriptor_open():
    digests = Digests()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  only how many
    for moment in range(40):
        asking = asyncio.ensure_future(digests.of(str(PROGRAM), 0))
        for _ in range(moment % 4):
            await asyncio.sleep(0)
        asking.cancel()
    while digests._asked or digests._read:  # noqa: ASYNC110  nobody tells
        await asyncio.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
    digests.close()


def test_the_built_in_attestors_are_those_that_the_configuration_knows():
    [kind] = [kind for kind in PLUGIN_TYPES if kind.name == "WorkloadAttestor"]
    assert set(BUILT_IN) == set(kind.built_in)


def test_the_data_of_the_plugin_are_read():
    data = Block.parse(
        "discover_workload_path = true\nworkload_size_limit = 42", "plugins.WorkloadAttestor.unix.plugin_data"
    )
    attestor = BUILT_IN["unix"](data)
    assert isinstance(attestor, UnixAttestor)
    assert attestor._config == UnixConfig(discover_workload_path=True, workload_size_limit=42)
    attestor.close()


def test_an_unknown_key_of_the_plugins_data_is_refused():
    data = Block.parse("discover = true", "plugins.WorkloadAttestor.unix.plugin_data")
    with pytest.raises(InvalidConfig, match="discover"):
        BUILT_IN["unix"](data)
