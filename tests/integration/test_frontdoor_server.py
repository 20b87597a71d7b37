"""A real ``steeple-server`` and a hostile client on each of its ports: it stays healthy, and as small as it was."""

import contextlib
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import grpc
import pytest
from grpc_health.v1 import health_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.ids import server_id
from spiffe_core.runtime.clock import SystemClock
from spiffe_core.runtime.dial import Dialer
from spiffe_core.runtime.tls import client_context
from tests.support import garbage
from tests.support.server_processes import ServerProcess, server_process, wait_until
from tests.support.servers import TD, Refused

PATHS: Final = (
    "/spire.api.server.agent.v1.Agent/AttestAgent",
    "/spire.api.server.agent.v1.Agent/ListAgents",
    "/spire.api.server.bundle.v1.Bundle/GetBundle",
    "/spire.api.server.entry.v1.Entry/BatchCreateEntry",
    "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries",
    "/spire.api.server.svid.v1.SVID/MintX509SVID",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
)

bounded = settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False, database=None
)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with server_process(key_manager='KeyManager "memory" {}', server='log_level = "DEBUG"') as process:
        process.start()
        yield process


def tcp(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def tls(server: ServerProcess) -> socket.socket:
    connection = tcp(server)
    try:
        return client_context(None).wrap_socket(connection, server_hostname="server")
    except BaseException:
        connection.close()
        raise


def local(server: ServerProcess) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(server.socket_path))
    return connection


def size(server: ServerProcess) -> int:
    """Open sockets and process descriptors of the process; files of its database do not count."""
    [pid] = server.pids
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(descriptor.readlink()).startswith(("socket:", "anon_inode:[pidfd]"))
    return found


async def check_serves(server: ServerProcess) -> None:
    """Healthy on its private socket, and at work on both."""
    async with server.admin() as admin:
        answer = await admin.call(health_pb2, "Check")
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    async with server.node() as node:
        assert (await node.call(bundle_pb2, "GetBundle")).x509_authorities


def attack(server: ServerProcess, connect: Callable[[ServerProcess], socket.socket], said: bytes, wait: bool) -> None:
    with contextlib.suppress(OSError), contextlib.closing(connect(server)) as connection:
        connection.sendall(said)
        if wait:
            connection.settimeout(0.05)
            while connection.recv(65536):
                pass


ATTACKS: Final = {
    "TCP": (tcp, garbage.raw()),
    "TLS": (tls, garbage.spoken(*PATHS)),
    "the Unix socket": (local, garbage.spoken(*PATHS) | garbage.raw()),
}


@pytest.mark.parametrize("where", ATTACKS)
async def test_a_server_survives_whatever_is_said_to(where, server):
    connect, said = ATTACKS[where]
    await check_serves(server)
    before = size(server)

    @bounded
    @given(said=said, wait=st.booleans())
    def say(said: bytes, wait: bool) -> None:
        attack(server, connect, said, wait)

    say()
    await check_serves(server)
    wait_until(lambda: size(server) <= before, 30)
    assert "RPC failed unexpectedly" not in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("connect", [tls, local], ids=["TLS", "the Unix socket"])
async def test_a_method_that_is_no_text_does_not_end_the_server_on(connect, server):
    attack(server, connect, garbage.call(b"/spire.api.server.bundle.v1.Bundle/\xb7"), wait=True)
    await check_serves(server)
    assert "Traceback" not in server.log


async def test_a_server_refuses_a_message_beyond_its_limit_and_goes_on(server):
    bundle = await server.bundle()
    dialer = Dialer(
        target=server.target,
        server_id=server_id(TD),
        bundle=lambda: bundle,
        identity=lambda: None,
        clock=SystemClock(),
        options=[("grpc.max_send_message_length", -1)],
    )
    try:
        call = (await dialer.channel()).unary_unary(PATHS[2])
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(bytes(5 * 1024 * 1024), timeout=20)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    finally:
        await dialer.close()
    await check_serves(server)


async def test_a_server_without_descriptors_waits_and_serves_again(server):
    """New connections wait or are refused while there are none; nothing breaks that is open."""
    await check_serves(server)
    before = size(server)
    [pid] = server.pids
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    async with server.admin() as admin:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (size(server) + 10, hard))
        with contextlib.ExitStack() as crowd:
            for _ in range(40):
                crowd.enter_context(contextlib.closing(tcp(server)))  # the kernel takes them into its queue
            wait_until(lambda: "Connections cannot be accepted" in server.log)
            for _ in range(5):
                assert (await admin.call(bundle_pb2, "GetBundle")).x509_authorities
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    await check_serves(server)
    wait_until(lambda: size(server) <= before, 30)


async def test_debug_logger_and_health_are_not_on_the_tcp_port(server):
    async with server.node() as node:
        with pytest.raises(Refused) as refused:
            await node.call(health_pb2, "Check")
    assert refused.value.refusal.code == grpc.StatusCode.UNIMPLEMENTED
