"""``steeple-agent``'s commands at a served agent: what a workload and an administrator see, and exit codes."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from structlog.testing import capture_logs

from spiffe_core.errors import Unavailable
from spiffe_core.ids import TrustDomain
from spiffe_core.runtime.cli.pem import pem
from tests.support import pki
from tests.support.cli_runs import Ran, agent_cli
from tests.support.fake_identities import Domain, FakeIdentities
from tests.support.workloads import ME, Served, serving

PARTNER = Domain(pki.Realm("partner.test"))
FRIEND = Domain(pki.Realm("friend.test"))
HEADER = "Received {} after <while>\n\n"
SVID = "SPIFFE ID:\t\tspiffe://example.org/{}\n"
VALIDITY = "{0} Valid After:\t<time>\n{0} Valid Until:\t<time>\n"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep the log of the agent, which lives in this process, apart from what commands print."""
    with capture_logs():
        yield


def identities() -> FakeIdentities:
    """Two SVIDs, of which one has an intermediate, a hint and two federated domains."""
    found = FakeIdentities(Domain(pki.Realm().with_intermediate()))
    found.federated = {one.trust_domain: one.bundle for one in (PARTNER, FRIEND)}
    domains = (TrustDomain("partner.test"), TrustDomain("friend.test"))
    found.add("/one", ME, hint="internal", federates_with=domains)
    found.add("/two", ME)
    return found


async def ask(served: Served, *args: object) -> Ran:
    """Run a command at the Workload API's socket."""
    return await asyncio.to_thread(agent_cli("-socketPath", served.socket), *args)


async def manage(served: Served, *args: object) -> Ran:
    """Run a command at the admin socket."""
    return await asyncio.to_thread(agent_cli("-socketPath", served.admin_socket), *args)


def described(name: str, hint: str = "") -> str:
    """How one of the two SVIDs is printed."""
    rest = "".join(map(VALIDITY.format, ("SVID", "Intermediate #1", "CA #1")))
    rest += "".join(map(VALIDITY.format, ("[spiffe://friend.test] CA #1", "[spiffe://partner.test] CA #1")))
    return SVID.format(name) + (f"Hint:\t\t\t{hint}\n" if hint else "") + rest


@pytest.mark.parametrize("command", [["api", "fetch"], ["api", "fetch", "x509"]], ids=["short", "long"])
async def test_x509_svids_are_fetched_verified_and_printed(command):
    async with serving(identities()) as served:
        ran = await ask(served, *command)
    both = "\n".join((described("one", "internal"), described("two")))
    assert ran.masked == Ran(0, HEADER.format("2 svids") + both + "\n")


async def test_one_svid_is_no_plural():
    found = FakeIdentities()
    found.add("/one", ME)
    async with serving(found) as served:
        ran = await ask(served, "api", "fetch")
    own = SVID.format("one") + VALIDITY.format("SVID") + VALIDITY.format("CA #1")
    assert ran.masked == Ran(0, HEADER.format("1 svid") + own + "\n")


