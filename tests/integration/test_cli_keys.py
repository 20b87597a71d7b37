"""``steeple-server keys`` beside a real server: its database, its token and its key file, from another process."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_ca.journal import AuthorityRecord, State, Use
from keymanagers.base import KeyId, KeyType
from keymanagers.possession import message_of
from server.datastore.store import Datastore
from spiffe_core.runtime.clock import SystemClock
from tests.support.cli_runs import CommandLine, Ran, server_cli
from tests.support.databases import sqlite_config
from tests.support.planted_keys import LOOSE, STRICT, plant
from tests.support.plugins import declared, keymanager_program
from tests.support.server_processes import ServerProcess, server_process

pytest_plugins = ["tests.support.key_fixtures"]


@pytest.fixture
def server(softhsm_token) -> Iterator[ServerProcess]:
    with server_process(token=softhsm_token) as process:
        process.start()
        yield process


@pytest.fixture
def cli(server) -> CommandLine:
    return keys_of(server)


def keys_of(server: ServerProcess) -> CommandLine:
    """The commands on that server's configuration."""
    return server_cli("-config", server.folder / "server.conf")


def configured(folder: Path, key_manager: str, database: str) -> CommandLine:
    """The commands on a configuration of which no server has run."""
    config = folder / "server.conf"
    config.write_text(
        f"""
        server {{ trust_domain = "example.org" data_dir = "{folder}" }}
        plugins {{
            DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{database}" }} }}
            {key_manager}
        }}
        """
    )
    return server_cli("-config", config)


def in_a_file(folder: Path) -> str:
    """A key manager whose keys are in a file of that folder."""
    return f'KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/keys" }} }}'


def document(ran: Ran) -> dict:
    return json.loads(ran.out)


def states(ran: Ran) -> dict[str, str]:
    """The states by key ID, from the text."""
    return dict(re.findall(r"^Key ID +: (\S+)$.*?^State +: (.+?)$", ran.out, re.MULTILINE | re.DOTALL))


# -- a token


@pytest.mark.softhsm
def test_the_keys_of_a_running_server_are_listed_shown_and_found_to_be_well_kept(cli, server, softhsm_token):
    listed = cli("keys", "list")
    assert (listed.code, listed.err) == (0, "")
    assert listed.out.startswith('Found 2 keys of authority group "example.org"\n\nKey ID ')
    assert {key.partition("-")[0]: state for key, state in states(listed).items()} == {
        "jwt": "active",
        "x509": "active",
    }
    assert f'Token            : "{softhsm_token.label}", serial number ' in listed.out
    assert "CKA_SENSITIVE" not in listed.out

    shown = cli("keys", "show")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.count("\n  CKA_EXTRACTABLE         : false\n") == 2
    assert "refused" not in shown.out

    checked = cli("keys", "check")
    assert (checked.code, checked.err) == (0, "")
    assert checked.out.count("Signature        : over a nonce, ECDSA with SHA-256, verified") == 2
    assert checked.out.count("  C_GetAttributeValue(CKA_VALUE)              : refused: CKR_ATTRIBUTE_SENSITIVE\n") == 2
    assert checked.out.count("  C_WrapKey(CKM_AES_KEY_WRAP_PAD)             : refused: CKR_KEY_UNEXTRACTABLE\n") == 2
    assert "Problem" not in checked.out

    pin = softhsm_token.pin_file.read_text().strip()
    assert not any(pin in text for ran in (listed, shown, checked) for text in (ran.out, ran.err))
    assert (
        server_cli("-socketPath", server.socket_path)("x509", "mint", "-spiffeID", "spiffe://example.org/w").code == 0
    )


@pytest.mark.softhsm
def test_what_is_told_of_an_authority_is_what_the_server_says_of_it(cli, server):
    checked = document(cli("keys", "check", "-output", "json"))
    assert (checked["trust_domain"], checked["authority_group"]) == ("example.org", "example.org")
    assert (checked["key_manager"], checked["unprotected"]) == ('KeyManager "pkcs11"', "")
    keys = {key["use"]: key for key in checked["keys"]}
    bundle = json.loads(server_cli("-socketPath", server.socket_path)("bundle", "show", "-format", "spiffe").out)
    [kid] = [key["kid"] for key in bundle["keys"] if key["use"] == "jwt-svid"]
    assert keys["jwt"]["authority_id"] == kid
    info = server_cli("-socketPath", server.socket_path)("debug", "getinfo").out
    assert f"SERIALNUMBER={keys['x509']['certificate_serial_number']}," in info
    for key in keys.values():
        assert key["problems"] == []
        [token] = key["tokens"]
        assert (token["attributes"]["CKA_SENSITIVE"], token["attributes"]["CKA_EXTRACTABLE"]) == (True, False)
        assert token["serial_number"]


