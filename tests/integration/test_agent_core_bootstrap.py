"""How an agent comes by its first trust and its first SVID, at a real server and with a clock in hand."""

import asyncio
import contextlib
import http.server
import socketserver
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.bootstrap import RebootstrapNeeded
from agent.parts import Parts
from agent.state import BootstrapUse, StateFile
from spiffe_core.bundle import Bundle, X509Authority
from spiffe_core.errors import FailedPrecondition, InvalidBundle, InvalidInput, Unavailable
from spiffe_core.jwks import dump_spiffe_bundle
from spiffe_core.runtime.files import private_folder
from spiffe_core.runtime.levels import Level, LevelSwitch
from spiffe_core.runtime.reach import UntrustedServer
from tests.support.agent_core import agent_core, core_config, join_token
from tests.support.houses import until
from tests.support.pki import Realm
from tests.support.servers import TD, serving

SERVER = 'ca_ttl = "240h"\nratelimit { attestation = false }'


@pytest.fixture
async def served():
    async with serving(SERVER) as made:
        yield made


def pem(bundle: Bundle) -> bytes:
    return b"".join(one.certificate.public_bytes(Encoding.PEM) for one in bundle.x509_authorities)


def stranger() -> Bundle:
    """A bundle that vouches for nobody here."""
    return Bundle(TD, (X509Authority(Realm().root.der),))


async def settings(served, text: str) -> str:
    return f'join_token = "{await join_token(served)}"\n{text}'


