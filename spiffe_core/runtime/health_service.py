"""The standard health service (grpc.health.v1) of a server's private socket and an agent's Workload API socket."""

from collections.abc import Callable
from typing import Final

from grpc_health.v1 import health_pb2

from spiffe_core.errors import NotFound
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.rpc import Send

WATCH_EVERY: Final = 1.0
"""Seconds between two looks for a watcher."""


class HealthService:
    """``grpc.health.v1.Health`` for the whole process, whose service name is the empty one."""

    def __init__(self, is_healthy: Callable[[], bool], clock: Clock) -> None:
        self._is_healthy = is_healthy
        self._clock = clock

    async def Check(  # noqa: N802  the RPC's name
        self,
        request: health_pb2.HealthCheckRequest,
        _call: object,
    ) -> health_pb2.HealthCheckResponse:
        """Whether the process serves."""
        if request.service:
            raise NotFound("unknown service")
        return self._answer()

    async def Watch(  # noqa: N802  the RPC's name
        self,
        request: health_pb2.HealthCheckRequest,
        _call: object,
        send: Send,
    ) -> None:
        """Whether the process serves, now and whenever it changes."""
        if request.service:
            await send(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN))
        last = None
        while True:
            answer = self._answer()
            if not request.service and answer != last:
                await send(answer)
                last = answer
            await self._clock.sleep(WATCH_EVERY)

    def _answer(self) -> health_pb2.HealthCheckResponse:
        status = health_pb2.HealthCheckResponse
        return status(status=status.SERVING if self._is_healthy() else status.NOT_SERVING)
