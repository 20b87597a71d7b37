"""What is only on the server's private socket: Debug, Logger and Health; and what the server tells of its calls."""

import asyncio
import json
import os
import re
import socket
import threading
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest
import structlog
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from prometheus_client import generate_latest

from server.api.entry import EntryService
from server.audit import AuditLog
from server.caller import Call, Role
from server.datastore.entries import Entries
from server.rate_limits import POST_STATUS
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.api.spire.api.server.debug.v1 import debug_pb2
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.server.logger.v1 import logger_pb2
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.api.spire.api.types import logger_pb2 as level_pb2
from spiffe_core.bundle import Bundle
from spiffe_core.errors import InvalidConfig
from spiffe_core.ids import TrustDomain
from spiffe_core.runtime.health import Health, HealthListener
from spiffe_core.runtime.levels import Level
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.peers import Peer, PeerKind
from spiffe_core.runtime.settings import HealthChecks
from tests.support.clock import FakeClock
from tests.support.registry import entry, spiffe_id
from tests.support.servers import PATIENCE, TD, Refusal, csr, method_of, pb_id, serving

PROGRAM: Final = Path("/proc/self/exe").readlink()
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def served():
    async with serving() as served:
        yield served


# -- debug -----------------------------------------------------------------------------------------------------


async def test_debug_counts_what_there_is_and_shows_the_servers_chain(served):
    served.attested()
    served.register(entry("/a"), entry("/b"))
    served.datastore.bundles.create(Bundle(TrustDomain("other.test")))
    info = await served.local.call(debug_pb2, "GetInfo")
    assert (info.agents_count, info.entries_count) == (1, 2)
    assert info.federated_bundles_count == 2  # with the server's own, as SPIRE counts
    assert info.uptime >= 0
    leaf, authority = info.svid_chain
    assert leaf.id == pb_id("/spire/server")
    assert leaf.expires_at == int(served.parts.svid.current().chain[0].not_valid_after_utc.timestamp())
    assert authority.id == pb_id("")
    assert re.fullmatch(r"SERIALNUMBER=\d+,O=SPIFFE,C=US", authority.subject)


async def test_debug_answers_the_same_for_five_seconds(served):
    before = await served.local.call(debug_pb2, "GetInfo")
    served.register(entry("/a"))
    served.clock.advance(4.9)
    assert await served.local.call(debug_pb2, "GetInfo") == before
    served.clock.advance(0.1)
    assert (await served.local.call(debug_pb2, "GetInfo")).entries_count == 1


# -- logger ----------------------------------------------------------------------------------------------------


async def test_the_log_level_is_set_and_reset(served):
    shown = await served.local.call(logger_pb2, "GetLogger")
    assert (shown.current_level, shown.launch_level) == (level_pb2.INFO, level_pb2.INFO)
    shown = await served.local.call(logger_pb2, "SetLogLevel", new_level=level_pb2.DEBUG)
    assert (shown.current_level, shown.launch_level) == (level_pb2.DEBUG, level_pb2.INFO)
    assert served.shared.level.current is Level.DEBUG
    shown = await served.local.call(logger_pb2, "ResetLogLevel")
    assert shown.current_level == level_pb2.INFO
    assert served.shared.level.current is Level.INFO


@pytest.mark.parametrize(
    ("level", "text"),
    [(0, "newLevel value cannot be LogLevel_UNSPECIFIED"), (99, "unsupported log level")],
    ids=["unspecified", "unknown"],
)
async def test_a_level_that_is_none_is_refused(served, level, text):
    refusal = await served.local.refusal(logger_pb2, "SetLogLevel", new_level=level)
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, text)


# -- health ----------------------------------------------------------------------------------------------------


async def test_a_server_is_healthy_once_its_checks_have_passed(served):
    assert (await served.local.call(health_pb2, "Check")).status == NOT_SERVING
    await served.parts.health.check()
    assert (await served.local.call(health_pb2, "Check")).status == SERVING


async def test_a_server_without_an_authority_is_not_healthy():
    async with serving(ready=False) as served:
        await served.parts.health.check()
        assert (await served.local.call(health_pb2, "Check")).status == NOT_SERVING
        assert set(served.parts.health.failures) == {"server.ca"}


async def test_a_server_whose_authorities_have_expired_is_not_healthy(served):
    served.clock.advance(24 * 3600)
    await served.parts.health.check()
    assert served.parts.health.failures == {"server.ca": "the X.509 authority has expired"}


async def test_a_server_whose_database_is_gone_is_not_healthy(served):
    await served.parts.health.check()
    served.datastore.close()
    for file in served.config.data_dir.glob("db.sqlite3*"):
        file.unlink()
    (served.config.data_dir / "db.sqlite3").mkdir()
    await served.parts.health.check()
    assert set(served.parts.health.failures) == {"catalog.datastore"}


