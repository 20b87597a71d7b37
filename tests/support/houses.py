"""A house: an echo service on grpc.aio behind a real front door, and ways to knock at it."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

from spiffe_core.bundle import Bundle
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.admission import LocalAdmission, TlsAdmission
from spiffe_core.runtime.clock import Clock, SystemClock
from spiffe_core.runtime.dial import Dialer
from spiffe_core.runtime.files import private_folder
from spiffe_core.runtime.frontdoor import FrontDoor, Limits
from spiffe_core.runtime.grpc_server import GrpcServer
from spiffe_core.runtime.relay import Relay
from spiffe_core.runtime.sockets import listen_tcp, listen_unix
from spiffe_core.runtime.tls import TlsIdentity, client_context
from tests.support.pki import Realm

PREFACE_AND_SETTINGS: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
CHUNK: Final = 256 * 1024
"""Bytes of one message of ``Download``."""

_AWAITING_CALLS: Final = {"_request_call", "_request_registered_call"}

UNLIMITED: Final = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@dataclass
class House:
    """What lives behind a front door, and what may come in."""

    realm: Realm = field(default_factory=Realm)
    bundles: dict[TrustDomain, Bundle] = field(default_factory=dict)
    """Of foreign trust domains."""
    admin_ids: tuple[SpiffeId, ...] = ()
    limits: Limits = field(default_factory=Limits)
    clock: Clock = field(default_factory=SystemClock)
    identity: TlsIdentity | None = None
    """What the server presents; its own SVID unless a test takes it away or replaces it."""

    door: FrontDoor = field(init=False)
    address: tuple[str, int] = field(init=False, default=("", 0))
    socket_path: str = field(init=False, default="")
    backend: Path = field(init=False)
    sent: int = field(init=False, default=0)
    """Messages that ``Download`` could hand to gRPC."""

    def __post_init__(self) -> None:
        self.identity = self.realm.server()

    @property
    def target(self) -> str:
        """The TCP address as text."""
        return f"{self.address[0]}:{self.address[1]}"

    def bundle_of(self, trust_domain: TrustDomain) -> Bundle | None:
        """The bundle that the server knows of a trust domain."""
        return self.realm.bundle if trust_domain == self.realm.trust_domain else self.bundles.get(trust_domain)

    @contextlib.asynccontextmanager
    async def open(self, *, local: bool = False) -> AsyncIterator["House"]:
        """Serve on a TCP port, or on a Unix socket if ``local``."""
        with private_folder() as folder:
            self.backend = folder / "grpc"
            server = GrpcServer([("grpc.so_reuseport", 0), *UNLIMITED])
            server.add_registered_method_handlers("echo.Echo", self._handlers())
            server.add_insecure_port(f"unix:{self.backend}")
            await server.start()
            self.door = FrontDoor(admission=self._admission(local=local), backend=self.backend, limits=self.limits)
            listener = listen_unix(folder / "api.sock", mode=0o600) if local else listen_tcp("127.0.0.1", 0)
            if local:
                self.socket_path = str(folder / "api.sock")
            else:
                self.address = listener.getsockname()[:2]
            self.door.listen(listener)
            try:
                yield self
            finally:
                await server.stop(None)
                await self.door.close()

    def _admission(self, *, local: bool) -> LocalAdmission | TlsAdmission:
        if local:
            return LocalAdmission(clock=self.clock)
        return TlsAdmission(
            trust_domain=self.realm.trust_domain,
            identity=lambda: self.identity,
            bundle_of=self.bundle_of,
            admin_ids=self.admin_ids,
            clock=self.clock,
        )

    def _handlers(self) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        async def unary(request: bytes, _context: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
            return request

        async def who(_request: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
            peer = self.door.peer(context.peer())
            if peer is None:
                return b"nobody"
            if peer.process is not None:
                peer.process.check_alive()
                return f"process {peer.process.pid} of {peer.process.uid}".encode()
            return str(peer.svid.id if peer.svid else "anonymous").encode()

        async def both_ways(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
            async for request in requests:
                yield request

        async def download(request: bytes, _context: object) -> AsyncIterator[bytes]:
            for _ in range(int(request or b"0")):
                yield bytes(CHUNK)
                self.sent += 1

        async def wait(_request: bytes, _context: object) -> bytes:
            await asyncio.get_running_loop().create_future()
            return b""

        return {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Who": grpc.unary_unary_rpc_method_handler(who),
            "BothWays": grpc.stream_stream_rpc_method_handler(both_ways),
            "Download": grpc.unary_stream_rpc_method_handler(download),
            "Wait": grpc.unary_unary_rpc_method_handler(wait),
        }


async def ask(channel: grpc.aio.Channel, method: str = "Who", request: bytes = b"", seconds: float = 10) -> str:
    """The answer of a unary method, as text."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/echo.Echo/{method}")
    return (await call(request, timeout=seconds)).decode()


