"""Leadership of an authority group: one server moves authorities, the others follow.

A lease is a row with a holder, an epoch that grows with each takeover, and a count of renewals.  Nobody
compares clocks: a follower that has seen the row unchanged for the lease's length, by its own clock, takes it
from exactly that state.  The epoch fences every journal write, so being wrong about leadership costs a refused
write and nothing else.
"""

from collections.abc import Callable
from typing import Final

from hsm_ca.journal import LeaseState, LeaseTable

LENGTH: Final = 10.0
"""Seconds without renewal after which a lease is taken over."""
_RENEW_EVERY: Final = LENGTH / 4


class LeaseKeeper:
    """Keeps, or waits for, the lease of one group.  Not thread-safe: one loop calls ``keep``."""

    def __init__(self, table: LeaseTable, holder: str, *, has_ended: Callable[[str], bool] = lambda _: False) -> None:
        """Take the table and this server's unique name.

        ``has_ended`` says of a holder's name that its process surely runs no more, so that a server that is
        restarted on the same machine need not wait.
        """
        self._table = table
        self._holder = holder
        self._has_ended = has_ended
        self._held: LeaseState | None = None
        self._renewed_at = 0.0
        self._seen: LeaseState | None = None
        self._seen_since = 0.0

    @property
    def epoch(self) -> int | None:
        """The epoch in which this server leads, as far as it knows, or None."""
        return self._held.epoch if self._held else None

    def keep(self, at: float) -> int | None:
        """Renew the lease or try to take it; ``at`` is monotonic seconds.  The epoch if this server leads."""
        if self._held:
            if at - self._renewed_at >= _RENEW_EVERY:
                self._held = self._table.beat(self._held)
                self._renewed_at = at
        else:
            self._try_to_take(at)
        return self.epoch

    def lose(self) -> None:
        """Another server leads: a write of this one was refused.  It may try again as anybody may."""
        self._held = None

    def release(self) -> None:
        """Let a successor take over at once."""
        if self._held:
            self._table.release(self._held)
            self._held = None

    def _try_to_take(self, at: float) -> None:
        current = self._table.lease()
        if current != self._seen:
            self._seen, self._seen_since = current, at
        free = current is None or not current.holder or self._has_ended(current.holder)
        if free or at - self._seen_since >= LENGTH:
            self._held = self._table.take(self._holder, current)
            self._renewed_at = at
