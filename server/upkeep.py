"""What is thrown away in time: expired entries, agents, tokens, journals, and the tail of the change feed.

Each server of a group does this; deleting twice harms nobody, and no server depends on another.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from hsm_ca.lifetimes import FORGET_AFTER
from server.datastore.store import Datastore
from spiffe_core.runtime.clock import Clock, unix
from spiffe_core.runtime.lanes import Lanes

ENTRIES_EVERY: Final = 300.0
"""Seconds between two rounds over entries and tokens (SPIRE's)."""
AGENTS_EVERY: Final = 3600.0
"""Seconds between two rounds over agents (SPIRE's)."""
JOURNALS_EVERY: Final = 8 * 3600.0
"""Seconds between two rounds over journals (SPIRE's)."""
_ENTRIES_AT_ONCE: Final = 1000

log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What the operator decided about agents and the change feed."""

    agents_expired_for: timedelta | None = None
    agents_at_once: int = 1000
    tofu_agents: bool = False
    changes: timedelta = timedelta(hours=12)


class Upkeep:
    """The rounds."""

    def __init__(self, *, datastore: Datastore, database: Lanes, retention: Retention, clock: Clock) -> None:
        self._datastore = datastore
        self._database = database
        self._retention = retention
        self._clock = clock

    async def entries_and_tokens(self) -> None:
        """Delete expired entries and join tokens."""
        now = unix(self._clock.now())
        while pruned := await self._database.run(lambda: self._datastore.entries.prune(now, _ENTRIES_AT_ONCE)):
            for entry in pruned:
                log.info("Pruned an expired registration", entry_id=entry.id, spiffe_id=str(entry.spiffe_id))
            if len(pruned) < _ENTRIES_AT_ONCE:
                break
        await self._database.run(lambda: self._datastore.join_tokens.prune(now))

    async def agents_and_changes(self) -> None:
        """Delete agents that expired long ago, if the operator wants that, and old rows of the change feed."""
        keep = self._retention
        now = self._clock.now()
        if keep.agents_expired_for is not None:
            before = unix(now - keep.agents_expired_for)
            pruned = await self._database.run(
                lambda: self._datastore.agents.prune(before, include_tofu=keep.tofu_agents, at_most=keep.agents_at_once)
            )
            for agent in pruned:
                log.info("Pruned an expired agent", agent_id=str(agent.id))
        changes_before = unix(now - keep.changes)
        await self._database.run(lambda: self._datastore.changes.prune(changes_before))

    async def journals(self) -> None:
        """Delete the journals of servers that are gone for good."""
        before = unix(self._clock.now() - FORGET_AFTER)
        for group in await self._database.run(lambda: tuple(self._datastore.prune_journals(before))):
            log.info("Pruned the journal of an authority group", authority_group=group)
