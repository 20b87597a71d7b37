"""Outcomes of the items of a batch: a gRPC status code and a text."""

from typing import Final

from grpc import StatusCode

from spiffe_core.api.spire.api.types.status_pb2 import Status

_CODES: Final = {code.value[0]: code for code in StatusCode}


def status_from_pb(pb: Status) -> tuple[StatusCode, str]:
    """The outcome; a code that gRPC does not define is UNKNOWN, as it is to gRPC."""
    return _CODES.get(pb.code, StatusCode.UNKNOWN), pb.message


def status_to_pb(code: StatusCode = StatusCode.OK, message: str = "OK") -> Status:
    """The outcome as a message; success, if nothing is said."""
    return Status(code=code.value[0], message=message)
