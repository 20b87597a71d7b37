"""The gRPC server behind a front door: grpcio's, made safe against a method that is no text.

grpcio's asyncio server decodes the ``:path`` of each call in the very loop that takes calls.  A path that is not
UTF-8, which any client may send, ends that loop and with it the server.  So methods are *registered*: gRPC's core
matches their paths as bytes, and what matches none never reaches grpcio's decoding, but is answered here, as
grpcio would answer it.

This reaches into grpcio where it has no public way: should a later version move these parts, a test says so.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

NO_SUCH_METHOD: Final = "Method not found!"
"""grpcio's text."""


class GrpcServer(_server.Server):
    """A ``grpc.aio.Server``; give it handlers by ``add_registered_method_handlers``."""

    def __init__(self, options: Sequence[tuple[str, Any]] = ()) -> None:
        # Instead of grpcio's constructor, which would make a core server that cannot be taken back.
        self._loop = cygrpc.get_working_loop()
        self._server = _Core(self._loop, None, (), (), tuple(options), None)


class _Core(cygrpc.AioServer):  # type: ignore[misc]
    """grpcio's server, to whose loop no call comes that is not of a registered method."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *arguments: Any) -> None:  # noqa: ANN401  they are grpcio's
        super().__init__(loop, *arguments)
        self._refusals: set[asyncio.Task[None]] = set()

    async def _request_call(self) -> None:
        """Take the calls of no registered method, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            state = await super()._request_call()
            task = loop.create_task(_refuse(cygrpc._ServicerContext(state, None, None, loop)))  # noqa: SLF001
            self._refusals.add(task)
            task.add_done_callback(self._refusals.discard)


async def _refuse(context: "grpc.aio.ServicerContext[Any, Any]") -> None:
    with contextlib.suppress(cygrpc.AbortError, cygrpc.InternalError):  # how aborting ends, or the client has gone
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_SUCH_METHOD)