async def test_a_server_that_stopped_checking_is_not_healthy(served):
    await served.parts.health.check()
    served.clock.advance(31)
    assert (await served.local.call(health_pb2, "Check")).status == NOT_SERVING


async def test_a_watcher_is_told_when_health_changes(served):
    watch = served.local._channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest(), timeout=20)
    assert (await watch.read()).status == NOT_SERVING
    await served.parts.health.check()
    told = asyncio.ensure_future(watch.read())
    while not told.done():
        served.clock.advance(1)
        await asyncio.sleep(0.01)
    assert told.result().status == SERVING
    watch.cancel()


async def test_the_health_of_a_single_service_is_not_known(served):
    refusal = await served.local.refusal(health_pb2, "Check", service="spire.api.server.entry.v1.Entry")
    assert refusal == Refusal(StatusCode.NOT_FOUND, "unknown service")


def _free_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return listener.getsockname()[1]


@contextmanager
def listening(health):
    """The HTTP listener of a health, and how it answers."""
    config = HealthChecks(listener_enabled=True, bind_address="127.0.0.1", bind_port=_free_port())
    with closing(HealthListener(config, health)) as listener:
        yield lambda path: _get(f"http://127.0.0.1:{listener.port}{path}")


def _get(url):
    try:
        with closing(urllib.request.urlopen(url, timeout=10)) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as exc:
        with closing(exc):
            body = exc.read()
            return exc.code, json.loads(body) if exc.headers.get_content_type() == "application/json" else None


async def test_health_is_told_over_http(served):
    with listening(served.parts.health) as get:
        assert (await asyncio.to_thread(get, "/live"))[0] == 200
        code, report = await asyncio.to_thread(get, "/ready")
        assert code == 500
        assert report["server.ca"] == {"err": "not checked yet"}
        await served.parts.health.check()
        assert await asyncio.to_thread(get, "/ready?x") == (
            200,
            {"catalog.datastore": {}, "server.ca": {}, "key_manager": {}},
        )
        assert await asyncio.to_thread(get, "/other") == (404, None)
        served.clock.advance(31)
        assert (await asyncio.to_thread(get, "/live"))[0] == 500


def test_a_health_port_that_is_taken_is_an_error_that_names_it():
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        config = HealthChecks(listener_enabled=True, bind_address="127.0.0.1", bind_port=port)
        with pytest.raises(InvalidConfig, match=rf"^health_checks: cannot listen on 127\.0\.0\.1:{port}: "):
            HealthListener(config, Health({}, FakeClock()))


# -- metrics ---------------------------------------------------------------------------------------------------


def exposed(served):
    return generate_latest(served.parts.metrics._registry).decode().splitlines()


async def test_calls_are_counted_by_method_and_outcome(served):
    for _ in range(3):
        await served.local.call(bundle_pb2, "GetBundle")
    await served.local.refusal(entry_pb2, "GetEntry", id="unknown")
    await (await served.remote()).refusal(entry_pb2, "CountEntries")
    lines = exposed(served)
    bundle, entries = "/spire.api.server.bundle.v1.Bundle", "/spire.api.server.entry.v1.Entry"
    for method, status, count in [
        (f"{bundle}/GetBundle", "OK", 3.0),
        (f"{entries}/GetEntry", "NotFound", 1.0),
        (f"{entries}/CountEntries", "PermissionDenied", 1.0),
    ]:
        assert f'spire_server_rpc_total{{method="{method}",status="{status}"}} {count}' in lines
    assert f'spire_server_rpc_seconds_count{{method="{bundle}/GetBundle"}} 3.0' in lines


async def test_the_prefix_of_metrics_is_configured():
    async with serving(rest='telemetry { MetricPrefix = "ours" }') as served:
        await served.local.call(bundle_pb2, "GetBundle")
        assert any(line.startswith("ours_rpc_total{") for line in exposed(served))


def test_a_metrics_port_that_is_taken_is_an_error_that_names_it():
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidConfig, match=rf"^telemetry\.Prometheus: cannot listen on 127\.0\.0\.1:{port}: "):
            Metrics("x").serve("127.0.0.1", port)


# -- audit log -------------------------------------------------------------------------------------------------


@pytest.fixture
async def audited():
    async with serving('audit_log_enabled = true admin_ids = ["spiffe://example.org/admin"]') as served:
        yield served


@contextmanager
def audit_lines():
    """The lines that the block makes the audit log write."""
    found = []
    with structlog.testing.capture_logs() as lines:
        yield found
    found += [line for line in lines if line["event"] == "API accessed"]


