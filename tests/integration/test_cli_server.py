"""The other commands of ``steeple-server``, against a real server: texts, JSON, files, and exit codes."""

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from spiffe_core.jwtsvid import parse_jwt_svid
from spiffe_core.runtime.cli.pem import pem
from spiffe_core.x509svid import id_of
from tests.support.certificates import ca
from tests.support.cli_runs import CommandLine, Ran, server_cli
from tests.support.server_processes import ServerProcess, attest, server_process

W = "spiffe://example.org/w"


@pytest.fixture(scope="module")
def process() -> Iterator[ServerProcess]:
    with server_process(key_manager='KeyManager "memory" {}', server='log_level = "WARN"') as found:
        found.begin()
        cli = server_cli("-socketPath", found.socket_path)
        while cli("healthcheck").code:
            assert not found.has_ended(), found.log
        yield found


@pytest.fixture(scope="module")
def cli(process) -> CommandLine:
    return server_cli("-socketPath", process.socket_path)


@pytest.fixture
def domain() -> str:
    """A trust domain that no other test uses."""
    return f"d{uuid4().hex}.test"


# -- healthcheck, debug, logger ----------------------------------------------------------------------------


def test_a_server_that_serves_is_healthy(cli):
    assert cli("healthcheck") == Ran(0, "Server is healthy.\n")
    assert cli("healthcheck", "-shallow") == Ran(0, "Server is healthy.\n")
    assert cli("healthcheck", "--verbose") == Ran(0, "Checking server health...\nServer is healthy.\n")


def test_a_server_that_is_not_there_is_not_healthy():
    cli = server_cli("-socketPath", "/no/such.sock")
    error = "Error: server is unhealthy: unable to determine health\n"
    why = (
        'Failed to check health: rpc error: code = Unavailable desc = connection error: desc = "transport: '
        'Error while dialing: dial unix /no/such.sock: connect: no such file or directory"\n'
    )
    assert cli("healthcheck") == Ran(1, err=error)
    assert cli("healthcheck", "-verbose") == Ran(1, "Checking server health...\n", why + error)


def test_the_server_tells_what_it_knows_of_itself(cli):
    ran = cli("debug", "getinfo").masked
    assert (ran.code, ran.err) == (0, "")
    out = re.sub(r"(Uptime: +)\S+", r"\1<while>", ran.out)
    out = re.sub(r"SERIALNUMBER=\d+", "SERIALNUMBER=<number>", out)
    assert re.sub(r"(Agents|Entries|Bundles): +\d+", r"\1: <count>", out) == (
        "Server Debug Info:\n"
        "  Uptime:                  <while>\n"
        "  Registered Agents: <count>\n"
        "  Registration Entries: <count>\n"
        "  Federated Bundles: <count>\n"
        "  SVID Chain:\n"
        "    [0] SPIFFE ID:  spiffe://example.org/spire/server\n"
        "        Subject:    CN=server.steeple.internal,O=SPIRE,C=US\n"
        "        Expires At: <rfc3339>\n"
        "    [1] SPIFFE ID:  spiffe://example.org\n"
        "        Subject:    SERIALNUMBER=<number>,O=SPIFFE,C=US\n"
        "        Expires At: <rfc3339>\n"
    )
    document = json.loads(cli("debug", "getinfo", "-output", "json").out)
    assert document.keys() == {"agents_count", "entries_count", "federated_bundles_count", "svid_chain", "uptime"}
    assert document["svid_chain"][0]["id"] == {"path": "/spire/server", "trust_domain": "example.org"}


def levels(current: str, launch: str = "warning") -> Ran:
    return Ran(0, f"Logger Level : {current}\nLaunch Level : {launch}\n\n")


def test_the_level_of_the_log_is_set_and_set_back(cli, process):
    assert cli("logger", "get") == levels("warning")
    assert cli("logger", "set", "-level", "debug") == levels("debug")
    assert cli("logger", "set", "-level", "PANIC") == levels("panic")
    document = '{"current_level":"TRACE","launch_level":"WARN"}\n'
    assert cli("logger", "set", "-level", "trace", "-output", "json") == Ran(0, document)
    assert cli("logger", "get") == levels("trace")
    assert cli("logger", "reset") == levels("warning")
    assert "new_log_level=panic old_log_level=debug" in process.log