@pytest.mark.softhsm
def test_the_signatures_of_a_check_can_be_verified_by_an_auditor_and_are_new_each_time(cli):
    first, second = (document(cli("keys", "check", "-output", "json"))["keys"] for _ in range(2))
    messages = set()
    for key in (*first, *second):
        proof = {
            name: value if name == "algorithm" else base64.b64decode(value) for name, value in key["signature"].items()
        }
        messages.add(proof["message"])
        assert proof["message"].startswith(message_of(b""))
        public = load_der_public_key(base64.b64decode(key["public_key"]))
        public.verify(proof["signature"], proof["message"], ec.ECDSA(hashes.SHA256()))
    assert len(messages) == 4


@pytest.mark.softhsm
def test_one_key_may_be_asked_for_and_an_unknown_one_is_an_error(cli):
    [first, _] = states(cli("keys", "list"))
    for command in ("show", "check"):
        assert list(states(cli("keys", command, "-keyID", first))) == [first]
        refused = cli("keys", command, "-keyID", "no-such-key")
        assert refused == Ran(1, err='Error: there is no key "no-such-key" in authority group "example.org"\n')


@pytest.mark.softhsm
def test_a_key_that_can_be_read_is_an_error_and_so_is_one_that_the_journal_does_not_name(cli, softhsm_token):
    plant(softhsm_token, KeyId("planted"), LOOSE)
    checked = cli("keys", "check")
    assert (checked.code, checked.err) == (1, 'Error: not as it should be: "planted"\n')
    assert states(checked)["planted"] == "orphan"
    for problem in (
        "the journal does not name it, and it signs nothing: find out who made it; no server destroys it",
        f"{softhsm_token.label}: CKA_EXTRACTABLE is true",
        f"{softhsm_token.label}: C_GetAttributeValue(CKA_VALUE) gave way: it gave 3",
        f"{softhsm_token.label}: C_WrapKey(CKM_AES_KEY_WRAP_PAD) gave way: it gave ",
    ):
        assert f"Problem          : {problem}" in checked.out
    [key] = document(cli("keys", "check", "-output", "json", "-keyID", "planted"))["keys"]
    assert (key["state"], key["shown"]) == ("orphan", True)
    assert len(key["problems"]) == 1 + len(key["tokens"][0]["problems"])


@pytest.mark.softhsm
def test_an_orphan_that_is_well_kept_is_told_by_the_list_and_left_alone(cli, softhsm_token):
    plant(softhsm_token, KeyId("planted"), STRICT)
    for _ in range(2):
        listed = cli("keys", "list")
        assert (listed.code, states(listed)["planted"]) == (1, "orphan")


@pytest.mark.softhsm
def test_keys_that_are_gone_are_missing_and_one_in_the_place_of_another_is_found_out(cli, softhsm_token):
    jwt, x509 = states(cli("keys", "list"))
    softhsm_token.empty()
    listed = cli("keys", "list")
    assert states(listed) == {jwt: "active, missing", x509: "active, missing"}
    assert (listed.code, listed.err) == (1, f'Error: not as it should be: "{jwt}", "{x509}"\n')
    plant(softhsm_token, KeyId(jwt), STRICT)
    shown = cli("keys", "show", "-keyID", jwt)
    assert (shown.code, states(shown)) == (1, {jwt: "active"})
    assert "Problem          : the key manager shows another key in its place: " in shown.out