async def test_fetched_svids_are_written_to_files(tmp_path: Path):
    found = identities()
    async with serving(found) as served:
        ran = await ask(served, "api", "fetch", "x509", "-silent", "-write", tmp_path)
        other = await ask(served, "api", "fetch", "-write", tmp_path / "no")
    lines = []
    for number in (0, 1):
        lines += [
            f"Writing SVID #{number} to file {tmp_path}/svid.{number}.pem.",
            f"Writing key #{number} to file {tmp_path}/svid.{number}.key.",
            f"Writing bundle #{number} to file {tmp_path}/bundle.{number}.pem.",
        ]
        lines += [
            f"Writing federated bundle #{index} for trust domain spiffe://{name}.test to file "
            f"{tmp_path}/federated_bundle.{number}.{index}.pem."
            for index, name in enumerate(("friend", "partner"))
        ]
    assert ran == Ran(0, "".join(f"{line}\n" for line in lines))
    chain = x509.load_pem_x509_certificates((tmp_path / "svid.0.pem").read_bytes())
    key = load_pem_private_key((tmp_path / "svid.0.key").read_bytes(), None)
    assert len(chain) == 2
    assert key.public_key() == chain[0].public_key()
    assert (tmp_path / "svid.0.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "bundle.1.pem").read_text() == pem("CERTIFICATE", [found.domain.realm.root.der])
    assert (tmp_path / "federated_bundle.1.1.pem").read_text() == pem("CERTIFICATE", [PARTNER.realm.root.der])
    assert (other.code, other.err) == (1, f"open {tmp_path}/no/svid.0.pem: no such file or directory\n")


async def test_json_has_the_whole_answer():
    found = identities()
    async with serving(found) as served:
        ran = await ask(served, "api", "fetch", "-output", "json")
    document = json.loads(ran.out)
    assert document.keys() == {"crl", "federated_bundles", "svids"}
    assert document["federated_bundles"].keys() == {"spiffe://friend.test", "spiffe://partner.test"}
    assert document["svids"][0].keys() == {"bundle", "hint", "spiffe_id", "x509_svid", "x509_svid_key"}
    assert ran.out.count("\n") == 1


async def test_a_token_is_fetched_printed_and_validated():
    found = identities()
    async with serving(found) as served:
        one = await ask(served, "api", "fetch", "jwt", "-audience", "a,b", "-spiffeID", "spiffe://example.org/two")
        all_ = await ask(served, "api", "fetch", "jwt", "-audience", "a,b")
        documents = await ask(served, "api", "fetch", "jwt", "-audience", "a", "-output", "json")
        former = await ask(served, "api", "fetch", "jwt", "-audience", "a", "-format", "json")
        token = one.out.splitlines()[1].strip()
        valid = await ask(served, "api", "validate", "jwt", "-audience", "a", "-svid", token)
        plain = await ask(served, "api", "validate", "jwt", "-audience", "a", "-svid", token, "-output", "json")
        other = await ask(served, "api", "validate", "jwt", "-audience", "c", "-svid", token)
    first, _, rest = one.masked.out.partition("bundle(spiffe://example.org):\n\t{")
    assert (one.code, first) == (0, "token(spiffe://example.org/two):\n\t<jwt>\n")
    assert re.findall(r"^bundle\((.*)\):$", rest, re.MULTILINE) == ["spiffe://friend.test", "spiffe://partner.test"]
    both = "token(spiffe://example.org/one):\n\t<jwt>\nhint(spiffe://example.org/one):\n\tinternal\n"
    assert all_.masked.out.startswith(both + first)
    assert documents == former
    svids, bundles = json.loads(documents.out)
    assert svids["svids"][1].keys() == {"hint", "spiffe_id", "svid"}
    assert bundles["bundles"].keys() == {f"spiffe://{name}" for name in ("example.org", "friend.test", "partner.test")}
    claims = json.loads(valid.out.splitlines()[2].removeprefix("Claims    : "))
    assert valid.out.startswith("SVID is valid.\nSPIFFE ID : spiffe://example.org/two\nClaims    : {")
    assert (claims["aud"], claims["exp"] - claims["iat"]) == (["a", "b"], 300)
    assert json.loads(plain.out) == {"claims": claims, "spiffe_id": "spiffe://example.org/two"}
    assert (other.code, other.out) == (1, "")
    assert other.err.startswith("SVID is not valid: ")
    assert "audience" in other.err


DENIED = "rpc error: code = PermissionDenied desc = no identity issued\n"


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["api", "fetch"], DENIED),
        (["api", "fetch", "x509", "-output", "json"], DENIED),
        (["api", "fetch", "jwt", "-audience", "a"], DENIED),
        (["api", "fetch", "jwt"], "audience must be specified\n"),
        (["api", "validate", "jwt"], "audience must be specified\n"),
        (["api", "validate", "jwt", "-audience", "a"], "svid must be specified\n"),
    ],
    ids=["x509", "json", "jwt", "no audience", "no audience to validate", "no svid"],
)
async def test_who_has_no_identity_or_asks_wrongly_is_refused_without_a_word_before(args, error):
    async with serving(FakeIdentities()) as served:
        assert await ask(served, *args) == Ran(1, err=error)


async def test_a_token_that_cannot_be_had_is_told_with_the_agents_reason():
    found = identities()
    found.refuses_tokens = Unavailable("the server is away")
    async with serving(found) as served:
        ran = await ask(served, "api", "fetch", "jwt", "-audience", "a")
        foreign = await ask(served, "api", "fetch", "jwt", "-audience", "a", "-spiffeID", "foo")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("rpc error: code = Unavailable desc = ")
    assert "the server is away" in ran.err
    assert foreign.err.startswith("rpc error: code = InvalidArgument desc = ")


async def test_an_answer_that_does_not_come_is_not_waited_for_for_ever():
    found = identities()
    found.ready = False
    async with serving(found) as served:
        ran = await ask(served, "api", "fetch", "-timeout", "200ms")
    assert ran == Ran(1, err="rpc error: code = DeadlineExceeded desc = context deadline exceeded\n")