@pytest.mark.parametrize(
    ("args", "error"),
    [([], "a value (-level) must be set"), (["-level", "loud"], 'the value "loud" is not a valid setting')],
)
def test_a_level_that_is_none_is_refused(cli, args, error):
    assert cli("logger", "set", *args) == Ran(1, err=f"Error: {error}\n")


# -- token -------------------------------------------------------------------------------------------------


def test_a_join_token_is_made(cli):
    named = cli("token", "generate", "-spiffeID", W, "-ttl=5")
    assert named.masked == Ran(0, "Token: <uuid>\n")
    assert cli("token", "generate").masked == Ran(0, "Token: <uuid>\nWarning: Missing SPIFFE ID.\n")
    document = json.loads(cli("token", "generate", "-output", "json").out)
    assert document.keys() == {"expires_at", "value"}
    assert document["expires_at"].isdigit()


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["-spiffeID", "foo"], "'foo' is no SPIFFE ID: scheme is missing or invalid"),
        (["-spiffeID", f"{W}/☃"], "path segment '☃' is invalid"),
        (["-ttl", str(2**31)], "invalid value for TTL: overflow converting int(2147483648) to int32"),
        (["-ttl", "-5"], "rpc error: code = InvalidArgument desc = ttl is required, you must provide one"),
        (["-spiffeID", "spiffe://other.test/x"], "rpc error: code = InvalidArgument desc = invalid agent ID: "),
    ],
)
def test_a_join_token_that_cannot_be_is_refused(cli, args, error):
    ran = cli("token", "generate", *args)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"Error: {error}")


# -- bundle ------------------------------------------------------------------------------------------------


def test_the_bundle_is_shown_in_each_form(cli):
    assert cli("bundle", "show").masked == Ran(0, "<CERTIFICATE>\n")
    document = json.loads(cli("bundle", "show", "-format", "spiffe").out)
    assert [key["use"] for key in document["keys"]] == ["x509-svid", "jwt-svid"]
    assert cli("experimental", "bundle", "show") == cli("bundle", "show", "-format", "SPIFFE")
    bundle = json.loads(cli("bundle", "show", "-output", "json").out)
    assert bundle["trust_domain"] == "example.org"
    assert pem("CERTIFICATE", [base64.b64decode(one["asn1"]) for one in bundle["x509_authorities"]]) == (
        cli("bundle", "show").out
    )
    assert cli("bundle", "show", "-format", "der") == Ran(1, err='Error: invalid format: "der"\n')


def test_a_federated_bundle_comes_and_goes(cli, domain, tmp_path: Path):
    file = tmp_path / "bundle.pem"
    certificate = pem("CERTIFICATE", [ca(uri=f"spiffe://{domain}").der])
    file.write_text(certificate)
    assert cli("bundle", "set", "-id", domain, "-path", file) == Ran(0, "bundle set.\n")
    assert cli("bundle", "list", "-id", f"spiffe://{domain}") == Ran(0, certificate)
    rule = "*" * 40
    assert f"{rule}\n* {domain}\n{rule}\n{certificate}" in cli("bundle", "list").out
    assert cli("experimental", "bundle", "list", "-id", domain) == cli(
        "bundle", "list", "-id", domain, "-format", "spiffe"
    )
    listed = json.loads(cli("bundle", "list", "-output", "json").out)
    assert domain in [one["trust_domain"] for one in listed["bundles"]]
    assert cli("bundle", "delete", "-id", domain) == Ran(0, "bundle deleted.\n")
    again = f'Error: failed to delete federated bundle "{domain}": bundle not found\n'
    assert cli("bundle", "delete", "-id", domain) == Ran(1, err=again)
    gone = "Error: rpc error: code = NotFound desc = bundle not found\n"
    assert cli("bundle", "list", "-id", domain) == Ran(1, err=gone)


