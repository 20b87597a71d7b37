"""Host services: what a plugin may ask of the process that runs it.

They are served on a Unix socket of their own, in a folder that only this user can enter; go-plugin's broker tells the
plugin where.  Handlers are plain functions from request to response, called in threads.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from spiffe_core.api.services import Method, methods_of
from spiffe_core.errors import SpiffeError
from spiffe_core.runtime.rpc import code_of

Handler = Callable[[Any], Message]
"""Answers a request; raises errors of ours."""
_THREADS: Final = 4

log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class HostService:
    """One service, with a handler for each of its RPCs by name."""

    service: ServiceDescriptor
    handlers: Mapping[str, Handler]

    @property
    def name(self) -> str:
        """Its full name."""
        return str(self.service.full_name)


class HostServer:
    """Serves host services to one plugin process."""

    def __init__(self, services: tuple[HostService, ...], path: Path, plugin_name: str) -> None:
        self.path = path
        self._server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="host service"))
        for one in services:
            handlers = {
                method.name: _handler(method, one.handlers[method.name], plugin_name)
                for method in methods_of(one.service)
            }
            self._server.add_registered_method_handlers(one.name, handlers)
        self._server.add_insecure_port(f"unix:{path}")
        self._server.start()

    def close(self) -> None:
        """Serve no more."""
        self._server.stop(0).wait()


def _handler(method: Method, handler: Handler, plugin_name: str) -> "grpc.RpcMethodHandler[Any, Any]":
    def handle(request: Message, context: grpc.ServicerContext) -> Message:
        try:
            return handler(request)
        except SpiffeError as exc:
            context.abort(code_of(exc), str(exc))
        except Exception:  # a bug: the details belong in our log, not in the answer
            log.exception("Host service failed unexpectedly", method=method.path, plugin_name=plugin_name)
            context.abort(grpc.StatusCode.INTERNAL, "internal error")

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=method.request.FromString,
        response_serializer=lambda response: response.SerializeToString(),
    )
