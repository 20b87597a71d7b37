"""The parts of a server process and how they are joined.

``Parts.open`` makes them; what may block does so in lanes or threads.  ``server.app`` says when each begins.
"""

import asyncio
from typing import Final

import structlog

from hsm_ca.lease import LeaseKeeper
from hsm_ca.manager import AuthorityManager
from hsm_ca.upstream import Upstream
from keymanagers.base import KeyManager
from keymanagers.registry import open_key_manager
from server.authority_group import authority_group
from server.config import ServerConfig
from server.datastore.config import SqlConfig
from server.datastore.store import Datastore
from server.endpoints import Endpoints
from server.holder import has_ended, holder_name
from server.registry import Registry
from server.registry_cache import RegistryCache
from server.server_svid import ServerSvid
from server.shared import Shared
from server.signing import Signer
from server.trust import TrustStore
from server.upkeep import Retention, Upkeep
from server.upstream_authorities.disk import DiskUpstream, DiskUpstreamConfig
from spiffe_core.errors import DatastoreUnavailable, FailedPrecondition, KeyManagerUnavailable, Unavailable
from spiffe_core.runtime.clock import Clock, SystemClock
from spiffe_core.runtime.health import Health
from spiffe_core.runtime.lanes import Lanes
from spiffe_core.runtime.metrics import Metrics

DATABASE_LANES: Final = 16
"""The most threads that wait for the database."""
_DATABASE_IS_SLOW: Final = 0.0002
_TICK_DEADLINE: Final = 120.0
"""Seconds that one round of the authority manager may take: making an RSA key in a token takes some."""

log: Final = structlog.get_logger()