def test_bundles_are_listed_with_a_blank_line_between_and_counted(cli, domain):
    for name in (f"a.{domain}", f"b.{domain}"):
        certificate = pem("CERTIFICATE", [ca(uri=f"spiffe://{name}").der])
        assert cli("bundle", "set", "-id", name, stdin=certificate).code == 0
    ran = cli("bundle", "list").masked
    rule = "*" * 40
    assert f"{rule}\n* a.{domain}\n{rule}\n<CERTIFICATE>\n\n{rule}\n* b.{domain}\n{rule}\n<CERTIFICATE>\n" in ran.out
    count = json.loads(cli("bundle", "count", "-output", "json").out)["count"]
    assert count >= 3
    assert cli("bundle", "count") == Ran(0, f"{count} bundles\n")


def test_a_bundle_is_set_in_spiffe_format(cli, domain):
    document = cli("bundle", "show", "-format", "spiffe").out
    assert cli("experimental", "bundle", "set", "-id", domain, stdin=document) == Ran(0, "bundle set.\n")
    assert cli("bundle", "list", "-id", domain, "-format", "spiffe").out == document
    result = json.loads(cli("bundle", "set", "-id", domain, "-output", "json", stdin=cli("bundle", "show").out).out)
    assert result["results"][0]["status"] == {"code": 0, "message": "OK"}


@pytest.mark.parametrize(
    ("mode", "entries"), [("restrict", 1), ("dissociate", 1), ("delete", 0)], ids=["restrict", "dissociate", "delete"]
)
def test_a_bundle_that_entries_federate_with_goes_only_as_it_is_told(cli, domain, mode, entries):
    cli("bundle", "set", "-id", domain, stdin=pem("CERTIFICATE", [ca(uri=f"spiffe://{domain}").der]))
    spiffe_id = f"spiffe://example.org/{domain}"
    cli("entry", "create", "-parentID", W, "-spiffeID", spiffe_id, "-selector", "a:b", "-federatesWith", domain)
    ran = cli("bundle", "delete", "-id", domain, "-mode", mode)
    if mode == "restrict":
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith('Error: failed to delete federated bundle "')
    else:
        assert ran == Ran(0, "bundle deleted.\n")
    assert cli("entry", "count", "-spiffeID", spiffe_id).out.startswith(f"{entries} ")


@pytest.mark.parametrize(
    ("args", "stdin", "error"),
    [
        (["set"], "", "id flag is required"),
        (["set", "-id", "x", "-format", "der"], "", 'invalid format: "der"'),
        (
            ["set", "-id", "x", "-path", "/no/such"],
            "",
            "unable to load bundle data: open /no/such: no such file",
        ),
        (["set", "-id", "x", "-path", "/"], "", "unable to load bundle data: read /: is a directory"),
        (["set", "-id", "x"], "", "unable to parse bundle data: no PEM blocks"),
        (["set", "-id", "x"], b"\xff\xfe", "unable to parse bundle data: no PEM blocks"),
        (["set", "-id", "x", "-format", "spiffe"], "{", "unable to parse to spiffe bundle: bundle document is no JSON"),
        (["set", "-id", "x", "-format", "spiffe"], "[]", "unable to parse to spiffe bundle: "),
        (["set", "-id", "X", "-format", "spiffe"], '{"keys":[]}', "trust domain 'X' is invalid"),
        (
            ["set", "-id", "example.org"],
            None,
            "failed to set federated bundle: setting a federated bundle",
        ),
        (["set", "-id", "b d"], None, "failed to set federated bundle: trust domain argument is not valid: "),
        (["delete"], "", "id is required"),
        (["delete", "-id", "x", "-mode", "y"], "", 'unsupported mode "y"'),
    ],
)
def test_a_wrong_bundle_command_is_refused(cli, args, stdin, error):
    ran = cli("bundle", *args, stdin=pem("CERTIFICATE", [ca().der]) if stdin is None else stdin)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"Error: {error}")
    assert ran.err.count("\n") == 1


