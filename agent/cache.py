"""What the agent knows for its workloads: entries, SVIDs and bundles, put together for each set of selectors.

The synchroniser brings entries and bundles, the fetcher SVIDs.  Each change is passed on to the groups of workloads
(``agent.groups``) that it may concern, found by the selectors of the entry in question.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

import structlog

from agent.entry_index import EntryIndex, without_rivals
from agent.groups import Group, Groups
from agent.identities import Identity, Selectors, WorkloadState, WorkloadSvid
from agent.jwt_cache import JwtSvids
from agent.subscription import CacheSubscription
from agent.workload_svids import StaleEntry, WorkloadSvids
from spiffe_core.bundle import Bundle
from spiffe_core.entries import Entry, EntryId
from spiffe_core.ids import TrustDomain
from spiffe_core.jwtsvid import JwtSvid

log: Final = structlog.get_logger()


class IdentityCache:
    """Answers for workloads (``agent.identities.Identities``), from what the synchroniser and the fetcher bring."""

    def __init__(self, *, own: Bundle, svids: WorkloadSvids, jwt_svids: JwtSvids) -> None:
        self._own = own
        self._federated: Mapping[TrustDomain, Bundle] = {}
        self._index = EntryIndex()
        self._svids = svids
        self._jwt_svids = jwt_svids
        self._groups = Groups(self._compute)
        self.wanted = asyncio.Event()
        """Set when an SVID is waited for that is not there."""
        self.behind = asyncio.Event()
        """Set when an SVID has come whose authority is not in the bundle."""

    # -- for workloads -------------------------------------------------------------------------------------

    def state_of(self, selectors: Selectors) -> WorkloadState:
        """The state of this moment; an SVID that is not there is None."""
        return self._groups.of(selectors).state()

    def subscribe(self, selectors: Selectors, *, svids: bool = True) -> CacheSubscription:
        """Follow the state, with SVIDs or without."""
        return CacheSubscription(
            self._groups, selectors, svids=svids, waits=self._waits, is_refused=self._svids.is_refused
        )

    async def jwt_svid(self, entry: Entry, audience: Sequence[str]) -> JwtSvid:
        """A JWT-SVID of an entry for exactly these audiences, from the cache or from the server."""
        return await self._jwt_svids.get(entry, audience)

    # -- for the synchroniser ------------------------------------------------------------------------------

    @property
    def own(self) -> Bundle:
        """The bundle of the agent's trust domain."""
        return self._own

    def __len__(self) -> int:
        """Entries."""
        return len(self._index)

    @property
    def svid_count(self) -> int:
        """X509-SVIDs that are held."""
        return len(self._svids)

    def update(
        self,
        *,
        changed: Iterable[Entry] = (),
        removed: Iterable[EntryId] = (),
        own: Bundle | None = None,
        federated: Mapping[TrustDomain, Bundle] | None = None,
    ) -> None:
        """Take in what is new; entries whose SVIDs are for a store are nobody's here."""
        concerned: set[Group] = set()
        for entry_id in removed:
            concerned |= self._remove(entry_id)
        for entry in changed:
            if entry.store_svid:
                concerned |= self._remove(entry.id)
                continue
            former = self._index.get(entry.id)
            self._index.put(entry)
            self._svids.expect(entry, former)
            concerned |= self._groups_of(entry) | (self._groups_of(former) if former is not None else set())
        if own is not None and own != self._own:
            log.debug("Bundle updated", trust_domain_id=str(own.trust_domain.id))
            self._own = own
            self._svids.retry()  # perhaps it was refused only since the bundle could not vouch for it
            concerned.update(self._groups.all())
        if federated is not None and federated != self._federated:
            self._federated = dict(federated)
            concerned.update(self._groups.all())
        self._changed(concerned)

    def drop_svids(self, is_bad: Callable[[WorkloadSvid], bool]) -> int:
        """Let SVIDs go that are worth nothing any more; how many went."""
        dropped = self._svids.drop(is_bad, self._index.get)
        for entry_id in dropped:
            self._changed(self._groups_of(self._index.get(entry_id)))
        self.wanted.set()
        return len(dropped)

    # -- for the fetcher -----------------------------------------------------------------------------------

    def stale(self, *, now: datetime, monotonic: float) -> list[StaleEntry]:
        """The entries for which the server should be asked for an SVID, the most urgent first."""
        return self._svids.stale(self._followed(), self._index.get, now=now, monotonic=monotonic)

    def next_retry(self) -> float | None:
        """When an entry that was refused may be tried again."""
        return self._svids.next_retry()

    def retry_refused(self) -> None:
        """The server answers again: do not wait any longer."""
        self._svids.retry()
        self.wanted.set()

    def hold(self, svids: Iterable[tuple[Entry, WorkloadSvid]], monotonic: float) -> None:
        """Take in SVIDs, each made for an entry as it was when it was asked for."""
        concerned: set[Group] = set()
        for entry, svid in svids:
            current = self._index.get(entry.id)
            if current is None or current.spiffe_id != entry.spiffe_id:
                continue
            self._svids.hold(current, svid, monotonic)
            if current is not entry:
                self._svids.expect(current, entry)
            concerned |= self._groups_of(current)
        self._changed(concerned)
        for entry_id in self._svids.shrink(self._followed().keys(), self._index.get):
            self._changed(self._groups_of(self._index.get(entry_id)))

    def refuse(self, entry_id: EntryId, monotonic: float) -> None:
        """The server gives no SVID for an entry now: nobody waits for it before he hears of his others."""
        self._svids.refuse(entry_id, monotonic)
        self._changed(self._groups_of(self._index.get(entry_id)))

    # ------------------------------------------------------------------------------------------------------

    def _compute(self, selectors: Selectors) -> WorkloadState:
        """All that a workload with these selectors may see."""
        entries = without_rivals(self._index.matching(selectors))
        foreign = sorted({domain for entry in entries for domain in entry.federates_with} - {self._own.trust_domain})
        known = [self._federated[domain] for domain in foreign if domain in self._federated]
        identities = tuple(Identity(entry, self._svids.get(entry.id)) for entry in entries)
        return WorkloadState(identities, self._own, tuple(known))

    def _waits(self, group: Group) -> None:
        """Somebody follows the group's SVIDs from now on."""
        self._svids.touch(entry.id for entry in group.entries())
        if group.missing():
            self.wanted.set()

    def _remove(self, entry_id: EntryId) -> set[Group]:
        former = self._index.remove(entry_id)
        self._svids.forget(entry_id)
        return self._groups_of(former)

    def _groups_of(self, entry: Entry | None) -> set[Group]:
        """The groups to which the entry applies."""
        return self._groups.with_all(entry.selectors) if entry is not None else set()

    def _followed(self) -> dict[EntryId, Entry]:
        """The entries whose SVIDs somebody follows."""
        return {entry.id: entry for group in self._groups.wanting_svids() for entry in group.entries()}

    def _changed(self, groups: Iterable[Group]) -> None:
        for group in groups:
            group.change()
            if group.svid_followers:
                self.wanted.set()
