"""The parts of an agent process and how they are joined.

Two times: what is needed to come by an identity (``Parts``), and what lives on one (``Working``).  ``agent.app``
says when each begins.
"""

import asyncio
import time
from datetime import datetime
from typing import Final

from agent.agent_svid import AgentSvid
from agent.attestation import Credentials, NodeAttestation
from agent.bootstrap import Bootstrap
from agent.cache import IdentityCache
from agent.client import ServerClient
from agent.config import AgentConfig
from agent.contact import OPTIONS, Contact
from agent.endpoints import Endpoints
from agent.health import AgentHealth
from agent.jwt_cache import JwtSvids
from agent.own_keys import OwnKeys
from agent.plugins import AgentPlugins
from agent.rotation import Rotation
from agent.state import StateFile
from agent.svid_fetcher import SvidFetcher
from agent.sync import Synchroniser
from agent.trust_source import TrustSource
from agent.workload_attestors.base import WorkloadAttestor
from agent.workload_svids import WorkloadSvids
from spiffe_core.bundle import Bundle
from spiffe_core.ids import server_id
from spiffe_core.runtime.clock import Clock, SystemClock
from spiffe_core.runtime.dial import Dialer
from spiffe_core.runtime.health import Health
from spiffe_core.runtime.lanes import Lanes
from spiffe_core.runtime.levels import LevelSwitch
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.x509svid import Chain

_KEY_MANAGER_LANES: Final = 2
"""The agent has one key and signs little with it."""


class Parts:
    """An agent process, put together.  ``close`` takes it apart again, whatever had begun."""

    def __init__(
        self,
        config: AgentConfig,
        state: StateFile,
        plugins: AgentPlugins,
        metrics: Metrics,
        level: LevelSwitch,
        clock: Clock,
    ) -> None:
        self._config = config
        self._plugins = plugins
        self._began = time.monotonic()
        self.level = level
        self.clock = clock
        self.metrics = metrics
        self.metrics.gauge("uptime_seconds", "Seconds since the agent began", self.uptime)
        self.state = state
        self._lanes = Lanes("the key manager", most=_KEY_MANAGER_LANES)
        self.own_keys = OwnKeys(keys=plugins.keys, lanes=self._lanes, state=state)
        self.target = _target(config)
        self.attestation = NodeAttestation(
            contact=Contact(target=self.target, trust_domain=config.trust_domain, clock=self.clock),
            attestor=plugins.node_attestor,
            keys=self.own_keys,
            state=state,
            clock=self.clock,
        )
        self.bootstrap = Bootstrap(
            config=config,
            source=TrustSource(config),
            attestation=self.attestation,
            keys=self.own_keys,
            state=state,
            clock=self.clock,
        )
        served = not (config.disable_workload_api and config.disable_sds_api)
        self.agent_health = AgentHealth([config.socket_path] if served else [], self.clock)
        self.health = Health({"agent": self.agent_health.check}, self.clock)

    @classmethod
    async def open(cls, config: AgentConfig, level: LevelSwitch, clock: Clock | None = None) -> "Parts":
        """Read the state, open the key manager and start the plugins that are other programs.

        Raises:
            SpiffeError: if one of them cannot be used.
        """
        state = StateFile(config.data_dir)
        metrics = Metrics(config.telemetry.metric_prefix or "spire_agent")
        plugins = await asyncio.to_thread(AgentPlugins.open, config, metrics)
        try:
            return cls(config, state, plugins, metrics, level, clock or SystemClock())
        except BaseException:
            await asyncio.to_thread(plugins.close)
            raise

    def workload_attestors(self) -> list[WorkloadAttestor]:
        """New workload attestors, for a life of their own."""
        return [make() for make in self._plugins.workload_attestors]

    async def reconfigure_plugins(self) -> None:
        """Have external plugins read their data again."""
        await asyncio.to_thread(self._plugins.reconfigure)

    def uptime(self) -> float:
        """Seconds since the agent began."""
        return time.monotonic() - self._began

    async def close(self) -> None:
        """Let go of the key manager and the other plugins."""
        self._lanes.close()
        await asyncio.to_thread(self._plugins.close)