# -- x509 and jwt ------------------------------------------------------------------------------------------


def test_an_x509_svid_is_minted_with_a_key_that_is_made_here(cli):
    ran = cli("x509", "mint", "-spiffeID", W, "-dns", "a.test", "-dns", "b.test")
    assert ran.masked == Ran(
        0, "X509-SVID:\n<CERTIFICATE>\n\nPrivate key:\n<PRIVATE KEY>\n\nRoot CAs:\n<CERTIFICATE>\n\n"
    )
    certificate = x509.load_pem_x509_certificate(ran.out.encode())
    key = load_pem_private_key(ran.out.partition("Private key:\n")[2].encode(), None)
    assert key.public_key() == certificate.public_key()
    assert str(id_of(certificate)) == W
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.test", "b.test"]


def test_a_minted_x509_svid_is_written_to_files(cli, tmp_path: Path):
    ran = cli("x509", "mint", "-spiffeID", W, "-write", tmp_path, "-output", "json")
    assert ran == Ran(
        0,
        f"X509-SVID written to {tmp_path}/svid.pem\n"
        f"Private key written to {tmp_path}/key.pem\n"
        f"Root CAs written to {tmp_path}/bundle.pem\n",
    )
    certificate = x509.load_pem_x509_certificate((tmp_path / "svid.pem").read_bytes())
    key = load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    assert key.public_key() == certificate.public_key()
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "bundle.pem").read_text() == cli("bundle", "show").out


def test_a_minted_x509_svid_is_printed_as_json(cli):
    ran = cli("x509", "mint", "-spiffeID", W, "-output", "json")
    document = json.loads(ran.out)
    assert list(document) == ["x509_svid", "private_key", "root_cas"]
    certificate = x509.load_der_x509_certificate(base64.b64decode(document["x509_svid"][0]))
    key = load_der_private_key(base64.b64decode(document["private_key"]), None)
    assert key.public_key() == certificate.public_key()


def test_a_jwt_svid_is_minted(cli, tmp_path: Path):
    ran = cli("jwt", "mint", "-spiffeID", W, "-audience", "a", "-audience", "b")
    assert ran.masked == Ran(0, "<jwt>\n")
    token = parse_jwt_svid(ran.out.strip())
    assert (str(token.id), sorted(token.audience)) == (W, ["a", "b"])
    file = tmp_path / "token"
    written = cli("jwt", "mint", "-spiffeID", W, "-audience", "a", "-write", file)
    assert written == Ran(0, f"JWT-SVID written to {file}\n")
    assert str(parse_jwt_svid(file.read_text()).id) == W
    assert file.stat().st_mode & 0o777 == 0o600
    document = json.loads(cli("jwt", "mint", "-spiffeID", W, "-audience", "a", "-output", "json").out)
    assert document["svid"].keys() == {"expires_at", "hint", "id", "issued_at", "token"}


