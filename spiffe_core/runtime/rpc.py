"""gRPC handlers: from our errors to status codes, in one place, and from a service's description to its methods.

A servicer is a plain object with a coroutine per RPC, named as the RPC.  It takes the request (the requests,
where the client streams) and the *call*: whatever the gate made of the peer when it let the call in.  Where the
server streams it takes ``send`` too; else it returns the response.  Handlers raise errors of
``spiffe_core.errors`` and never see a grpc context.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NoReturn, Protocol, TypeVar

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc import StatusCode

from spiffe_core.api.services import Method, methods_of
from spiffe_core.api.spire.api.types import status_pb2 as types_pb2
from spiffe_core.errors import (
    AlreadyExists,
    Cancelled,
    Denied,
    FailedPrecondition,
    Internal,
    InvalidInput,
    NotFound,
    ResourceExhausted,
    SpiffeError,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

log: Final = structlog.get_logger()

STATUS: Final[Mapping[type[SpiffeError], StatusCode]] = {
    InvalidInput: StatusCode.INVALID_ARGUMENT,
    Unauthenticated: StatusCode.UNAUTHENTICATED,
    Denied: StatusCode.PERMISSION_DENIED,
    NotFound: StatusCode.NOT_FOUND,
    AlreadyExists: StatusCode.ALREADY_EXISTS,
    FailedPrecondition: StatusCode.FAILED_PRECONDITION,
    ResourceExhausted: StatusCode.RESOURCE_EXHAUSTED,
    Unsupported: StatusCode.UNIMPLEMENTED,
    Internal: StatusCode.INTERNAL,
    Unavailable: StatusCode.UNAVAILABLE,
}
"""What each branch of the tree is to a gRPC client."""

C = TypeVar("C")
Send = Callable[[Message | bytes], Awaitable[None]]
"""Sends one response of a stream."""


class Gate(Protocol[C]):
    """Decides of each call whether it may come in, and sees it out."""

    async def admit(self, method: Method, peer: str, context: grpc.aio.ServicerContext[Any, Any]) -> C:
        """Let the call of a peer (``context.peer()``) in, or raise."""

    def leave(self, call: C | None, method: Method, error: SpiffeError | None) -> None:
        """The call has ended: well, or with that error; ``call`` is None if it was not let in."""


def code_of(error: SpiffeError) -> StatusCode:
    """The gRPC status code of an error."""
    if isinstance(error, Cancelled):  # not in the table: no answer is given, and no client makes an error of one
        return StatusCode.CANCELLED
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return StatusCode.UNKNOWN


def handlers_of(
    service: ServiceDescriptor, servicer: object, gate: Gate[C]
) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
    """Handlers of the methods that ``servicer`` has, of those that ``service`` describes, by name."""
    return {
        method.name: _method_handler(method, getattr(servicer, method.name), gate)
        for method in methods_of(service)
        if hasattr(servicer, method.name)
    }


def _method_handler(
    method: Method, implementation: Callable[..., Any], gate: Gate[C]
) -> "grpc.RpcMethodHandler[Any, Any]":
    build = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    wrap = _streaming if method.server_streaming else _unary
    return build(
        wrap(method, implementation, gate),
        request_deserializer=method.request.FromString,
        response_serializer=_serialize,
    )


def _serialize(response: Message | bytes) -> bytes:
    """A handler may answer with a message, or with one that it has serialized and kept."""
    return response if isinstance(response, bytes) else response.SerializeToString()


def _unary(method: Method, implementation: Callable[..., Awaitable[Any]], gate: Gate[C]) -> Callable[..., Any]:
    async def handle(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> object:
        call = None
        try:
            call = await gate.admit(method, context.peer(), context)
            response = await implementation(request, call)
        except SpiffeError as exc:
            gate.leave(call, method, exc)
            await _abort(context, exc)
        except asyncio.CancelledError:
            gate.leave(call, method, Cancelled("the caller gave up; what it asked for may have been done"))
            raise
        except Exception as exc:  # noqa: BLE001  a bug: the details belong in our log, not in the answer
            gate.leave(call, method, _bug(method, exc))
            await context.abort(StatusCode.INTERNAL, "internal error")
        else:
            gate.leave(call, method, None)
            return response

    return handle


def _streaming(method: Method, implementation: Callable[..., Awaitable[None]], gate: Gate[C]) -> Callable[..., Any]:
    async def handle(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        call = None
        try:
            call = await gate.admit(method, context.peer(), context)
            await implementation(request, call, context.write)
        except SpiffeError as exc:
            gate.leave(call, method, exc)
            await _abort(context, exc)
        except asyncio.CancelledError:
            # Clients of streaming RPCs end them by cancelling: no failure of anybody's.
            gate.leave(call, method, None)
            raise
        except Exception as exc:  # noqa: BLE001  a bug: the details belong in our log, not in the answer
            gate.leave(call, method, _bug(method, exc))
            await context.abort(StatusCode.INTERNAL, "internal error")
        else:
            gate.leave(call, method, None)

    return handle


def _bug(method: Method, exc: Exception) -> SpiffeError:
    log.error("RPC failed unexpectedly", method=method.path, exc_info=exc)
    return Internal("internal error")


async def _abort(context: grpc.aio.ServicerContext[Any, Any], exc: SpiffeError) -> NoReturn:
    code, text = code_of(exc), str(exc)
    if isinstance(exc, Denied) and exc.reason is not None:
        await context.abort(code, text, _denial_details(code, text, exc))
    await context.abort(code, text)


def _denial_details(code: StatusCode, text: str, exc: Denied) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata by which an agent learns why it was refused (``google.rpc.Status`` with details)."""
    status = status_pb2.Status(code=code.value[0], message=text)
    status.details.add().Pack(types_pb2.PermissionDeniedDetails(reason=int(exc.reason or 0)))  # type: ignore[arg-type]
    return (("grpc-status-details-bin", status.SerializeToString()),)
