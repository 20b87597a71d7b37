"""Connections to the server end in time, whatever their clients do."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2

from server.endpoints import connection_age
from spiffe_core.api.services import service_in
from spiffe_core.runtime.admission import LocalAdmission
from spiffe_core.runtime.clock import SystemClock
from spiffe_core.runtime.endpoint import Endpoint
from spiffe_core.runtime.sockets import listen_unix
from tests.support.servers import PATIENCE, method_of


class OpenGate:
    """Lets everybody in."""

    async def admit(self, method, peer, context):
        return peer

    def leave(self, call, method, error):
        """Note nothing."""


class EndlessWatch:
    """Answers once, and goes on without end."""

    async def Watch(self, request, call, send):  # noqa: N802  the name of the RPC
        await send(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING))
        await asyncio.Event().wait()


async def test_a_call_that_a_client_holds_open_is_cut_off_after_the_connections_age(tmp_path):
    endpoint = Endpoint(LocalAdmission(clock=SystemClock()), options=connection_age(100))
    endpoint.add(service_in(health_pb2.DESCRIPTOR), EndlessWatch(), OpenGate())
    await endpoint.start([listen_unix(tmp_path / "socket", mode=0o600)])
    try:
        async with asyncio.timeout(PATIENCE), grpc.aio.insecure_channel(f"unix:{tmp_path}/socket") as channel:
            watch = channel.unary_stream(
                method_of(health_pb2, "Watch").path,
                health_pb2.HealthCheckRequest.SerializeToString,
                health_pb2.HealthCheckResponse.FromString,
            )
            call = watch(health_pb2.HealthCheckRequest())
            assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        await endpoint.stop(0.0)
