"""One workload's following of its state: what it is told, and when.

It is told what is another, and nothing twice.  What is missing of a state is waited for as long as that is good for
the workload: it must not take a few of its identities for all, nor miss what is new of one because of another.
"""

from collections.abc import Callable
from typing import Self

from agent.groups import Group, Groups
from agent.identities import Selectors, WorkloadState
from spiffe_core.entries import EntryId


class CacheSubscription:
    """One workload's following of its group."""

    def __init__(
        self,
        groups: Groups,
        selectors: Selectors,
        *,
        svids: bool,
        waits: Callable[[Group], None],
        is_refused: Callable[[EntryId], bool],
    ) -> None:
        self._groups = groups
        self._selectors = selectors
        self._svids = svids
        self._waits = waits
        self._is_refused = is_refused
        self._group: Group | None = None
        self._last: WorkloadState | None = None

    def __enter__(self) -> Self:
        self._group = self._groups.follow(self._selectors, svids=self._svids)
        if self._svids:
            self._waits(self._group)
        return self

    def __exit__(self, *_: object) -> None:
        if self._group is not None:
            self._groups.leave(self._group, svids=self._svids)

    async def next(self) -> WorkloadState:
        """The state as soon as it can be told when first asked; from then on, the next one that is another."""
        group = self._group
        assert group is not None, "a subscription is a context manager"
        while True:
            state = group.ready() if self._svids else group.without_svids()
            if state is not self._last and (not self._svids or self._can_be_told(group, state)):
                self._last = state
                return state
            await group.wait()

    def _can_be_told(self, group: Group, state: WorkloadState) -> bool:
        """Whether nothing is missing that is worth waiting for.

        At first that is every SVID that the server has not refused; later only those that the workload has: one that
        it never had must not keep from it what is new of the others.
        """
        missing = group.missing()
        if not missing:
            return True
        had = None if self._last is None else {identity.entry.id for identity in self._last.identities}
        return bool(state.identities) and all(
            self._is_refused(entry_id) or (had is not None and entry_id not in had) for entry_id in missing
        )