@contextlib.contextmanager
def web_server(path: Path, body: bytes, status: int = 200) -> Iterator[list[str]]:
    """A web server at a Unix socket; what it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self):
            return "a Unix socket"

        def log_message(self, *_args):
            """Nothing to say."""

    with socketserver.UnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


# -- where the first trust comes from --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pem", "spiffe"])
async def test_a_file_says_whom_to_trust(served, tmp_path, form):
    own = served.parts.trust.own
    file = tmp_path / "bundle"
    file.write_bytes(pem(own) if form == "pem" else dump_spiffe_bundle(own).encode())
    text = f'trust_bundle_path = "{file}"\ntrust_bundle_format = "{form}"'
    async with agent_core(served, tmp_path, await settings(served, text)) as core:
        assert core.cache.own.x509_authorities == own.x509_authorities
        assert core.cache.own.jwt_authorities == own.jwt_authorities, "the server gives the whole bundle"


async def test_a_web_server_at_a_socket_is_told_the_circumstances(served, tmp_path):
    path = tmp_path / "web.sock"
    with web_server(path, pem(served.parts.trust.own)) as asked:
        text = f'trust_bundle_url = "http://localhost/bundle?who=me"\ntrust_bundle_unix_socket = "{path}"'
        async with agent_core(served, tmp_path, await settings(served, text)):
            [url] = asked
    assert urlsplit(url).path == "/bundle"
    assert parse_qs(urlsplit(url).query) == {
        "who": ["me"],
        "spire-attest-mode": ["bootstrap"],
        "spire-connection-attempts": ["1"],
        "spire-attest-start-time": ["2030-01-01T00:00:00Z"],
        "spire-server-address": ["127.0.0.1"],
        "spire-server-port": [served.target.rpartition(":")[2]],
        "spiffe-trust-domain": ["example.org"],
    }


async def source_of(served, tmp_path, text):
    parts = await Parts.open(core_config(served, tmp_path, text), LevelSwitch(Level.INFO), served.clock)
    try:
        return await parts.bootstrap._configured_bundle()
    finally:
        await parts.close()


async def test_a_web_server_that_refuses_is_unavailable(served, tmp_path):
    path = tmp_path / "web.sock"
    with web_server(path, b"", status=503), pytest.raises(Unavailable, match="error downloading trust bundle: 503"):
        await source_of(served, tmp_path, f'trust_bundle_url = "http://x/"\ntrust_bundle_unix_socket = "{path}"')


async def test_a_web_server_that_is_not_there_is_unavailable(served, tmp_path):
    text = f'trust_bundle_url = "http://x/"\ntrust_bundle_unix_socket = "{tmp_path}/none"'
    with pytest.raises(Unavailable, match="unable to fetch trust bundle URL http://x/"):
        await source_of(served, tmp_path, text)


async def test_an_https_server_that_nobody_vouches_for_is_not_believed(served, tmp_path):
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await source_of(served, tmp_path, f'trust_bundle_url = "https://{served.target}/"')


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "could not parse trust bundle"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "could not parse trust bundle"),
        (b"x" * (4 * 1024 * 1024 + 1), "trust bundle is longer than"),
    ],
    ids=["empty", "no certificate", "too long"],
)
async def test_a_file_that_holds_no_bundle_is_refused(served, tmp_path, content, text):
    (tmp_path / "bundle").write_bytes(content)
    with pytest.raises(InvalidBundle, match=text):
        await source_of(served, tmp_path, f'trust_bundle_path = "{tmp_path}/bundle"')


async def test_a_bundle_document_without_authorities_is_refused(served, tmp_path):
    (tmp_path / "bundle").write_text('{"keys": []}')
    text = f'trust_bundle_path = "{tmp_path}/bundle"\ntrust_bundle_format = "spiffe"'
    with pytest.raises(InvalidBundle, match="no certificates found in trust bundle"):
        await source_of(served, tmp_path, text)


async def test_a_file_that_is_not_there_may_still_come(served, tmp_path):
    with pytest.raises(Unavailable, match=r"could not parse trust bundle: .*no such file"):
        await source_of(served, tmp_path, f'trust_bundle_path = "{tmp_path}/bundle"')


async def test_another_agents_workload_api_says_whom_to_trust(served):
    with private_folder() as first_folder, private_folder() as second_folder:
        text = f'join_token = "{await join_token(served, "first")}"\nallow_unauthenticated_verifiers = true'
        async with agent_core(served, first_folder, text) as first:
            await first.working.sync.sync()
            await first.working.endpoints.start()
            text = f'join_token = "{await join_token(served, "second")}"\n'
            text += f'trust_bundle_spiffe_workload_api = "unix://{first_folder}/public/api.sock"'
            async with agent_core(served, second_folder, text) as second:
                assert second.cache.own.x509_authorities == first.cache.own.x509_authorities


async def test_a_workload_api_that_is_not_there_is_unavailable(served, tmp_path):
    text = f'trust_bundle_spiffe_workload_api = "unix://{tmp_path}/none"'
    with pytest.raises(Unavailable, match="unable to fetch trust bundle from SPIFFE Workload API"):
        await source_of(served, tmp_path, text)


# -- trying, and giving up -------------------------------------------------------------------------------------


async def attempts(served, folder, text) -> tuple[Parts, "asyncio.Task[object]"]:
    parts = await Parts.open(core_config(served, folder, text), LevelSwitch(Level.INFO), served.clock)
    return parts, asyncio.ensure_future(parts.bootstrap.run())


async def until_done(served, running, step: float = 1.0) -> None:
    """Let time pass until the task has ended."""
    for _ in range(100_000):
        if running.done():
            return
        await asyncio.sleep(0.005)
        if served.clock._sleepers:
            served.clock.advance(step)
    raise AssertionError("it never ended")


async def test_an_agent_gives_up_after_about_a_minute(served, tmp_path):
    parts, running = await attempts(served, tmp_path, 'join_token = "unknown"')
    try:
        await until_done(served, running)
        with pytest.raises(InvalidInput, match="join token does not exist or has already been used"):
            await running
    finally:
        await parts.close()
    assert 30 < served.clock.monotonic() <= 61, "pauses grow from 5 s, a tenth more or less"
    assert StateFile(tmp_path).state.connection_attempts >= 4
    assert len(StateFile(tmp_path).state.key_ids) == 1, "one key serves all attempts"


async def test_an_attempt_that_succeeds_ends_the_waiting(served, tmp_path):
    bundle = tmp_path / "bundle"
    text = await settings(served, f'trust_bundle_path = "{bundle}"')
    parts, running = await attempts(served, tmp_path, text)
    try:
        await until(lambda: bool(served.clock._sleepers))
        bundle.write_bytes(pem(served.parts.trust.own))
        await until_done(served, running)
        await running
    finally:
        await parts.close()
    state = StateFile(tmp_path).state
    assert state.svid
    assert (state.bootstrap_use, state.bootstrap_started_at, state.connection_attempts) == (2, None, 0)


async def test_a_bundle_that_does_not_vouch_for_the_server_wastes_no_token(served, tmp_path):
    bundle = tmp_path / "bundle"
    bundle.write_bytes(pem(stranger()))
    text = await settings(served, f'trust_bundle_path = "{bundle}"')
    parts, running = await attempts(served, tmp_path, text)
    try:
        await until_done(served, running)
        with pytest.raises(UntrustedServer, match=r"does not chain to an X\.509 authority"):
            await running
    finally:
        await parts.close()
    bundle.write_bytes(pem(served.parts.trust.own))
    async with agent_core(served, tmp_path, text) as core:
        await core.working.sync.sync()


async def test_an_svid_without_a_bundle_is_kept_and_the_bundle_fetched(served, tmp_path):
    async with agent_core(served, tmp_path, await settings(served, "")) as core:
        svid = core.state.state.svid
        await core.state.change(bundle=())
    async with agent_core(served, tmp_path) as again:
        assert again.state.state.svid == svid
        assert again.state.state.bundle


# -- beginning anew --------------------------------------------------------------------------------------------


def mistrusted(core) -> None:
    """Make the agent believe in an authority that the server does not have."""
    core.cache.update(own=stranger())


async def test_a_server_that_is_no_longer_trusted_ends_the_agent(served, tmp_path):
    async with agent_core(served, tmp_path, await settings(served, "")) as core:
        mistrusted(core)
        with pytest.raises(UntrustedServer, match="failed to sync with SPIRE Server"):
            await core.working.sync.attempt()
        assert core.state.state.svid, "that may be an impostor"


async def test_with_rebootstrap_mode_it_waits_and_then_begins_anew(served, tmp_path):
    bundle = tmp_path / "bundle"
    bundle.write_bytes(pem(served.parts.trust.own))
    text = f'trust_bundle_path = "{bundle}"\nrebootstrap_mode = "auto"\nrebootstrap_delay = "10m"'
    async with agent_core(served, tmp_path, await settings(served, text)) as core:
        core.parts.bootstrap.mode = core.parts.bootstrap._config.rebootstrap_mode  # as if it could attest again
        mistrusted(core)
        await core.working.sync.attempt()
        assert core.state.state.bootstrap_started_at == core.clock.now()
        core.clock.advance(timedelta(minutes=9).total_seconds())
        await core.working.sync.attempt()
        assert core.state.state.svid
        core.clock.advance(timedelta(minutes=2).total_seconds())
        with pytest.raises(RebootstrapNeeded, match="shutting down for rebootstrapping"):
            await core.working.sync.attempt()
        assert (core.state.state.svid, core.state.state.bundle) == ((), ())
        assert core.state.state.bootstrap_use is BootstrapUse.REBOOTSTRAP


async def test_trust_that_comes_back_ends_the_waiting(served, tmp_path):
    bundle = tmp_path / "bundle"
    own = served.parts.trust.own
    bundle.write_bytes(pem(own))
    text = f'trust_bundle_path = "{bundle}"\nrebootstrap_mode = "auto"'
    async with agent_core(served, tmp_path, await settings(served, text)) as core:
        core.parts.bootstrap.mode = core.parts.bootstrap._config.rebootstrap_mode
        mistrusted(core)
        await core.working.sync.attempt()
        core.cache.update(own=own)
        await core.working.sync.attempt()
        assert core.state.state.bootstrap_started_at is None


async def test_an_agent_that_cannot_attest_again_does_not_begin_anew(served, tmp_path):
    bundle = tmp_path / "bundle"
    bundle.write_bytes(pem(served.parts.trust.own))
    text = f'trust_bundle_path = "{bundle}"\nrebootstrap_mode = "auto"'
    async with agent_core(served, tmp_path, await settings(served, text)) as core:
        assert core.parts.bootstrap.mode == "never"


async def test_and_is_refused_where_that_is_always_wanted(served, tmp_path):
    bundle = tmp_path / "bundle"
    bundle.write_bytes(pem(served.parts.trust.own))
    text = f'trust_bundle_path = "{bundle}"\nrebootstrap_mode = "always"'
    with pytest.raises(FailedPrecondition, match="you have requested rebootstrap support"):
        async with agent_core(served, tmp_path, await settings(served, text)):
            pass
