"""Outcomes of the items of a batch."""

import pytest
from grpc import StatusCode

from spiffe_core.api.convert.status import status_from_pb, status_to_pb
from spiffe_core.api.spire.api.types.status_pb2 import Status


@pytest.mark.parametrize("code", StatusCode)
def test_a_status_comes_back_as_it_went(code: StatusCode) -> None:
    assert status_from_pb(status_to_pb(code, "why")) == (code, "why")


def test_success_is_zero_and_ok() -> None:
    assert status_to_pb() == Status(code=0, message="OK")


def test_a_code_that_nobody_knows_is_unknown() -> None:
    assert status_from_pb(Status(code=99, message="x")) == (StatusCode.UNKNOWN, "x")
