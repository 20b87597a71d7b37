"""The agent's two endpoints: the Workload API's socket, open to every process of the machine, and the admin socket.

They are two gRPC servers: what only administrators may do is not merely hidden from workloads, it is not there.
The public socket has the mode 0777, since who may have what is decided by attestation; its folder is made such that
everybody reaches it.  The admin socket is for the agent's own user and group.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

import structlog
from grpc_health.v1 import health_pb2

from agent.config import AgentConfig
from agent.debug_service import AgentStatus, DebugService
from agent.gate import AgentGate
from agent.identities import Identities
from agent.rate_limits import RateLimits
from agent.reflection import add_reflection
from agent.workload_api import WorkloadApi
from agent.workload_attestation import WorkloadAttestation
from agent.workload_attestors.base import WorkloadAttestor
from spiffe_core.api import workload_pb2
from spiffe_core.api.services import service_in
from spiffe_core.api.spire.api.agent.debug.v1 import debug_pb2
from spiffe_core.api.spire.api.agent.logger.v1 import logger_pb2
from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.admission import LocalAdmission
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.endpoint import Endpoint
from spiffe_core.runtime.frontdoor import Limits
from spiffe_core.runtime.health import Health
from spiffe_core.runtime.health_service import HealthService
from spiffe_core.runtime.levels import LevelSwitch
from spiffe_core.runtime.logger_service import LoggerService
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.sockets import listen_unix

PUBLIC_MODE: Final = 0o777
"""Mode of the Workload API's socket (SPIRE's)."""
ADMIN_MODE: Final = 0o770
"""Mode of the admin socket (SPIRE's)."""
_FOLDER_MODE: Final = 0o755
_LIMITS: Final = Limits(connections_per_caller=2000)
"""Many workloads of a machine may run as one user."""

log: Final = structlog.get_logger()


class Endpoints:
    """Both endpoints, as far as they are configured, and the services on them."""

    def __init__(
        self,
        *,
        config: AgentConfig,
        identities: Identities,
        attestors: Sequence[WorkloadAttestor],
        status: AgentStatus,
        health: Health,
        level: LevelSwitch,
        metrics: Metrics,
        clock: Clock,
        uptime: Callable[[], float],
    ) -> None:
        self._config = config
        self._attestation = WorkloadAttestation(attestors, metrics)
        self._workload_api: WorkloadApi | None = None
        self._public: Endpoint | None = None
        self._admin: Endpoint | None = None
        health_service = HealthService(health.is_ready, clock)
        if not config.disable_workload_api:
            limits = RateLimits(config.experimental.ratelimit, metrics=metrics, monotonic=clock.monotonic)
            self._workload_api = WorkloadApi(
                trust_domain=config.trust_domain,
                identities=identities,
                attestation=self._attestation,
                limits=limits,
                clock=clock,
                allow_unauthenticated_verifiers=config.allow_unauthenticated_verifiers,
                allowed_foreign_jwt_claims=config.allowed_foreign_jwt_claims,
                log_selectors=config.log_selectors,
            )
            for path, limit in limits.limits.items():
                log.info("Workload API rate limiting enabled", method=path, limit=limit)
        if not (config.disable_workload_api and config.disable_sds_api):
            services: dict[ModuleType, object] = {health_pb2: health_service}
            if self._workload_api is not None:
                services[workload_pb2] = self._workload_api
            self._public, gate = _endpoint(services, metrics, clock)
            descriptors = [service_in(module.DESCRIPTOR) for module in services]
            self._public.extend(lambda server: add_reflection(server, descriptors))
            metrics.gauge(
                "workload_api_connections", "Calls of the Workload API that are open", lambda: gate.open_calls
            )
        if config.admin_socket_path is not None:
            debug = DebugService(status=status, clock=clock, uptime=uptime)
            self._admin, _ = _endpoint({debug_pb2: debug, logger_pb2: LoggerService(level)}, metrics, clock)

    async def start(self) -> None:
        """Serve.

        Raises:
            InvalidConfig: if a socket cannot be listened on.
        """
        if self._public is not None:
            path = self._config.socket_path.absolute()
            _make_public_folder(path.parent)
            await self._public.start([listen_unix(path, mode=PUBLIC_MODE)])
            apis = "Workload API" if self._workload_api is not None else "no APIs"
            log.info("Starting agent APIs", network="unix", address=str(path), apis=apis, subsystem_name="endpoints")
        if self._admin is not None and self._config.admin_socket_path is not None:
            path = self._config.admin_socket_path.absolute()
            await self._admin.start([listen_unix(path, mode=ADMIN_MODE, folder_mode=_FOLDER_MODE)])
            log.info("Starting Admin APIs", network="unix", address=str(path), subsystem_name="endpoints")

    async def stop(self, grace: float) -> None:
        """End the streams of workloads, give other calls ``grace`` seconds to end, and stop both endpoints."""
        if self._workload_api is not None:
            self._workload_api.close()
        await asyncio.gather(*(one.stop(grace) for one in (self._public, self._admin) if one is not None))
        self._attestation.close()


def _endpoint(services: dict[ModuleType, object], metrics: Metrics, clock: Clock) -> tuple[Endpoint, AgentGate]:
    """An endpoint for local callers with the one service of each module."""
    endpoint = Endpoint(LocalAdmission(clock=clock), limits=_LIMITS)
    gate = AgentGate(door=endpoint.door, metrics=metrics)
    for module, servicer in services.items():
        endpoint.add(service_in(module.DESCRIPTOR), servicer, gate)
    return endpoint, gate


def _make_public_folder(folder: Path) -> None:
    """Make the folder and those above it as far as they are missing, for everybody to enter, whatever the umask.

    Raises:
        InvalidConfig: if that is impossible.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            one.chmod(_FOLDER_MODE)
    except OSError as exc:
        raise InvalidConfig(f"agent.socket_path: cannot make folder {str(folder)!r}: {exc.strerror}") from exc