class Working:
    """What works while the agent has an identity."""

    def __init__(self, config: AgentConfig, parts: Parts, credentials: Credentials, bundle: Bundle) -> None:
        rotation = Rotation(config.availability_target)
        self._dialer = Dialer(
            target=parts.target,
            server_id=server_id(config.trust_domain),
            bundle=lambda: self.cache.own,
            identity=lambda: self.svid.identity(),  # noqa: PLW0108  it is made below
            clock=parts.clock,
            options=OPTIONS,
        )
        client = ServerClient(self._dialer, config.trust_domain)
        self.jwt_svids = JwtSvids(
            ask=client.jwt_svid,
            size=config.jwt_svid_cache_max_size,
            rotation=rotation,
            clock=parts.clock,
            hit_patience=config.experimental.jwt_svid_cache_hit_timeout.total_seconds(),
        )
        self.cache = IdentityCache(
            own=bundle,
            svids=WorkloadSvids(room=config.x509_svid_cache_max_size, rotation=rotation),
            jwt_svids=self.jwt_svids,
        )
        self.svid = AgentSvid(
            credentials=credentials,
            client=client,
            attestation=parts.attestation,
            bundle=lambda: self.cache.own,
            refresh=self._dialer.refresh,
            keys=parts.own_keys,
            state=parts.state,
            rotation=rotation,
            clock=parts.clock,
        )
        self.fetcher = SvidFetcher(
            client=client,
            cache=self.cache,
            key_type=config.workload_x509_svid_key_type,
            rotation=rotation,
            clock=parts.clock,
            metrics=parts.metrics,
        )
        self.sync = Synchroniser(
            client=client,
            cache=self.cache,
            jwt_svids=self.jwt_svids,
            svid=self.svid,
            bootstrap=parts.bootstrap,
            state=parts.state,
            interval=config.experimental.sync_interval,
            clock=parts.clock,
            metrics=parts.metrics,
        )
        self.endpoints = Endpoints(
            config=config,
            identities=self.cache,
            attestors=parts.workload_attestors(),
            status=_Status(self),
            health=parts.health,
            level=parts.level,
            metrics=parts.metrics,
            clock=parts.clock,
            uptime=parts.uptime,
        )
        for name, about, count in (
            ("entries", "Entries that this agent has", lambda: len(self.cache)),
            ("cached_x509_svids", "X509-SVIDs of workloads that are held", lambda: self.cache.svid_count),
            ("cached_jwt_svids", "JWT-SVIDs that are held", lambda: len(self.jwt_svids)),
        ):
            parts.metrics.gauge(name, about, count)

    async def close(self) -> None:
        """Cut the connection to the server."""
        await self.jwt_svids.close()
        await self._dialer.close()


class _Status:
    """What the agent says of itself (``agent.debug_service.AgentStatus``)."""

    def __init__(self, working: Working) -> None:
        self._working = working

    def svid_chain(self) -> Chain:
        """The agent's chain, and the authority of the bundle that ends it."""
        chain = self._working.svid.credentials.chain
        anchors = (one.certificate for one in self._working.cache.own.x509_authorities)
        return (*chain, *[anchor for anchor in anchors if anchor.subject == chain[-1].issuer][:1])

    def x509_svid_count(self) -> int:
        """X509-SVIDs of workloads."""
        return self._working.cache.svid_count

    def jwt_svid_count(self) -> int:
        """JWT-SVIDs."""
        return len(self._working.jwt_svids)

    def last_sync(self) -> datetime | None:
        """When the server has last answered everything."""
        return self._working.sync.last_sync


def _target(config: AgentConfig) -> str:
    host = config.server_address
    return f"[{host}]:{config.server_port}" if ":" in host else f"{host}:{config.server_port}"
