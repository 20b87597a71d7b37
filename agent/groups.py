"""Workloads with the same selectors: a *group*, whose state is computed once for all of them.

It is computed again only when something in it may have changed: an entry that applied or applies now, an SVID, a
bundle.  A group lives while somebody follows it, and a while longer, since the next call is likely from the same
kind of workload.

Followers wait on one future of their group; nobody polls.  A change marks the groups that it may concern; who
wakes computes the state, and goes on waiting if it is what it was.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Final

from agent.identities import Identity, Selectors, WorkloadState
from spiffe_core.entries import Entry, EntryId, Selector

IDLE: Final = 1024
"""Groups that are kept though nobody follows them."""

Compute = Callable[[Selectors], WorkloadState]
"""All that a workload with these selectors may see now."""


class Group:
    """Workloads with the same selectors."""

    __slots__ = (
        "_changed",
        "_compute",
        "_dirty",
        "_ready",
        "_state",
        "_without",
        "followers",
        "selectors",
        "svid_followers",
    )

    def __init__(self, compute: Compute, selectors: Selectors) -> None:
        self._compute = compute
        self.selectors = selectors
        self.followers = 0
        self.svid_followers = 0
        """How many of them follow its SVIDs too."""
        self._dirty = True
        self._state: WorkloadState | None = None
        self._ready: WorkloadState | None = None
        self._without: WorkloadState | None = None
        self._changed: asyncio.Future[None] | None = None

    def state(self) -> WorkloadState:
        """The state of now; the same object as long as it is the same."""
        self._refresh()
        assert self._state is not None
        return self._state

    def ready(self) -> WorkloadState:
        """The same, but for the identities that have no SVID."""
        self._refresh()
        assert self._ready is not None
        return self._ready

    def without_svids(self) -> WorkloadState:
        """The same without any SVID."""
        self._refresh()
        assert self._without is not None
        return self._without

    def _refresh(self) -> None:
        if not self._dirty:
            return
        self._dirty = False
        state = self._compute(self.selectors)
        if state == self._state:
            return
        there = tuple(identity for identity in state.identities if identity.svid is not None)
        ready = state if len(there) == len(state.identities) else replace(state, identities=there)
        bare = replace(state, identities=tuple(Identity(identity.entry, None) for identity in state.identities))
        self._state = state
        self._ready = ready if ready != self._ready else self._ready
        self._without = bare if bare != self._without else self._without

    def entries(self) -> list[Entry]:
        """The entries that apply now."""
        return [identity.entry for identity in self.state().identities]

    def missing(self) -> list[EntryId]:
        """The entries whose SVIDs are not there."""
        return [identity.entry.id for identity in self.state().identities if identity.svid is None]

    def change(self) -> None:
        """Something may be different: wake who waits."""
        self._dirty = True
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)

    async def wait(self) -> None:
        """Return at the next change."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)


class Groups:
    """The groups that are known."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._groups: dict[Selectors, Group] = {}
        self._with: dict[Selector, set[Group]] = {}
        self._idle: OrderedDict[Selectors, None] = OrderedDict()

    def of(self, selectors: Selectors) -> Group:
        """The group of these selectors."""
        group = self._groups.get(selectors)
        if group is None:
            group = self._groups[selectors] = Group(self._compute, selectors)
            for selector in selectors:
                self._with.setdefault(selector, set()).add(group)
        if not group.followers:
            self._rest(group)
        return group

    def all(self) -> Collection[Group]:
        """Every group."""
        return self._groups.values()

    def with_all(self, selectors: Collection[Selector]) -> set[Group]:
        """The groups that have all these selectors, and perhaps others."""
        if not selectors:
            return set()
        return set.intersection(*sorted((self._with.get(one, set()) for one in selectors), key=len))

    def wanting_svids(self) -> Iterable[Group]:
        """The groups whose SVIDs somebody follows."""
        return [group for key, group in self._groups.items() if group.svid_followers and key not in self._idle]

    def follow(self, selectors: Selectors, *, svids: bool) -> Group:
        """The group, which is kept until it was left as often as it was followed."""
        group = self.of(selectors)
        self._idle.pop(selectors, None)
        group.followers += 1
        group.svid_followers += svids
        return group

    def leave(self, group: Group, *, svids: bool) -> None:
        """One follower less."""
        group.followers -= 1
        group.svid_followers -= svids
        if not group.followers:
            self._rest(group)

    def _rest(self, group: Group) -> None:
        """Keep the group for the next one who asks; where there are too many, let the one go that rests longest."""
        self._idle[group.selectors] = None
        self._idle.move_to_end(group.selectors)
        while len(self._idle) > IDLE:
            selectors, _ = self._idle.popitem(last=False)
            going = self._groups.pop(selectors)
            for selector in selectors:
                self._with[selector].discard(going)
                if not self._with[selector]:
                    del self._with[selector]