class Parts:
    """A server process, put together.  ``close`` takes it apart again, whatever had begun."""

    def __init__(
        self, config: ServerConfig, shared: Shared, datastore: Datastore, keys: KeyManager, clock: Clock
    ) -> None:
        self._config = config
        self._datastore = datastore
        self._keys = keys
        self.clock = clock
        policy = config.ca_policy
        self._database = Lanes(
            "the database", most=DATABASE_LANES, slow=_DATABASE_IS_SLOW, unavailable=DatastoreUnavailable
        )
        self._signing = Lanes("the key manager", most=config.max_lanes, deadline=config.lane_deadline.total_seconds())
        # One lane: while a round hangs there is no other, and the manager is never entered twice.
        self._ticking = Lanes("the authority manager", most=1, deadline=_TICK_DEADLINE)
        self.trust = TrustStore(config.trust_domain, datastore.bundles)
        group = authority_group(config.key_manager, keys)
        self._lease = LeaseKeeper(datastore.lease(group), holder_name(), has_ended=has_ended)
        self.authorities = AuthorityManager(
            policy=policy,
            keys=keys,
            journal=datastore.journal(group),
            lease=self._lease,
            bundles=self.trust,
            upstream=_upstream(config),
        )
        self.metrics = Metrics(config.telemetry.metric_prefix or "spire_server")
        signer = Signer(authorities=self.authorities, lanes=self._signing, policy=policy, clock=self.clock)
        cache = RegistryCache(
            datastore, config.trust_domain, agent_spiffe_id_as_selector=config.experimental.agent_spiffe_id_as_selector
        )
        self.registry = Registry(
            cache=cache,
            trust=self.trust,
            datastore=datastore,
            database=self._database,
            clock=self.clock,
            staleness=config.max_attested_node_info_staleness.total_seconds(),
        )
        self.svid = ServerSvid(
            trust_domain=config.trust_domain,
            key_type=config.ca_key_type,
            signer=signer,
            trust=self.trust,
            clock=self.clock,
        )
        self.health = Health(
            {
                "catalog.datastore": self._check_datastore,
                "server.ca": self._check_authorities,
                "key_manager": self._check_key_manager,
            },
            self.clock,
        )
        self.upkeep = Upkeep(
            datastore=datastore,
            database=self._database,
            retention=Retention(
                agents_expired_for=config.prune_attested_nodes_expired_for,
                agents_at_once=config.prune_attested_nodes_batch_size,
                tofu_agents=config.prune_tofu_nodes,
                changes=config.experimental.prune_events_older_than,
            ),
            clock=self.clock,
        )
        self.endpoints = Endpoints(
            config=config,
            shared=shared,
            datastore=datastore,
            database=self._database,
            registry=self.registry,
            trust=self.trust,
            svid=self.svid,
            signer=signer,
            health=self.health,
            metrics=self.metrics,
            clock=self.clock,
        )

    @classmethod
    async def open(cls, config: ServerConfig, shared: Shared, clock: Clock | None = None) -> "Parts":
        """Connect to the database and open the key manager.

        Raises:
            SpiffeError: if one of them cannot be used.
        """
        clock = clock or SystemClock()
        datastore, keys = await asyncio.to_thread(_open, config, clock)
        try:
            return cls(config, shared, datastore, keys, clock)
        except BaseException:
            await asyncio.to_thread(keys.close)
            await asyncio.to_thread(datastore.close)
            raise

    async def check_trust_domain(self) -> None:
        """Make sure that the database is of this trust domain.

        Raises:
            FailedPrecondition: if its first entry is of another.
        """
        domain = self._config.trust_domain
        first = await self._database.run(lambda: self._datastore.entries.list(page_size=1).items)
        if first and not first[0].spiffe_id.member_of(domain):
            raise FailedPrecondition(
                f'the database is of trust domain "{first[0].spiffe_id.trust_domain}", as its registration entries '
                f'say; this server is configured for "{domain}"'
            )
        agents = await self._database.run(lambda: self._datastore.agents.list(page_size=1).items)
        if agents and not agents[0].id.member_of(domain):
            log.warning("Attested agent is of another trust domain", agent_id=str(agents[0].id))

    async def start_authorities(self) -> None:
        """Compare journal and module before anything is done with either.

        Raises:
            FailedPrecondition: if a key is missing.
        """
        await self._ticking.run(self.authorities.start)

    async def tick_authorities(self) -> None:
        """One round of the authority manager; what is unavailable now is logged and tried again in the next."""
        await self._ticking.run(lambda: self.authorities.tick(self.clock.now(), self.clock.monotonic()))

    def authorities_ready(self) -> bool:
        """Whether everything that this server is to sign can be signed."""
        try:
            _ = self.authorities.x509, self._config.disable_jwt_svids or self.authorities.jwt
        except Unavailable:
            return False
        return True

    async def close(self) -> None:
        """Give up the lease and let go of key manager and database."""
        try:
            await self._ticking.run(self.authorities.close)
        except Unavailable as exc:
            log.warning("The lease of the authority group was not given up; it will run out", error=str(exc))
        for lanes in (self._ticking, self._signing, self._database):
            lanes.close()
        await asyncio.to_thread(self._keys.close)
        await asyncio.to_thread(self._datastore.close)

    async def _check_datastore(self) -> None:
        await self._database.run(self._datastore.ping)

    async def _check_authorities(self) -> None:
        now = self.clock.now()
        if now >= self.authorities.x509.not_after:
            raise Unavailable("the X.509 authority has expired")
        if not self._config.disable_jwt_svids and now >= self.authorities.jwt.not_after:
            raise Unavailable("the JWT authority has expired")

    async def _check_key_manager(self) -> None:
        health = self._signing.health()
        if health.open:
            raise KeyManagerUnavailable(f"{health.lost} calls to the key manager hang")


def _open(config: ServerConfig, clock: Clock) -> tuple[Datastore, KeyManager]:
    datastore = Datastore.open(config.datastore.load_data().read(SqlConfig), clock)
    try:
        plugin = config.key_manager
        keys = open_key_manager(plugin.name, plugin.load_data(), authority_group=config.trust_domain.name)
    except BaseException:
        datastore.close()
        raise
    return datastore, keys


def _upstream(config: ServerConfig) -> Upstream | None:
    plugin = config.upstream_authority
    return DiskUpstream(plugin.load_data().read(DiskUpstreamConfig), config.trust_domain) if plugin else None