def of(line, *names):
    return [line.get(name) for name in names]


async def test_a_local_call_is_audited_with_the_process_that_made_it(audited):
    with audit_lines() as lines:
        await audited.local.call(entry_pb2, "CountEntries", filter={"by_spiffe_id": pb_id("/a")})
    [line] = lines
    assert of(line, "type", "status", "service", "method") == ["audit", "success", "entry.v1.Entry", "CountEntries"]
    assert of(line, "authorized_as", "authorized_via") == ["local", "transport"]
    assert of(line, "caller_uid", "caller_gid") == [os.getuid(), os.getgid()]
    assert line["caller_path"] == str(PROGRAM)
    assert line["by_spiffe_id"] == "spiffe://example.org/a"
    assert re.fullmatch(r"[0-9a-f-]{36}", line["request_id"])
    assert "caller_addr" not in line


async def test_a_remote_call_is_audited_with_its_id_and_address(audited):
    client = await audited.remote(audited.issue("/admin"))
    with audit_lines() as lines:
        await client.call(bundle_pb2, "CountBundles")
    [line] = lines
    assert of(line, "authorized_as", "authorized_via") == ["admin", "config"]
    assert line["caller_id"] == "spiffe://example.org/admin"
    assert re.fullmatch(r"127\.0\.0\.1:\d+", line["caller_addr"])


async def test_services_have_spires_names_and_probes_of_health_leave_no_line(audited):
    with audit_lines() as lines:
        await audited.local.call(health_pb2, "Check")
        await audited.local.refusal(health_pb2, "Check", service="unknown")
        await audited.local.call(logger_pb2, "GetLogger")
        await audited.local.call(bundle_pb2, "GetBundle")
        await audited.local.call(debug_pb2, "GetInfo")
    assert [line["service"] for line in lines] == ["Logger", "bundle.v1.Bundle", "debug.v1.Debug"]


async def test_each_item_of_a_batch_is_audited(audited):
    request = [
        {"spiffe_id": pb_id("/a"), "parent_id": pb_id("/p"), "selectors": [{"type": "a", "value": "b"}]},
        {"spiffe_id": pb_id("/spire/a"), "parent_id": pb_id("/p")},
    ]
    with audit_lines() as lines:
        results = (await audited.local.call(entry_pb2, "BatchCreateEntry", entries=request)).results
    made, refused = lines
    assert of(made, "status", "registration_id") == ["success", results[0].entry.id]
    assert of(made, "spiffe_id", "parent_id", "selectors", "revision_number") == [
        "spiffe://example.org/a",
        "spiffe://example.org/p",
        "a:b",
        0,
    ]
    assert of(refused, "status", "status_code") == ["error", "InvalidArgument"]
    assert refused["status_message"] == results[1].status.message
    with audit_lines() as lines:
        await audited.local.call(entry_pb2, "BatchDeleteEntry", ids=[results[0].entry.id, "unknown"])
    assert [line["registration_id"] for line in lines] == [results[0].entry.id, "unknown"]


async def test_a_refused_call_is_audited_with_its_code_and_text(audited):
    with audit_lines() as lines:
        await audited.local.refusal(entry_pb2, "GetEntry", id="unknown")
    [line] = lines
    assert of(line, "status", "status_code", "status_message") == ["error", "NotFound", "entry not found"]
    assert line["registration_id"] == "unknown"


async def test_the_audit_log_holds_no_token_and_no_csr(audited):
    with structlog.testing.capture_logs() as lines:
        await audited.local.call(agent_pb2, "CreateJoinToken", ttl=60, token="do-not-tell")
        request = csr("spiffe://example.org/a")
        await audited.local.call(svid_pb2, "MintX509SVID", csr=request)
        token = (await audited.local.call(svid_pb2, "MintJWTSVID", id=pb_id("/a"), audience=["x"])).svid.token
    text = repr(lines)
    assert "do-not-tell" not in text
    assert token not in text
    assert repr(request) not in text
    assert any(line.get("csr") for line in lines)


async def test_signed_items_are_audited_with_entry_and_serial_number(audited):
    [registered] = audited.register(entry("/a", "/spire/agent/x509pop/one"))
    agent = await audited.agent()
    with audit_lines() as lines:
        params = [{"entry_id": registered.id, "csr": csr()}, {"entry_id": "unknown", "csr": csr()}]
        await agent.call(svid_pb2, "BatchNewX509SVID", params=params)
    signed, refused = lines
    assert of(signed, "registration_id", "spiffe_id") == [registered.id, str(spiffe_id("/a"))]
    assert int(signed["serial_num"]) > 0
    assert of(refused, "registration_id", "status_code") == ["unknown", "NotFound"]