@pytest.mark.parametrize("kind", ["x509", "jwt"])
def test_who_asks_for_a_longer_life_than_the_authority_has_is_told(cli, kind):
    more = ["-audience", "a"] if kind == "jwt" else []
    ran = cli(kind, "mint", "-spiffeID", W, "-ttl", "100h", *more)
    assert ran.code == 0
    what = f"{kind.upper()}-SVID"
    assert ran.masked.err == f'{what} lifetime was capped shorter than specified ttl; expires "<rfc3339>"\n'


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["x509", "mint"], "spiffeID must be specified"),
        (["x509", "mint", "-spiffeID", "foo"], "'foo' is no SPIFFE ID: scheme is missing or invalid"),
        (["x509", "mint", "-spiffeID", W, "-dns", "ü"], "unable to generate CSR: "),
        (
            ["x509", "mint", "-spiffeID", W, "-dns", "a..b"],
            "unable to mint SVID: rpc error: code = InvalidArgument desc = ",
        ),
        (
            ["x509", "mint", "-spiffeID", "spiffe://other.test/w"],
            "unable to mint SVID: rpc error: code = InvalidArgument desc = CSR URI SAN is invalid: ",
        ),
        (
            ["x509", "mint", "-spiffeID", W, "-ttl", "876000h"],
            "invalid value for TTL: overflow converting int(3153600000) to int32",
        ),
        (
            ["x509", "mint", "-spiffeID", W, "-write", "/no/such"],
            "unable to write SVID: open /no/such/svid.pem: no such file or directory",
        ),
        (["jwt", "mint"], "spiffeID must be specified"),
        (["jwt", "mint", "-spiffeID", W], "at least one audience must be specified"),
        (["jwt", "mint", "-spiffeID", "foo", "-audience", "a"], "'foo' is no SPIFFE ID: scheme is missing or invalid"),
        (
            ["jwt", "mint", "-spiffeID", W, "-audience", "a", "-write", "/no/such/token"],
            "unable to write token: open /no/such/token: no such file or directory",
        ),
        (
            ["jwt", "mint", "-spiffeID", "spiffe://example.org/spire/x", "-audience", "a"],
            "unable to mint SVID: rpc error: code = InvalidArgument desc = ",
        ),
    ],
)
def test_what_cannot_be_minted_is_refused(cli, args, error):
    ran = cli(*args)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"Error: {error}")


# -- agent -------------------------------------------------------------------------------------------------


@pytest.fixture
def agent(process) -> str:
    """An agent that attested by join token."""

    async def join() -> str:
        async with process.node() as node, process.admin() as admin:
            return str((await attest(node, admin)).id)

    return asyncio.run(join())


def agent_text(agent: str, fourth: str = "Serial number     : <number>") -> str:
    return (
        f"SPIFFE ID         : {agent}\n"
        "Attestation type  : join_token\n"
        "Expiration time   : <time>\n"
        f"{fourth}\n"
        "Can re-attest     : false\n\n"
    )


def shown(ran: Ran, agent: str) -> Ran:
    """The output with the same marks; only this agent's ID is kept."""
    out = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} \S+", "<time>", ran.out)
    return Ran(ran.code, re.sub(r"(Serial number +: )\d+", r"\1<number>", out), ran.err)


def test_an_agent_is_listed_shown_banned_and_evicted(cli, agent):
    listed = shown(cli("agent", "list"), agent)
    assert listed.code == 0
    assert re.match(r"Found \d+ attested agents?:\n\n", listed.out)
    assert agent_text(agent) in listed.out
    found = "Found an attested agent given its SPIFFE ID\n\n"
    assert shown(cli("agent", "show", "-spiffeID", agent), agent) == Ran(0, found + agent_text(agent))
    assert cli("agent", "ban", "-spiffeID", agent) == Ran(0, "Agent banned successfully\n")
    banned = agent_text(agent, "Banned            : true")
    assert shown(cli("agent", "show", "-spiffeID", agent), agent) == Ran(0, found + banned)
    assert banned in shown(cli("agent", "list", "-banned", "true"), agent).out
    assert banned not in shown(cli("agent", "list", "-banned", "false"), agent).out
    assert cli("agent", "evict", "-spiffeID", agent) == Ran(0, "Agent evicted successfully\n")
    nobody = Ran(1, err="Error: rpc error: code = NotFound desc = agent not found\n")
    for command in ("show", "ban", "evict"):
        assert cli("agent", command, "-spiffeID", agent) == nobody


def test_json_of_agents(cli, agent):
    document = json.loads(cli("agent", "show", "-spiffeID", agent, "-output", "json").out)
    path = agent.removeprefix("spiffe://example.org")
    assert document["id"] == {"path": path, "trust_domain": "example.org"}
    assert (document["banned"], document["can_reattest"], document["attestation_type"]) == (False, False, "join_token")
    assert document["x509svid_expires_at"].isdigit()
    listed = json.loads(cli("agent", "list", "-output", "json").out)
    assert document in listed["agents"]
    assert listed["next_page_token"] == ""
    assert cli("agent", "ban", "-spiffeID", agent, "-output", "json") == Ran(0, "{}\n")