async def test_an_svid_that_its_own_bundle_does_not_vouch_for_is_refused(tmp_path: Path):
    found = identities()
    found.own = Domain().bundle
    async with serving(found) as served:
        ran = await ask(served, "api", "fetch", "-write", tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith('"spiffe://example.org/one" SVID failed verification against bundle: ')


def test_an_agent_that_is_not_there_is_told_with_its_socket():
    cli = agent_cli("-socketPath", "/no/such.sock")
    error = (
        'rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing: '
        'dial unix /no/such.sock: connect: no such file or directory"\n'
    )
    for args in (["api", "fetch"], ["api", "fetch", "jwt", "-audience", "a"]):
        assert cli(*args) == Ran(1, err=error)
    unhealthy = "Agent is unhealthy: unable to determine health\n"
    assert cli("healthcheck") == Ran(1, err=unhealthy)
    verbose = Ran(1, "Checking agent health...\n", f"Failed to check health: {error}{unhealthy}")
    assert cli("healthcheck", "-verbose") == verbose
    assert cli("logger", "get") == Ran(1, err=f"Error: error fetching logger: {error}")
    assert cli("debug", "getinfo") == Ran(1, err=f"Error: {error}")


async def test_an_agent_that_serves_is_healthy():
    async with serving(identities()) as served:
        assert await ask(served, "healthcheck") == Ran(0, "Agent is healthy.\n")
        assert await ask(served, "healthcheck", "-verbose") == Ran(0, "Checking agent health...\nAgent is healthy.\n")


async def test_the_socket_is_found_by_flag_instance_or_environment(monkeypatch):
    cli = agent_cli()
    missing = "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE environment variable must be defined when using the instance flag\n"
    assert cli("api", "fetch", "-instance", "a") == Ran(1, err=missing)
    async with serving(identities()) as served:
        monkeypatch.setenv("SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE", str(served.socket).replace("public", "%i"))
        assert (await asyncio.to_thread(cli, "api", "fetch", "-instance", "public")).code == 0
        monkeypatch.setenv("SPIRE_AGENT_PUBLIC_SOCKET", str(served.socket))
        assert (await asyncio.to_thread(cli, "healthcheck")).code == 0


# -- the admin socket --------------------------------------------------------------------------------------


async def test_the_agent_tells_what_it_knows_of_itself():
    async with serving(identities()) as served:
        ran = await manage(served, "debug", "getinfo")
        document = json.loads((await manage(served, "debug", "getinfo", "-output", "json")).out)
    chain = "".join(
        f"    [{number}] SPIFFE ID:  {name}\n        Subject:    {subject}\n        Expires At: <rfc3339>\n"
        for number, (name, subject) in enumerate(
            [
                ("spiffe://example.org/spire/agent/join_token/1", "CN=leaf"),
                ("spiffe://example.org", "CN=Intermediate"),
                ("spiffe://example.org", "CN=Authority"),
            ]
        )
    )
    assert ran.masked == Ran(
        0,
        "Agent Debug Info:\n"
        "  Uptime:                          1m1s\n"
        "  Last Sync Success:               <rfc3339>\n"
        "  Cached X.509 SVIDs:              2\n"
        "  Cached JWT SVIDs:                3\n"
        "  Cached SVID Store X.509 SVIDs:   0\n"
        "  SVID Chain:\n" + chain,
    )
    assert "Last Sync Success:               2030-01-01T00:00:00Z\n" in ran.out
    assert (document["uptime"], document["last_sync_success"]) == (61, "1893456000")


async def test_the_level_of_the_log_is_set_and_set_back():
    async with serving(identities()) as served:
        told = "Logger Level : {}\nLaunch Level : info\n\n"
        assert await manage(served, "logger", "get") == Ran(0, told.format("info"))
        assert await manage(served, "logger", "set", "-level", "WARNING") == Ran(0, told.format("warning"))
        document = '{"current_level":"INFO","launch_level":"INFO"}\n'
        assert await manage(served, "logger", "reset", "-output", "json") == Ran(0, document)
        wrong = await manage(served, "logger", "set", "-level", "loud")
        assert wrong == Ran(1, err='Error: the value "loud" is not a valid setting\n')


async def test_a_workload_is_served_no_admin_api():
    async with serving(identities()) as served:
        ran = await ask(served, "logger", "get")
        other = await ask(served, "debug", "getinfo")
    assert ran.err.startswith("Error: error fetching logger: rpc error: code = Unimplemented desc = ")
    assert other.err.startswith("Error: rpc error: code = Unimplemented desc = ")


# -- watch -------------------------------------------------------------------------------------------------


async def test_a_watch_prints_each_update_and_ends_when_interrupted():
    found = FakeIdentities()
    entry = found.add("/one", ME)
    async with serving(found) as served:
        # Programs that are started in the background inherit that interrupts are ignored, and these tests may be.
        command = ["env", "--default-signal=INT", sys.executable, "-m", "agent.cli.main"]
        command += ["api", "watch", "-socketPath", str(served.socket)]
        watch = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert watch.stdout is not None
        try:
            async with asyncio.timeout(60):
                before = await watch.stdout.readuntil(b"CA #1 Valid Until")
                await found.rotate(entry)
                after = await watch.stdout.readuntil(b"CA #1 Valid Until")
                watch.send_signal(signal.SIGINT)
                code = await watch.wait()
        finally:
            if watch.returncode is None:
                watch.kill()
                await watch.wait()
    assert before.startswith(b"Received 1 svid after ")
    assert b"Received 1 svid after " in after
    assert code == 130


async def test_a_watch_goes_on_when_the_agent_is_away(tmp_path: Path):
    command = [sys.executable, "-m", "agent.cli.main", "api", "watch", "-socketPath", tmp_path / "no.sock"]
    watch = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert watch.stderr is not None
    try:
        async with asyncio.timeout(60):
            lines = [await watch.stderr.readline() for _ in range(2)]
    finally:
        watch.kill()
        await watch.wait()
    assert lines[0] == lines[1]
    assert b"rpc error: code = Unavailable desc = connection error: " in lines[0]
