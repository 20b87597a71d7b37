"""A server of two workers, on a SoftHSM token and a SQLite file: to its callers it is one server."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
import pytest

from server.datastore.store import Datastore
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.server.logger.v1 import logger_pb2
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.api.spire.api.types import logger_pb2 as types_pb2
from spiffe_core.errors import DenialReason
from spiffe_core.jwtsvid import verify_jwt_svid
from spiffe_core.runtime.clock import SystemClock
from spiffe_core.runtime.levels import Level
from spiffe_core.x509svid import parse_chain, verify_x509_svid
from tests.support.databases import sqlite_config
from tests.support.server_processes import (
    NodeAgent,
    ServerProcess,
    attest,
    attestation,
    entitled,
    eventually,
    is_alive,
    jwt_svid,
    register,
    server_process,
    stopped,
    wait_until,
)
from tests.support.servers import Client, csr, pb_id
from tests.support.softhsm import SoftHsmToken, init_token, library

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftHsmToken:
    return init_token(tmp_path_factory.mktemp("softhsm"), "workers", library())


@pytest.fixture(scope="module")
def server(token: SoftHsmToken) -> Iterator[ServerProcess]:
    """Two workers, for tests that leave two behind."""
    with server_process(token=token, workers=2, server="ratelimit { attestation = false signing = true }") as process:
        process.start()
        yield process


@pytest.fixture
def two(server: ServerProcess) -> tuple[int, int]:
    """The two workers."""
    wait_until(lambda: len(server.pids) == 2)
    one, other = server.pids
    return one, other


async def _attested(server: ServerProcess, pid: int) -> NodeAgent:
    """An agent that attested at that worker."""
    async with server.admin(pid) as admin, server.node(pid) as nobody:
        return await attest(nobody, admin)


async def test_an_agent_attested_at_one_worker_goes_on_at_the_other(server, two):
    agent = await _attested(server, two[0])
    for pid in two:
        async with server.node(pid, agent.identity) as client:
            assert await entitled(client) == set()


async def test_a_renewed_agent_is_known_by_its_new_svid_at_both_workers_and_by_the_old_one_at_none(server, two):
    agent = await _attested(server, two[0])
    async with server.node(two[0], agent.identity) as client:
        params = agent_pb2.AgentX509SVIDParams(csr=csr(key=agent.identity.private_key))
        renewed = await client.call(agent_pb2, "RenewAgent", params=params)
    chain = parse_chain(tuple(renewed.svid.cert_chain))
    new = type(agent.identity)(chain, agent.identity.private_key)
    for pid in two[::-1]:
        async with server.node(pid, new) as client:
            assert await entitled(client) == set()
    for pid in two:
        async with server.node(pid, agent.identity) as client:
            refusal = await client.refusal(agent_pb2, "PostStatus", current_bundle_serial=1)
            assert refusal.reason is DenialReason.AGENT_NOT_ACTIVE


@pytest.mark.parametrize(("made_at", "asked_at"), [(0, 1), (1, 0), (0, 0)])
async def test_an_entry_made_at_one_worker_is_served_by_each(server, two, made_at, asked_at):
    agent = await _attested(server, two[asked_at])
    async with server.admin(two[made_at]) as admin, server.node(two[asked_at], agent.identity) as client:
        assert await entitled(client) == set()
        made = await register(admin, agent.id, "/made")

        async def is_served() -> bool:
            return await entitled(client) == {made}

        await eventually(is_served)


async def test_an_entry_that_an_agent_heard_of_at_one_worker_is_signed_for_by_the_other_at_once(server, two):
    agent = await _attested(server, two[0])
    async with (
        server.admin(two[0]) as admin,
        server.node(two[0], agent.identity) as here,
        server.node(two[1], agent.identity) as there,
    ):
        for number in range(10):
            entry = await register(admin, agent.id, f"/heard-of-{number}")

            async def is_heard_of(entry: str = entry) -> bool:
                return entry in await entitled(here)

            await eventually(is_heard_of)
            assert await jwt_svid(there, entry)


async def test_a_ban_at_one_worker_holds_at_the_other_on_the_next_call(server, two):
    agent = await _attested(server, two[0])
    async with (
        server.admin(two[0]) as admin,
        server.node(two[0], agent.identity) as here,
        server.node(two[1], agent.identity) as there,
    ):
        assert await entitled(there) == set()
        await admin.call(agent_pb2, "BanAgent", id=pb_id(agent.id.path))
        for client in (there, here):
            refusal = await client.refusal(agent_pb2, "PostStatus", current_bundle_serial=1)
            assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
            assert refusal.reason is DenialReason.AGENT_BANNED


async def test_tokens_and_certificates_of_both_workers_come_from_the_one_key_of_each_kind_in_the_bundle(server, two):
    agent = await _attested(server, two[0])
    bundle = await server.bundle()
    assert len(bundle.jwt_authorities) == 1
    assert len(bundle.x509_authorities) == 1
    async with server.admin() as admin:
        entry = await register(admin, agent.id, "/workload")
    now = datetime.now(UTC)
    for pid in two:
        async with server.node(pid, agent.identity) as client:

            async def is_served(client: Client = client) -> bool:
                return entry in await entitled(client)

            await eventually(is_served)
            verify_jwt_svid(await jwt_svid(client, entry), lambda _: bundle, ["audience"], now)
            params = [svid_pb2.NewX509SVIDParams(entry_id=entry, csr=csr())]
            [result] = (await client.call(svid_pb2, "BatchNewX509SVID", params=params)).results
            verify_x509_svid(parse_chain(tuple(result.svid.cert_chain)), bundle, now)


async def test_a_log_level_set_at_one_worker_is_in_force_at_both(server, two):
    async with server.admin(two[0]) as here, server.admin(two[1]) as there:
        for level in (Level.DEBUG, Level.WARN):
            await here.call(logger_pb2, "SetLogLevel", new_level=level + 1)
            for client in (here, there):
                assert (await client.call(logger_pb2, "GetLogger")).current_level == level + 1
        await there.call(logger_pb2, "ResetLogLevel")
        assert (await here.call(logger_pb2, "GetLogger")).current_level == types_pb2.INFO


async def test_what_one_worker_took_of_a_rate_limit_is_missing_at_the_other(server, two):
    agent = await _attested(server, two[0])
    nothing = svid_pb2.BatchNewX509SVIDRequest(params=[svid_pb2.NewX509SVIDParams()] * 500)
    async with server.node(two[0], agent.identity) as here, server.node(two[1], agent.identity) as there:
        # Each takes what the limit gives in a second; those after the first wait for their turn.
        waiting = [asyncio.ensure_future(here.call(svid_pb2, "BatchNewX509SVID", nothing)) for _ in range(6)]
        for _ in range(2):  # the second had to wait: by then the others have reserved their turns
            _, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            waiting = list(pending)
        method = "/spire.api.server.svid.v1.SVID/BatchNewX509SVID"
        call = there._channel.unary_unary(method, svid_pb2.BatchNewX509SVIDRequest.SerializeToString)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(nothing, timeout=2)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details() == (
        "rejecting request due to certificate signing rate limiting: "
        "rate limit: the wait would exceed the deadline of the call"
    )


async def test_a_worker_that_is_killed_costs_its_own_connections_and_is_started_again(server, two):
    victim, survivor = two
    bundle = await server.bundle()
    agent = await _attested(server, survivor)
    async with server.admin(survivor) as admin, server.node(victim) as lost, server.node(survivor) as kept:
        token = await admin.call(agent_pb2, "CreateJoinToken", ttl=600)
        lost_call, kept_call = (client.open(agent_pb2, "AttestAgent") for client in (lost, kept))
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await lost_call.read()
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE
        await kept_call.write(attestation(token.value))
        assert (await kept_call.read()).result.svid.cert_chain
        kept_call.cancel()

    def is_back() -> bool:
        return len(server.pids) == 2 and victim not in server.pids and server.log.count("Worker serves") >= 3

    await asyncio.to_thread(wait_until, is_back)
    [new] = set(server.pids) - {survivor}
    async with server.admin(new) as admin, server.node(new, agent.identity) as client:
        entry = await register(admin, agent.id, "/after")

        async def is_served() -> bool:
            return entry in await entitled(client)

        await eventually(is_served)
        verify_jwt_svid(await jwt_svid(client, entry), lambda _: bundle, ["audience"], datetime.now(UTC))
    assert await server.bundle() == bundle
    assert f"pid={victim}" in next(line for line in server.log.splitlines() if "is started again" in line)


async def test_a_worker_that_hangs_holds_up_no_call_of_the_other(server, two):
    agent = await _attested(server, two[0])
    async with server.node(two[1], agent.identity) as client:
        with stopped(two[0]):
            assert await entitled(client) == set()
            async with server.admin() as admin:
                assert await register(admin, agent.id, "/meanwhile")


def test_workers_end_with_their_supervisor_however_it_ends(token):
    with server_process(token=token, workers=2) as process:
        process.start()
        workers = process.pids
        assert len(workers) == 2
        process.end(signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, workers)))


def test_a_server_of_two_workers_stops_with_all_of_them_when_it_is_told_to(token):
    with server_process(token=token, workers=2) as process:
        process.start()
        workers = process.pids
        assert process.end() == 0
        assert not any(map(is_alive, workers))
        assert process.log.count("Server stopped") == 2
        assert "level=error" not in process.log
        assert "Health check failed" not in process.log


def test_a_server_that_waits_for_another_to_make_the_authorities_stops_when_it_is_told_to(token):
    with server_process(token=token, workers=2) as process:
        datastore = Datastore.open(sqlite_config(process.folder / "db.sqlite3"), SystemClock())
        with contextlib.closing(datastore):
            assert datastore.lease("example.org").take("elsewhere", None)
            process.begin()
            wait_until(lambda: bool(process.pids))
            assert process.end() == 0
        assert "Worker serves" not in process.log
        assert "level=error" not in process.log


def test_two_workers_are_refused_with_keys_in_memory():
    with server_process(workers=2, key_manager='KeyManager "memory" {}') as process:
        process.begin()
        with contextlib.closing(process):
            wait_until(process.has_ended)
        assert process.process.returncode == os.EX_CONFIG
        assert (
            'server.workers: 2 processes cannot share KeyManager \\"memory\\": use disk or pkcs11, or one worker'
            in process.log
        )