def dialer(house: House, identity: TlsIdentity | None = None, **changed: Any) -> Dialer:
    """What reaches the house as its clients do; close it at the end."""
    arguments: dict[str, Any] = {
        "target": house.target,
        "server_id": house.realm.id("/spire/server"),
        "bundle": lambda: house.realm.bundle,
        "identity": lambda: identity,
        "clock": house.clock,
        "options": UNLIMITED,
    }
    return Dialer(**arguments | changed)


@contextlib.asynccontextmanager
async def calling(
    house: House, identity: TlsIdentity | None = None
) -> AsyncIterator[tuple[grpc.aio.Channel, Callable[[], asyncio.Transport]]]:
    """A gRPC channel to the house, and what tells the TLS connection that it uses."""
    dialling = dialer(house, identity)

    def connection() -> asyncio.Transport:
        assert dialling._outbound is not None
        [relay] = dialling._outbound._open
        assert isinstance(relay, Relay)
        assert relay.back.transport is not None
        return relay.back.transport

    try:
        yield await dialling.channel(), connection
    finally:
        await dialling.close()


async def knock(
    house: House, identity: TlsIdentity | None = None, *, context: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TLS connection to the house, with or without a certificate; what comes next is the test's."""
    return await asyncio.open_connection(
        *house.address, ssl=context or client_context(identity), server_hostname="server", limit=CHUNK
    )


async def frames_begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Say HTTP/2's first words; whether the server answers with its own, or hangs up."""
    try:
        writer.write(PREFACE_AND_SETTINGS)
        await writer.drain()
        async with asyncio.timeout(10):
            first = await reader.readexactly(9)
    except (OSError, EOFError):
        return False
    return first[3] == 4


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What is still to come until the server hangs up, politely or not; fail if it does not."""
    received = b""
    async with asyncio.timeout(15):
        with contextlib.suppress(ConnectionResetError):
            while block := await reader.read(65536):
                received += block
    return received


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever is left of it."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        await writer.wait_closed()


async def is_let_in(house: House, identity: TlsIdentity | None) -> bool:
    """Whether a client of that identity gets to speak HTTP/2 with the gRPC server."""
    try:
        reader, writer = await knock(house, identity)
    except OSError:
        return False
    try:
        return await frames_begin(reader, writer)
    finally:
        await hang_up(writer)


def descriptors() -> int:
    """Open sockets and process descriptors of this process; what event loops open for themselves does not count."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(descriptor.readlink()).startswith(("socket:", "anon_inode:[pidfd]"))
    return found


def tasks() -> set[asyncio.Task[Any]]:
    """The other tasks of the loop; those in which grpcio awaits the next calls, new ones each time, do not count."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return {task for task in others if getattr(task.get_coro(), "__name__", "") not in _AWAITING_CALLS}


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Return as soon as the condition holds; fail if it never does."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  whatever a test waits for
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def nothing_left(house: House) -> AsyncIterator[None]:
    """Fail unless the block leaves no connection, descriptor or task behind."""
    assert house.door.stats.open == 0
    descriptors_before, tasks_before = descriptors(), tasks()
    yield
    await until(lambda: house.door.stats.open == 0)
    await until(lambda: descriptors() <= descriptors_before)
    await until(lambda: not (tasks() - tasks_before))


@contextlib.contextmanager
def closing(connection: socket.socket) -> Iterator[socket.socket]:
    """A plain socket, closed at the end."""
    with contextlib.closing(connection):
        yield connection
