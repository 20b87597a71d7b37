"""The parts of a server process and how they are joined.

``Parts.open`` makes them; what may block does so in lanes or threads.  ``server.app`` says when each begins.
"""

import asyncio
from typing import Final

import structlog

from hsm_ca.lease import LeaseKeeper
from hsm_ca.manager import AuthorityManager
from keymanagers.base import WatchedKeyManager
from server.authority_group import authority_group
from server.config import ServerConfig
from server.endpoints import Endpoints
from server.holder import has_ended, holder_name
from server.registry import Registry
from server.registry_cache import RegistryCache
from server.resources import Resources
from server.server_svid import ServerSvid
from server.shared import Shared
from server.signing import Signer
from server.upkeep import Retention, Upkeep
from spiffe_core.errors import DatastoreUnavailable, FailedPrecondition, KeyManagerUnavailable, Unavailable
from spiffe_core.runtime.clock import Clock, SystemClock
from spiffe_core.runtime.health import Health
from spiffe_core.runtime.lanes import Lanes

DATABASE_LANES: Final = 16
"""The most threads that wait for the database."""
_DATABASE_IS_SLOW: Final = 0.0002
_TICK_DEADLINE: Final = 120.0
"""Seconds that one round of the authority manager may take: making an RSA key in a token takes some."""

log: Final = structlog.get_logger()


class Parts:
    """A server process, put together.  ``close`` takes it apart again, whatever had begun."""

    def __init__(self, config: ServerConfig, shared: Shared, resources: Resources, clock: Clock) -> None:
        self._config = config
        self._resources = resources
        self._datastore = datastore = resources.datastore
        self.clock = clock
        policy = config.ca_policy
        self._database = Lanes(
            "the database", most=DATABASE_LANES, slow=_DATABASE_IS_SLOW, unavailable=DatastoreUnavailable
        )
        self._signing = Lanes("the key manager", most=config.max_lanes, deadline=config.lane_deadline.total_seconds())
        # One lane: while a round hangs there is no other, and the manager is never entered twice.
        self._ticking = Lanes("the authority manager", most=1, deadline=_TICK_DEADLINE)
        self.trust = resources.trust
        group = authority_group(config.key_manager, resources.keys, config.data_dir)
        self._lease = LeaseKeeper(datastore.lease(group), holder_name(), has_ended=has_ended)
        self.authorities = AuthorityManager(
            policy=policy,
            keys=resources.keys,
            journal=datastore.journal(group),
            lease=self._lease,
            bundles=self.trust,
            upstream=resources.upstream,
            verify_signatures=config.verify_signatures,
        )
        self.metrics = resources.metrics
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
        resources.plugins.services.answer_with(
            identity=self.svid.current, bundle=lambda: self.trust.own, agent=datastore.agents.get
        )
        self.endpoints = Endpoints(
            config=config,
            shared=shared,
            datastore=datastore,
            node_attestors=resources.node_attestors,
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
        """Connect to the database, open the key manager and start the plugins that are other programs.

        Raises:
            SpiffeError: if one of them cannot be used.
        """
        clock = clock or SystemClock()
        resources = await asyncio.to_thread(Resources.open, config, clock)
        try:
            return cls(config, shared, resources, clock)
        except BaseException:
            await asyncio.to_thread(resources.close)
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

    async def reconfigure_plugins(self) -> None:
        """Have external plugins read their data again."""
        await asyncio.to_thread(self._resources.plugins.reconfigure)

    def authorities_ready(self) -> bool:
        """Whether everything that this server is to sign can be signed."""
        try:
            _ = self.authorities.x509, self._config.disable_jwt_svids or self.authorities.jwt
        except Unavailable:
            return False
        return True

    async def close(self) -> None:
        """Give up the lease and let go of plugins, key manager and database."""
        try:
            await self._ticking.run(self.authorities.close)
        except Unavailable as exc:
            log.warning("The lease of the authority group was not given up; it will run out", error=str(exc))
        for lanes in (self._ticking, self._signing, self._database):
            lanes.close()
        await asyncio.to_thread(self._resources.close)

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
            troubles = self._resources.keys.troubles() if isinstance(self._resources.keys, WatchedKeyManager) else ()
            raise KeyManagerUnavailable("; ".join((f"{health.lost} calls to the key manager hang", *troubles)))
        if isinstance(self._resources.keys, WatchedKeyManager):
            await self._signing.run(self._resources.keys.check)
