"""Calls to a server or agent over its Unix socket, and what their failures look like: as grpc-go words them."""

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Final, Self, TypeVar, cast
from urllib.parse import quote as percent_encoded

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from spiffe_core.api.services import service_in
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.gotext import quote

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the library's own lines on standard error are not our output

import grpc

M = TypeVar("M", bound=Message)

_OPTIONS: Final = (("grpc.max_receive_message_length", 64 * 1024 * 1024),)
_UNREACHED: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)  # the latter for a path that is too long
_NO_GRPC: Final = "failed to connect to all addresses"
"""What the library says if somebody listens who does not speak HTTP/2, with what went wrong."""
_CODES: Final = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)


def code_name(code: int) -> str:
    """The name of a gRPC status code, as Go writes it."""
    return _CODES[code] if 0 <= code < len(_CODES) else f"Code({code})"


class RpcFailure(CommandError):
    """A call failed; the text is grpc-go's."""

    def __init__(self, code: grpc.StatusCode, description: str) -> None:
        self.code = code
        self.description = description
        super().__init__(f"rpc error: code = {code_name(code.value[0])} desc = {description}")


class LocalClient:
    """A connection to a Unix socket, made when the first call is."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._channel = grpc.insecure_channel(f"unix:{percent_encoded(path)}", options=_OPTIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(
        self,
        service: FileDescriptor,
        name: str,
        request: Message,
        answer: type[M],
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> M:
        """Call the RPC of that name and wait for its answer, so many seconds at most.

        Raises:
            RpcFailure: if the call fails.
        """
        method = self._channel.unary_unary(_path(service, name), type(request).SerializeToString, answer.FromString)
        try:
            return method(request, timeout=timeout, metadata=tuple(metadata))
        except grpc.RpcError as exc:
            raise self._failure(exc) from None

    def stream(
        self,
        service: FileDescriptor,
        name: str,
        request: Message,
        answer: type[M],
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Iterator[M]:
        """The answers of a streaming RPC, as they come.

        Raises:
            RpcFailure: if the call fails.
        """
        method = self._channel.unary_stream(_path(service, name), type(request).SerializeToString, answer.FromString)
        try:
            yield from method(request, timeout=timeout, metadata=tuple(metadata))
        except grpc.RpcError as exc:
            raise self._failure(exc) from None

    def _failure(self, error: grpc.RpcError) -> RpcFailure:
        call = cast("grpc.Call", error)
        code, details = call.code(), call.details() or ""
        if code in _UNREACHED and (reason := self._why_not()):
            text = f"transport: Error while dialing: dial unix{reason}"
            return RpcFailure(grpc.StatusCode.UNAVAILABLE, f"connection error: desc = {quote(text)}")
        if code is grpc.StatusCode.UNAVAILABLE and details.startswith(_NO_GRPC):
            reason = "connection reset by peer" if "reset by peer" in details else "EOF"
            text = f"error reading server preface: {reason}"
            return RpcFailure(code, f"connection error: desc = {quote(text)}")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            details = "context deadline exceeded"
        return RpcFailure(code, details)

    def _why_not(self) -> str:
        """Why nobody can be reached at the socket, with its path; empty if somebody can."""
        if not self._path:
            return ": missing address"
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(self._path)
            except OSError as exc:
                return f" {self._path}: connect: {(exc.strerror or 'invalid argument').lower()}"
        return ""


def _path(service: FileDescriptor, name: str) -> str:
    return f"/{service_in(service).full_name}/{name}"
