"""Making gRPC calls: the client's half of ``spiffe_core.runtime.rpc``.

What a call fails with becomes an error of ours again, of the branch that the status code stands for, with the
reason of a refusal that travels in the status details.  The text is the one that SPIRE's programs show:
``rpc error: code = Unavailable desc = ...``.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, TypeVar

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc import StatusCode

from spiffe_core.api.services import Method, methods_of, service_in
from spiffe_core.api.spire.api.types import status_pb2 as types_pb2
from spiffe_core.errors import DenialReason, Denied, SpiffeError, Unavailable
from spiffe_core.runtime.rpc import STATUS

M = TypeVar("M", bound=Message)

TIMEOUT: Final = 30.0
"""Seconds that a call may take (SPIRE's)."""
_DETAILS: Final = "grpc-status-details-bin"
_KIND: Final = {code: kind for kind, code in STATUS.items()}
_SPELLED: Final = {StatusCode.OK: "OK", StatusCode.CANCELLED: "Canceled"}


def rpc_in(file: FileDescriptor, name: str) -> Method:
    """The RPC of that name of the only service that a file defines.

    Raises:
        LookupError: if it has none of that name.
    """
    for method in methods_of(service_in(file)):
        if method.name == name:
            return method
    raise LookupError(f"{service_in(file).full_name} has no {name}")


class Calls:
    """Calls on whatever channel is the one to use at the moment of each."""

    def __init__(
        self,
        channel: Callable[[], Awaitable[grpc.aio.Channel]],
        *,
        timeout: float = TIMEOUT,
        failure: Callable[[SpiffeError], SpiffeError] = lambda error: error,
    ) -> None:
        """Take where calls are made; ``failure`` may know more of what one failed with than the server says."""
        self._channel = channel
        self._timeout = timeout
        self._failure = failure

    async def unary(self, method: Method, request: Message, answer: type[M], *, seconds: float | None = None) -> M:
        """Ask and wait for the answer.

        Raises:
            SpiffeError: what the call failed with.
        """
        channel = await self._channel()
        call: grpc.aio.UnaryUnaryMultiCallable[Message, M] = channel.unary_unary(
            method.path, request_serializer=_serialize, response_deserializer=answer.FromString
        )
        try:
            return await call(request, timeout=self._timeout if seconds is None else seconds)
        except grpc.aio.AioRpcError as exc:
            raise self._failure(error_of(exc)) from None

    @asynccontextmanager
    async def conversation(
        self, method: Method, answer: type[M], metadata: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator["Conversation[M]"]:
        """An RPC in which both sides stream; leaving the block ends it.

        Raises:
            SpiffeError: what the call failed with.
        """
        channel = await self._channel()
        open_call: grpc.aio.StreamStreamMultiCallable[Message, M] = channel.stream_stream(
            method.path, request_serializer=_serialize, response_deserializer=answer.FromString
        )
        call = open_call(timeout=self._timeout, metadata=tuple(metadata))
        try:
            yield Conversation(call)
        except grpc.aio.AioRpcError as exc:
            raise self._failure(error_of(exc)) from None
        except Unavailable as exc:
            raise self._failure(exc) from None
        finally:
            call.cancel()


class Conversation(Generic[M]):
    """Requests and answers, in turn."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[Message, M]") -> None:
        self._call = call

    async def ask(self, request: Message) -> M:
        """Send a request and wait for the answer to it."""
        try:
            await self._call.write(request)
        except asyncio.InvalidStateError:
            return await self.read()  # the call has ended already: this says with what
        except grpc.aio.AioRpcError as exc:
            # grpcio calls it an internal error, and forgets whatever the other side has said.
            raise Unavailable("the connection ended while a request was sent") from exc
        return await self.read()

    async def read(self) -> M:
        """The next answer.

        Raises:
            Unavailable: if there is none, because the server has ended the conversation.
        """
        message: Any = await self._call.read()
        if message is grpc.aio.EOF:
            raise Unavailable("the server ended the conversation before it had answered")
        found: M = message
        return found

    async def done(self) -> None:
        """Say that there is nothing more to ask."""
        await self._call.done_writing()


def error_of(failure: grpc.aio.AioRpcError) -> SpiffeError:
    """The error of ours that a failed call stands for; what has no branch of its own is Unavailable."""
    code = failure.code()
    text = f"rpc error: code = {code_name(code)} desc = {failure.details() or ''}"
    kind = _KIND.get(code, Unavailable)
    return Denied(text, _reason(failure)) if kind is Denied else kind(text)


def error_class(code: StatusCode) -> type[SpiffeError]:
    """The branch of the tree of errors that a status code stands for."""
    return _KIND.get(code, Unavailable)


def code_name(code: StatusCode) -> str:
    """The name of a status code, as Go writes it."""
    return _SPELLED.get(code) or "".join(part.capitalize() for part in code.name.split("_"))


def _reason(failure: grpc.aio.AioRpcError) -> DenialReason | None:
    """The reason in the details of a refusal, if there is one that we know."""
    for key, value in failure.trailing_metadata() or ():
        if key != _DETAILS or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                found = types_pb2.PermissionDeniedDetails()
                if detail.Unpack(found):
                    return DenialReason(found.reason)
        except (DecodeError, ValueError):
            return None
    return None


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