def test_agents_are_counted_and_found_by_what_they_are(cli, agent):
    assert re.fullmatch(r"\d+ attested agents?\n", cli("agent", "count").out)
    assert cli("agent", "count", "-output", "json").out.startswith('{"count":')
    assert agent in cli("agent", "list", "-attestationType", "join_token", "-canReattest", "false").out
    assert cli("agent", "list", "-attestationType", "x509pop") == Ran(0, "No attested agents found\n")
    assert cli("agent", "list", "-canReattest", "true") == Ran(0, "No attested agents found\n")
    assert cli("agent", "list", "-selector", "a:b") == Ran(0, "No attested agents found\n")
    assert cli("agent", "list", "-expiresBefore", "2020-01-02 15:04:05 +0000 +00").out == "No attested agents found\n"
    assert agent in cli("agent", "list", "-expiresBefore", "2099-01-02 15:04:05 -0700 -07").out
    assert cli("agent", "count", "-attestationType", "x509pop") == Ran(0, "0 attested agents\n")


def test_only_agents_that_can_attest_again_are_purged(cli, agent):
    assert cli("agent", "purge", "-expiredFor", "-1000h") == Ran(0, "No agents to purge.\n")
    assert cli("agent", "purge", "-dryRun", "-output", "json") == Ran(0, '{"expired_agents":[]}\n')
    assert cli("agent", "show", "-spiffeID", agent).code == 0


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["show"], "a SPIFFE ID is required"),
        (["ban"], "a SPIFFE ID is required"),
        (["evict"], "a SPIFFE ID is required"),
        (["ban", "-spiffeID", "foo"], "'foo' is no SPIFFE ID: scheme is missing or invalid"),
        (
            ["ban", "-spiffeID", "spiffe://other.test/spire/agent/x"],
            'rpc error: code = InvalidArgument desc = invalid agent ID: "spiffe://other.test/spire/agent/x" is not a '
            'member of trust domain "example.org"',
        ),
        (["list", "-selector", "a"], 'error parsing selector "a": selector "a" must be formatted as type:value'),
        (["list", "-selector", "a:b", "-matchSelectorsOn", "x"], "unsupported match behavior"),
        (
            ["list", "-expiresBefore", "2026-01-02 15:04:05 +0000 UTC"],
            'date is not valid: parsing time "2026-01-02 15:04:05 +0000 UTC" as "2006-01-02 15:04:05 -0700 -07"',
        ),
        (
            ["count", "-expiresBefore", "2026-02-30 15:04:05 +0000 +00"],
            'date is not valid: parsing time "2026-02-30 15:04:05 +0000 +00" as "2006-01-02 15:04:05 -0700 -07"',
        ),
    ],
)
def test_a_wrong_agent_command_is_refused(cli, args, error):
    assert cli("agent", *args) == Ran(1, err=f"Error: {error}\n")


# -- where the server is -----------------------------------------------------------------------------------


def test_the_socket_is_found_by_flag_instance_or_environment(process, monkeypatch):
    cli = server_cli()
    template = str(process.socket_path).replace(process.folder.name, "%i")
    monkeypatch.setenv("SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE", template)
    assert cli("healthcheck", "-instance", process.folder.name).code == 0
    assert cli("healthcheck", "-instance", "other").code == 1
    monkeypatch.setenv("SPIRE_SERVER_PRIVATE_SOCKET", str(process.socket_path))
    assert cli("healthcheck").code == 0
    monkeypatch.setenv("SPIRE_SERVER_PRIVATE_SOCKET", "/no/such.sock")
    assert cli("healthcheck").code == 1
    assert cli("healthcheck", "-socketPath", process.socket_path).code == 0
    monkeypatch.delenv("SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE")
    missing = "Error: you must define SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE to use the instance flag\n"
    assert cli("healthcheck", "-instance", "a") == Ran(1, err=missing)
