"""An endpoint: a gRPC server behind a front door of its own, serving listeners of one kind."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final, TypeVar, cast

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from spiffe_core.runtime.admission import Admission
from spiffe_core.runtime.files import private_folder
from spiffe_core.runtime.frontdoor import FrontDoor, Limits
from spiffe_core.runtime.grpc_server import GrpcServer
from spiffe_core.runtime.rpc import Gate, handlers_of
from spiffe_core.runtime.sockets import raise_descriptor_limit

C = TypeVar("C")

Options = Sequence[tuple[str, Any]]

_ALWAYS: Final[Options] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


class Endpoint:
    """Serves services to whom an admission lets in."""

    def __init__(self, admission: Admission, *, limits: Limits | None = None, options: Options = ()) -> None:
        """Take who may come in, and gRPC's channel arguments beside the usual ones."""
        self._resources = ExitStack()
        backend = self._resources.enter_context(private_folder()) / "grpc"
        self.door = FrontDoor(admission=admission, backend=backend, limits=limits or Limits())
        self._server = GrpcServer((*_ALWAYS, *options))
        self._server.add_insecure_port(f"unix:{backend}")

    def add(self, service: ServiceDescriptor, servicer: object, gate: Gate[C]) -> None:
        """Serve the RPCs that ``servicer`` has; the others are UNIMPLEMENTED."""
        self._server.add_registered_method_handlers(service.full_name, handlers_of(service, servicer, gate))

    def extend(self, register: Callable[[grpc.aio.Server], None]) -> None:
        """Let a library add what it offers to the gRPC server, such as reflection."""
        register(cast("grpc.aio.Server", self._server))

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        """Serve the listening sockets, which belong to this endpoint from now on.

        The usual limit of 1024 descriptors is for programs that serve nobody: a few hundred connections of one caller
        would use it up for all.
        """
        raise_descriptor_limit()
        await self._server.start()
        for listener in listeners:
            self.door.listen(listener)

    async def stop(self, grace: float) -> None:
        """Take no more connections, let calls end for ``grace`` seconds, then cut them; clients see UNAVAILABLE."""
        self.door.stop_listening()
        await asyncio.gather(self._server.stop(grace), self.door.close(grace))
        self._resources.close()
