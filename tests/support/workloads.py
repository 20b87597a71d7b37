"""An agent's sockets, served for real over fake identities, and workloads that call them.

``serving()`` runs ``agent.endpoints.Endpoints`` on sockets in a folder of its own; ``calling()`` is a client of one,
this process.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from agent.config import AgentConfig
from agent.endpoints import Endpoints
from agent.workload_attestors.base import WorkloadAttestor
from agent.workload_attestors.unix import UnixAttestor
from spiffe_core.api import workload_pb2
from spiffe_core.api.services import methods_of, service_in
from spiffe_core.errors import SpiffeError
from spiffe_core.runtime.clock import Clock, SystemClock
from spiffe_core.runtime.files import private_folder
from spiffe_core.runtime.health import Health
from spiffe_core.runtime.levels import Level, LevelSwitch
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.peers import PeerProcess
from spiffe_core.runtime.plugins import Plugin
from spiffe_core.x509svid import Chain
from tests.support.fake_identities import FakeIdentities

HEADER: Final = (("workload.spiffe.io", "true"),)
ME: Final = f"unix:uid:{os.geteuid()}"
"""A selector of this process."""
METHODS: Final = {method.name: method for method in methods_of(service_in(workload_pb2.DESCRIPTOR))}
PATIENCE: Final = 20
"""Seconds after which a call that should have been answered fails."""


@dataclass
class FakeStatus:
    """``agent.debug_service.AgentStatus``."""

    identities: FakeIdentities
    synced: datetime | None = None
    jwt_svids: int = 3

    def svid_chain(self) -> Chain:
        """The chain of the agent's SVID, and the authority."""
        issued = self.identities.domain.realm.issue("/spire/agent/join_token/1")
        return (*issued.chain, self.identities.domain.realm.root.certificate)

    def x509_svid_count(self) -> int:
        """One for each entry."""
        return len(self.identities.entries)

    def jwt_svid_count(self) -> int:
        """What the test says."""
        return self.jwt_svids

    def last_sync(self) -> datetime | None:
        """What the test says."""
        return self.synced


@dataclass
class Served:
    """A served agent, as far as workloads and administrators see it."""

    identities: FakeIdentities
    status: FakeStatus
    folder: Path
    endpoints: Endpoints
    health: Health
    metrics: Metrics
    level: LevelSwitch = field(default_factory=lambda: LevelSwitch(Level.INFO))

    @property
    def socket(self) -> Path:
        """The Workload API's socket."""
        return self.folder / "public" / "api.sock"

    @property
    def admin_socket(self) -> Path:
        """The admin socket."""
        return self.folder / "private" / "admin.sock"


def agent_config(folder: Path, identities: FakeIdentities, **keys: Any) -> AgentConfig:
    """A configuration whose sockets lie in the folder."""
    usual: dict[str, Any] = {
        "server_address": "localhost",
        "server_port": 8081,
        "trust_domain": identities.domain.trust_domain,
        "insecure_bootstrap": True,
        "socket_path": folder / "public" / "api.sock",
        "admin_socket_path": folder / "private" / "admin.sock",
        "plugins": (Plugin(type="WorkloadAttestor", name="unix"),),
    }
    return AgentConfig(**{**usual, **keys})


@contextlib.asynccontextmanager
async def serving(
    identities: FakeIdentities | None = None,
    *,
    attestors: Sequence[WorkloadAttestor] | None = None,
    clock: Clock | None = None,
    grace: float = 0.1,
    **keys: Any,
) -> AsyncIterator[Served]:
    """Serve until the block ends; ``keys`` are those of the configuration."""
    identities = identities or FakeIdentities()
    status = FakeStatus(identities, synced=datetime(2030, 1, 1, tzinfo=UTC))
    clock = clock or SystemClock()
    with private_folder() as folder:
        health, metrics, level = Health({}, clock), Metrics("spire_agent"), LevelSwitch(Level.INFO)
        await health.check()
        endpoints = Endpoints(
            config=agent_config(folder, identities, **keys),
            identities=identities,
            attestors=(UnixAttestor(),) if attestors is None else attestors,
            status=status,
            health=health,
            level=level,
            metrics=metrics,
            clock=clock,
            uptime=lambda: 61.5,
        )
        try:
            await endpoints.start()
            yield Served(identities, status, folder, endpoints, health, metrics, level)
        finally:
            await endpoints.stop(grace)


class Caller:
    """Calls the services of one socket."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def stream(
        self, name: str, request: Message | None = None, metadata: Iterable[tuple[str, str]] = HEADER
    ) -> "grpc.aio.UnaryStreamCall[Any, Any]":
        """Open a stream of the Workload API."""
        method = METHODS[name]
        opened: grpc.aio.UnaryStreamMultiCallable[Any, Any] = self.channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        return opened(request or method.request(), metadata=tuple(metadata), timeout=PATIENCE)

    async def first(
        self, name: str, request: Message | None = None, metadata: Iterable[tuple[str, str]] = HEADER
    ) -> Any:
        """The first message of a stream, or the answer of a call."""
        method = METHODS[name]
        if not method.server_streaming:
            return await self.call(name, request, metadata)
        stream = self.stream(name, request, metadata)
        try:
            return await message(stream)
        finally:
            stream.cancel()

    async def call(
        self, name: str, request: Message | None = None, metadata: Iterable[tuple[str, str]] = HEADER
    ) -> Any:
        """Call a unary method of the Workload API."""
        method = METHODS[name]
        called: grpc.aio.UnaryUnaryMultiCallable[Any, Any] = self.channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        return await called(request or method.request(), metadata=tuple(metadata), timeout=PATIENCE)

    async def raw(self, path: str, request: bytes = b"", metadata: Iterable[tuple[str, str]] = HEADER) -> bytes:
        """Call a method of whatever service, bytes in and the first message's bytes out."""
        called: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self.channel.unary_stream(path)
        stream = called(request, metadata=tuple(metadata), timeout=PATIENCE)
        try:
            answer: bytes = await message(stream)
            return answer
        finally:
            stream.cancel()


@contextlib.asynccontextmanager
async def calling(socket: Path) -> AsyncIterator[Caller]:
    """A client on a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
        yield Caller(channel)


async def message(stream: "grpc.aio.UnaryStreamCall[Any, Any]") -> Any:
    """The next message; AssertionError if the stream ends well without one."""
    answer = await stream.read()
    assert answer is not grpc.aio.EOF, "the stream has ended"
    return answer


@contextlib.asynccontextmanager
async def refused(code: grpc.StatusCode, text: str) -> AsyncIterator[None]:
    """Fail unless the block's call is refused with that code and text."""
    try:
        yield
    except grpc.aio.AioRpcError as exc:
        assert (exc.code(), exc.details()) == (code, text)  # noqa: PT017  what is asserted is not the raising
    else:
        raise AssertionError(f"not refused: {text}")


class FakeAttestor:
    """``agent.workload_attestors.base.WorkloadAttestor`` that says what a test wants it to say."""

    def __init__(self, name: str = "fake", *values: str, error: SpiffeError | None = None) -> None:
        self.name = name
        self.values = values
        self.error = error
        self.asked: list[int] = []
        """The processes that it was asked about."""
        self.closed = False

    async def attest(self, process: PeerProcess) -> Sequence[str]:
        """The values, beside the process's number, or the error."""
        self.asked.append(process.pid)
        if self.error is not None:
            raise self.error
        return [*self.values, f"pid:{process.pid}"]

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True