async def test_a_call_whose_caller_gave_up_is_audited(audited):
    agent, limits = await audited.agent(), audited.shared.rate_limits
    for _ in range(10):
        limits.reserve(POST_STATUS, "127.0.0.1", POST_STATUS.per_second)
    with structlog.testing.capture_logs() as lines:
        waiting = asyncio.ensure_future(agent.call(agent_pb2, "PostStatus", agent_version="1"))
        while limits.reserve(POST_STATUS, "127.0.0.1", 0) < 9.05:  # noqa: ASYNC110  until it is its turn after ours
            await asyncio.sleep(0.01)
        waiting.cancel()
        async with asyncio.timeout(PATIENCE):
            while not (found := [line for line in lines if line["event"] == "API accessed"]):  # noqa: ASYNC110  as above
                await asyncio.sleep(0.01)
    [line] = found
    assert of(line, "method", "status", "status_code") == ["PostStatus", "error", "Canceled"]
    assert line["caller_id"] == "spiffe://example.org/spire/agent/x509pop/one"


class SlowEntries(Entries):
    """The register of entries, which deletes when it is told to go on."""

    def __init__(self, database):
        super().__init__(database)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def delete_batch(self, ids):
        self.reached.set()
        assert self.go_on.wait(PATIENCE)
        return super().delete_batch(ids)


async def test_what_a_batch_did_is_audited_even_if_its_caller_gave_up(audited):
    [registered] = audited.register(entry("/a"))
    entries = SlowEntries(audited.datastore._database)
    service = EntryService(
        trust_domain=TD,
        entries=entries,
        authorized=audited.parts.registry,
        database=audited.parts._database,
        audit=AuditLog(enabled=True),
    )
    peer = Peer(kind=PeerKind.UNIX, address="@", since=audited.clock.now())
    call = Call(method_of(entry_pb2, "BatchDeleteEntry"), peer, Role.LOCAL)
    with structlog.testing.capture_logs() as lines:
        deleting = asyncio.ensure_future(
            service.BatchDeleteEntry(entry_pb2.BatchDeleteEntryRequest(ids=[registered.id]), call)
        )
        await asyncio.to_thread(entries.reached.wait, PATIENCE)
        deleting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deleting
        entries.go_on.set()
        async with asyncio.timeout(PATIENCE):
            while not lines:  # noqa: ASYNC110  a thread writes them
                await asyncio.sleep(0.01)
    [line] = lines
    assert of(line, "event", "status", "registration_id") == ["API accessed", "success", registered.id]
    assert audited.datastore.entries.get(registered.id) is None


async def test_without_an_audit_log_there_are_no_lines(served):
    with audit_lines() as lines:
        await served.local.call(bundle_pb2, "CountBundles")
        await served.local.refusal(entry_pb2, "GetEntry", id="unknown")
    assert not lines


async def test_a_call_that_fails_is_logged_once(served):
    with structlog.testing.capture_logs() as lines:
        await served.local.refusal(entry_pb2, "GetEntry", id="unknown")
    [line] = [line for line in lines if line["log_level"] == "warning"]
    assert of(line, "event", "status_code", "authorized_as", "registration_id") == [
        "RPC failed",
        "NotFound",
        "local",
        "unknown",
    ]


async def test_a_call_that_is_not_let_in_is_logged_once_with_its_caller_and_the_reason(served):
    client = await served.remote(served.issue("/workload"))
    with structlog.testing.capture_logs() as lines:
        await client.refusal(entry_pb2, "GetAuthorizedEntries")
        await (await served.remote()).refusal(entry_pb2, "GetAuthorizedEntries")
    known, unknown = [line for line in lines if line["log_level"] == "warning"]
    assert of(known, "event", "status_code", "caller_id", "reason", "detail") == [
        "RPC refused",
        "PermissionDenied",
        "spiffe://example.org/workload",
        "AGENT_NOT_ATTESTED",
        'agent "spiffe://example.org/workload" is not attested',
    ]
    assert unknown["method"] == "/spire.api.server.entry.v1.Entry/GetAuthorizedEntries"
    assert unknown["caller_addr"].startswith("127.0.0.1:")
    assert "caller_id" not in unknown


async def test_the_log_tells_which_serial_number_an_agent_should_have(served):
    client = await served.agent()
    served.attested(cert_serial="4711")
    with structlog.testing.capture_logs() as lines:
        await client.refusal(entry_pb2, "GetAuthorizedEntries")
    [line] = [line for line in lines if line["log_level"] == "warning"]
    agent_id = "spiffe://example.org/spire/agent/x509pop/one"
    assert line["detail"].startswith(f'agent "{agent_id}" expected to have serial number "4711"; has "')