@pytest.mark.softhsm
def test_a_wrong_pin_is_tried_once_and_stands_nowhere(shim, own_token, tmp_path):
    Datastore.open(sqlite_config(tmp_path / "db.sqlite3"), SystemClock()).close()
    keys = f'KeyManager "pkcs11" {{ plugin_data {{ {own_token.plugin_data()} }} }}'
    cli = configured(tmp_path, keys.replace(str(own_token.library), str(shim.path)), f"{tmp_path}/db.sqlite3")
    own_token.pin_file.chmod(0o600)
    own_token.pin_file.write_text("0000-wrong\n")
    before = shim.logins
    refused = cli("keys", "check")
    assert (refused.code, refused.out) == (1, "")
    assert "C_Login returned CKR_PIN_INCORRECT" in refused.err
    assert "0000-wrong" not in refused.err
    assert shim.logins == before + 1


# -- other key managers


def test_a_key_file_is_checked_and_said_to_protect_nothing(tmp_path):
    with server_process(key_manager=in_a_file(tmp_path)) as server:
        server.start()
        checked = keys_of(server)("keys", "check")
    assert (checked.code, checked.err) == (0, "")
    assert (
        f"\nProtection: none: the keys are in {tmp_path}/keys, unencrypted, and in the server's memory: whoever can "
        "read either has them\n" in checked.out
    )
    assert checked.out.count("Signature        : over a nonce") == 2
    assert "Token" not in checked.out


def test_keys_in_memory_cannot_be_looked_at_from_beside_the_server():
    with server_process(key_manager='KeyManager "memory" {}') as server:
        refused = keys_of(server)("keys", "list")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith('Error: the keys of KeyManager "memory" are in the memory of the server\'s process')


@pytest.mark.softhsm
def test_the_keys_of_an_external_key_manager_sign_and_what_protects_them_is_not_known(softhsm_token, tmp_path):
    keys = declared(keymanager_program(tmp_path), "KeyManager", "outside", softhsm_token.plugin_data("outside"))
    with server_process(key_manager=keys, token=softhsm_token) as server:
        server.start()
        checked = keys_of(server)("keys", "check")
        assert server_cli("-socketPath", server.socket_path)("healthcheck").code == 0
    assert (checked.code, checked.err) == (0, "")
    assert '\nProtection: unknown: KeyManager "outside" is a program of its own' in checked.out
    assert checked.out.count("Signature        : over a nonce") == 2


# -- what is not there


def test_where_no_server_has_run_nothing_is_made(tmp_path):
    with server_process(key_manager=in_a_file(tmp_path)) as server:
        before = sorted(server.folder.iterdir())
        refused = keys_of(server)("keys", "list")
        assert sorted(server.folder.iterdir()) == before
        assert list(tmp_path.iterdir()) == []
    assert refused == Ran(
        1,
        err=f"Error: there is no database {server.folder}/db.sqlite3: no server has run with this configuration yet\n",
    )


def test_a_configuration_that_is_wrong_is_told_as_run_tells_it(tmp_path):
    config = tmp_path / "server.conf"
    config.write_text('server { trust_domain = "example.org" data_dr = "x" }')
    told = server_cli("-config", config)("keys", "list")
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith("Error: server.data_dr: unknown configuration detected")


def test_the_configuration_may_name_environment_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("KEYS_TEST_DATABASE", f"{tmp_path}/none.sqlite3")
    cli = configured(tmp_path, in_a_file(tmp_path), "${KEYS_TEST_DATABASE}")
    assert cli("keys", "list", "-expandEnv").err.startswith(f"Error: there is no database {tmp_path}/none.sqlite3: ")


def test_a_reserved_key_that_is_not_made_yet_is_no_problem(tmp_path):
    """As a server that was killed between the two leaves it."""
    (tmp_path / "keys.group").write_text("disk-group")
    record = AuthorityRecord(
        key_id=KeyId("x509-1"), use=Use.X509, key_type=KeyType.RSA_2048, state=State.RESERVED, reserved_at=1_700_000_000
    )
    with closing(Datastore.open(sqlite_config(tmp_path / "db.sqlite3"), SystemClock())) as datastore:
        lease = datastore.lease("disk-group").take("test", None)
        datastore.journal("disk-group").write(lease.epoch, record)
    checked = configured(tmp_path, in_a_file(tmp_path), f"{tmp_path}/db.sqlite3")("keys", "check")
    assert (checked.code, checked.err) == (0, "")
    assert "Public key       : not made yet\nState            : reserved\n" in checked.out
