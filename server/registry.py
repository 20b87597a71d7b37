"""The registry as the API's hot path sees it: entries and bundles in memory, an agent's standing in the database.

An agent's standing is read on each of its calls, so a ban holds on the next call at every server, unless the
operator allowed it to be older (``max_attested_node_info_staleness``).
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from server.datastore.standings import Standing, WouldWait
from server.datastore.store import Datastore
from server.registry_cache import RegistryCache
from server.trust import TrustStore
from spiffe_core.entries import Entry, EntryId
from spiffe_core.errors import DenialReason, Denied, Unavailable
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.lanes import Lanes

REFRESH_EVERY: Final = 0.3
"""Seconds between two looks at what other servers, or this one, changed."""
_KEPT_STANDINGS: Final = 10_000

log: Final = structlog.get_logger()


class Registry:
    """Answers who a caller is and what an agent is entitled to."""

    def __init__(
        self,
        *,
        cache: RegistryCache,
        trust: TrustStore,
        datastore: Datastore,
        database: Lanes,
        clock: Clock,
        staleness: float = 0.0,
    ) -> None:
        """Take the caches, the database and the lanes to it, and how many seconds old a standing may be."""
        self._cache = cache
        self._trust = trust
        self._datastore = datastore
        self._standings = datastore.standings
        self._database = database
        self._clock = clock
        self._staleness = staleness
        self._known: OrderedDict[SpiffeId, tuple[float, Standing]] = OrderedDict()

    async def refresh(self) -> None:
        """Catch up with the database.

        Raises:
            DatastoreUnavailable: if it does not answer; what was known stays.
        """
        await self._database.run(self._refresh)

    async def catch_up(self) -> None:
        """``refresh``, or nothing if the database does not answer now."""
        with suppress(Unavailable):
            await self.refresh()

    def authorized_for(self, agent_id: SpiffeId) -> Sequence[Entry]:
        """The entries to which an agent is entitled, the oldest first."""
        return self._cache.authorized_for(agent_id)

    def entry_for(self, agent_id: SpiffeId, entry_id: EntryId) -> Entry | None:
        """The entry of that ID, if the agent is entitled to it."""
        return self._cache.entry_for(agent_id, entry_id)

    def is_admin(self, spiffe_id: SpiffeId) -> bool:
        """Whether an entry makes the ID an admin's."""
        return self._cache.flags_of(spiffe_id).admin

    def is_downstream(self, spiffe_id: SpiffeId) -> bool:
        """Whether an entry makes the ID a downstream server's."""
        return self._cache.flags_of(spiffe_id).downstream is not None

    async def check_agent(self, spiffe_id: SpiffeId, serial: str) -> None:
        """Raise unless this is an attested agent with its current SVID; the first use of a renewed one makes it that.

        Raises:
            Denied: with the reason that the agent must know.
            DatastoreUnavailable: if the database does not answer.
        """
        if self._staleness and self._is_known(spiffe_id, serial):
            return
        standing = await self._standing(spiffe_id)
        if standing is None:
            raise Denied(f'agent "{spiffe_id}" is not attested', DenialReason.AGENT_NOT_ATTESTED)
        if standing.banned:
            raise Denied(f'agent "{spiffe_id}" is banned', DenialReason.AGENT_BANNED)
        if serial != standing.cert_serial:
            await self._use_renewed(spiffe_id, serial, standing)
        elif self._staleness:
            self._remember(spiffe_id, standing)

    async def _use_renewed(self, spiffe_id: SpiffeId, serial: str, standing: Standing) -> None:
        renewed = serial == standing.new_cert_serial
        if not (renewed and await self._database.run(lambda: self._datastore.agents.promote(spiffe_id, serial))):
            raise Denied(
                f'agent "{spiffe_id}" expected to have serial number "{standing.cert_serial}"; has "{serial}"',
                DenialReason.AGENT_NOT_ACTIVE,
            )

    async def _standing(self, spiffe_id: SpiffeId) -> Standing | None:
        if self._standings.inline:
            try:
                return self._standings.peek(spiffe_id)
            except WouldWait:
                log.debug("Agent standing was not to be had at once", agent_id=str(spiffe_id))
        return await self._database.run(lambda: self._standings.read(spiffe_id))

    def _is_known(self, spiffe_id: SpiffeId, serial: str) -> bool:
        known = self._known.get(spiffe_id)
        if known is None:
            return False
        read_at, standing = known
        return standing.cert_serial == serial and self._clock.monotonic() - read_at < self._staleness

    def _remember(self, spiffe_id: SpiffeId, standing: Standing) -> None:
        self._known[spiffe_id] = (self._clock.monotonic(), standing)
        self._known.move_to_end(spiffe_id)
        if len(self._known) > _KEPT_STANDINGS:
            self._known.popitem(last=False)

    def _refresh(self) -> None:
        changes = self._cache.refresh()
        self._trust.reload(None if changes.reload_needed else changes.bundles)
