"""The server's two endpoints: the TCP port for agents and remote administrators, and the private Unix socket.

They are two gRPC servers, so that no mistake in telling peers apart makes a remote caller a local one; Debug,
Logger and Health are only on the private one.
"""

import socket
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import structlog
from grpc_health.v1 import health_pb2

from server.api.agent import AgentService
from server.api.bundle import BundleService
from server.api.debug import DebugService
from server.api.entry import EntryService
from server.api.svid import SvidService
from server.audit import AuditLog
from server.authorization import Authorizer
from server.config import ServerConfig
from server.datastore.store import Datastore
from server.gate import ServerGate
from server.node_attestors.base import NodeAttestor
from server.node_attestors.join_token import JoinTokenAttestor
from server.rate_limits import limits_of
from server.registry import Registry
from server.server_svid import ServerSvid
from server.shared import Shared, local_paths
from server.signing import Signer
from server.trust import TrustStore
from spiffe_core.api.services import service_in
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.api.spire.api.server.debug.v1 import debug_pb2
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.server.logger.v1 import logger_pb2
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.runtime.admission import LocalAdmission, TlsAdmission
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.endpoint import Endpoint, Options
from spiffe_core.runtime.frontdoor import Limits
from spiffe_core.runtime.health import Health
from spiffe_core.runtime.health_service import HealthService
from spiffe_core.runtime.lanes import Lanes
from spiffe_core.runtime.logger_service import LoggerService
from spiffe_core.runtime.metrics import Metrics

MAX_CONNECTION_AGE: Final = 180_000
"""Milliseconds after which a TCP client is asked to connect again, and so to show a valid certificate again.

After as long again, the calls that are still open on the connection are cut off: none that an agent or administrator
makes takes so long, and whoever has not even a certificate could hold them open for ever.
"""

log: Final = structlog.get_logger()


def connection_age(milliseconds: int) -> Options:
    """The options of an endpoint whose connections live that long, and their open calls as long again."""
    return [("grpc.max_connection_age_ms", milliseconds), ("grpc.max_connection_age_grace_ms", milliseconds)]


class Endpoints:
    """Both endpoints and the services on them."""

    def __init__(
        self,
        *,
        config: ServerConfig,
        shared: Shared,
        datastore: Datastore,
        database: Lanes,
        registry: Registry,
        trust: TrustStore,
        svid: ServerSvid,
        signer: Signer,
        health: Health,
        metrics: Metrics,
        clock: Clock,
        node_attestors: Mapping[str, NodeAttestor] = MappingProxyType({}),
    ) -> None:
        self._config = config
        admission = TlsAdmission(
            trust_domain=config.trust_domain,
            identity=svid.current,
            bundle_of=trust.bundle_of,
            admin_ids=config.admin_ids,
            clock=clock,
        )
        limits = Limits(connections=config.max_connections, connections_per_caller=config.max_connections)
        self._remote = Endpoint(admission, limits=limits, options=connection_age(MAX_CONNECTION_AGE))
        self._local = Endpoint(LocalAdmission(clock=clock))
        audit = AuditLog(enabled=config.audit_log_enabled)
        authorizer = Authorizer(
            registry=registry,
            admin_ids=frozenset(config.admin_ids),
            limits=shared.rate_limits,
            limited=limits_of(attestation=config.ratelimit.attestation, signing=config.ratelimit.signing),
            now=clock.now,
        )
        domain = config.trust_domain
        tokens = JoinTokenAttestor(trust_domain=domain, tokens=datastore.join_tokens, database=database, clock=clock)
        # Join tokens need no plugin, as in SPIRE: there are none but those that an administrator made.
        attestors: dict[str, NodeAttestor] = {"join_token": tokens, **node_attestors}
        everywhere = {
            agent_pb2: AgentService(
                trust_domain=domain,
                agents=datastore.agents,
                join_tokens=datastore.join_tokens,
                entries=datastore.entries,
                attestors=attestors,
                signer=signer,
                database=database,
                clock=clock,
                agent_id_as_selector=config.experimental.agent_spiffe_id_as_selector,
            ),
            entry_pb2: EntryService(
                trust_domain=domain, entries=datastore.entries, authorized=registry, database=database, audit=audit
            ),
            svid_pb2: SvidService(trust_domain=domain, entries=registry, signer=signer, audit=audit),
            bundle_pb2: BundleService(
                trust_domain=domain, known=trust, bundles=datastore.bundles, database=database, audit=audit
            ),
        }
        only_local = {
            debug_pb2: DebugService(
                identity=svid,
                agents=datastore.agents,
                entries=datastore.entries,
                bundles=datastore.bundles,
                database=database,
                clock=clock,
                uptime=shared.uptime,
            ),
            logger_pb2: LoggerService(shared.level),
            health_pb2: HealthService(health.is_ready, clock),
        }
        for endpoint, services in ((self._remote, everywhere), (self._local, everywhere | only_local)):
            gate = ServerGate(door=endpoint.door, authorizer=authorizer, audit=audit, metrics=metrics)
            for module, servicer in services.items():
                endpoint.add(service_in(module.DESCRIPTOR), servicer, gate)

    async def start(self, shared: Shared) -> None:
        """Serve.

        Raises:
            InvalidConfig: if the TCP address cannot be listened on.
        """
        remote = shared.listen(self._config)
        await self._remote.start(remote)
        await self._local.start(shared.local)
        for listener in remote:
            log.info("Starting Server APIs", address=_address(listener), network="tcp", subsystem_name="endpoints")
        for path in local_paths(self._config):
            log.info("Starting Server APIs", address=str(path), network="unix", subsystem_name="endpoints")

    async def stop(self, grace: float) -> None:
        """Stop both, giving open calls ``grace`` seconds to end."""
        await self._remote.stop(grace)
        await self._local.stop(grace)


def _address(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"{host}:{port}"
