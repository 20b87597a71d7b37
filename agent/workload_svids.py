"""The X509-SVIDs of workloads: which are held, which are to be asked for next, and which are let go.

An SVID is asked for when a workload waits for it, when it is time to renew it, and beforehand as long as there is
room.  One that came just now is not renewed, though its time may seem over already: this machine's clock may be ahead
of the server's, or the authority near its end, and the server must not be asked for the same without a pause.  The
room is soft: SVIDs that somebody follows are never let go, others in the order in which nobody has asked for them.
What the server refuses for one entry is tried again after growing pauses, and holds up no other.

This is a table: it asks nobody for anything.  Who follows what is the ``agent.cache``'s knowledge.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

from agent.identities import WorkloadSvid
from agent.rotation import Rotation
from spiffe_core.entries import Entry, EntryId
from spiffe_core.runtime.tasks import Backoff

DEFAULT_ROOM: Final = 1000
"""SVIDs that are kept though nobody follows them, if 0 is configured (SPIRE's)."""
REST: Final = 5.0
"""Seconds before an SVID is renewed at the earliest."""
_BACKOFF: Final = Backoff(first=0.5, longest=240.0, factor=2.0)


@dataclass(slots=True)
class _Held:
    svid: WorkloadSvid
    renew_at: datetime
    rests_until: float
    outdated: bool = False

    def is_due(self, now: datetime, monotonic: float) -> bool:
        return self.outdated or (now >= self.renew_at and monotonic >= self.rests_until)


@dataclass(frozen=True, slots=True)
class _Refused:
    failures: int
    retry_at: float


@dataclass(frozen=True, slots=True)
class StaleEntry:
    """An entry that needs an SVID, and when the one that it has expires."""

    entry: Entry
    expires_at: datetime | None


class WorkloadSvids:
    """SVIDs by entry."""

    def __init__(self, *, room: int, rotation: Rotation) -> None:
        self._room = room or DEFAULT_ROOM
        self._rotation = rotation
        self._held: dict[EntryId, _Held] = {}
        """The one that was asked for longest ago first."""
        self._unheld: dict[EntryId, Entry] = {}
        """What may be asked for beforehand."""
        self._refused: dict[EntryId, _Refused] = {}

    def __len__(self) -> int:
        return len(self._held)

    def get(self, entry_id: EntryId) -> WorkloadSvid | None:
        """The SVID of an entry."""
        held = self._held.get(entry_id)
        return held.svid if held is not None else None

    def expect(self, entry: Entry, former: Entry | None) -> None:
        """An entry is new, or has changed: its SVID must be of its present revision; another ID's is not its own."""
        self._refused.pop(entry.id, None)
        if former is not None and former.spiffe_id != entry.spiffe_id:
            self._held.pop(entry.id, None)
        held = self._held.get(entry.id)
        if held is None:
            self._let_fetch(entry)
        elif former is None or former.revision_number != entry.revision_number or former.created_at != entry.created_at:
            held.outdated = True

    def forget(self, entry_id: EntryId) -> None:
        """An entry has gone."""
        for table in (self._held, self._unheld, self._refused):
            table.pop(entry_id, None)

    def touch(self, entry_ids: Iterable[EntryId]) -> None:
        """Somebody has asked for the SVIDs of these entries."""
        for entry_id in entry_ids:
            if entry_id in self._held:
                self._held[entry_id] = self._held.pop(entry_id)

    def stale(
        self,
        followed: Mapping[EntryId, Entry],
        entry_of: Callable[[EntryId], Entry | None],
        *,
        now: datetime,
        monotonic: float,
    ) -> list[StaleEntry]:
        """What is to be asked for, the most urgent first; ``followed`` are the entries that somebody waits for."""
        missing = [entry for key, entry in followed.items() if key not in self._held]
        found = [StaleEntry(entry, None) for entry in missing if self._may_try(entry.id, monotonic)]
        for key, held in list(self._held.items()):
            if not held.is_due(now, monotonic):
                continue
            entry = entry_of(key)
            if entry is None or (entry.disable_x509_svid_prefetch and key not in followed):
                del self._held[key]  # nobody follows it, and it is not to be kept ready
            elif self._may_try(key, monotonic):
                found.append(StaleEntry(entry, held.svid.not_after))
        room = self._room - len(self._held) - len(missing)
        ready = (one for key, one in self._unheld.items() if key not in followed and self._may_try(key, monotonic))
        found += (StaleEntry(entry, None) for entry in islice(ready, max(room, 0)))
        return found

    def next_retry(self) -> float | None:
        """When a refused entry may be tried again; None if there is none."""
        return min((one.retry_at for one in self._refused.values()), default=None)

    def hold(self, entry: Entry, svid: WorkloadSvid, monotonic: float) -> None:
        """An SVID has come; it is kept as the latest one that was asked for."""
        self._held.pop(entry.id, None)
        renew_at = self._rotation.x509_at(svid.not_before, svid.not_after)
        self._held[entry.id] = _Held(svid, renew_at, monotonic + REST)
        self._unheld.pop(entry.id, None)
        self._refused.pop(entry.id, None)

    def refuse(self, entry_id: EntryId, monotonic: float) -> None:
        """The server gives none."""
        failures = self._refused[entry_id].failures + 1 if entry_id in self._refused else 1
        self._refused[entry_id] = _Refused(failures, monotonic + _BACKOFF.pause(failures))

    def is_refused(self, entry_id: EntryId) -> bool:
        """Whether the server gave none when it was asked last."""
        return entry_id in self._refused

    def retry(self) -> None:
        """Whatever was refused may be tried again now."""
        self._refused.clear()

    def shrink(self, followed: Collection[EntryId], entry_of: Callable[[EntryId], Entry | None]) -> list[EntryId]:
        """Let SVIDs go that nobody follows until there is room; their entries."""
        surplus = max(len(self._held) - self._room, 0)
        going = list(islice((key for key in self._held if key not in followed), surplus))
        for key in going:
            self._let_go(key, entry_of(key))
        return going

    def drop(self, is_bad: Callable[[WorkloadSvid], bool], entry_of: Callable[[EntryId], Entry | None]) -> set[EntryId]:
        """Let the SVIDs go of which that is true; their entries."""
        going = {key for key, held in self._held.items() if is_bad(held.svid)}
        for key in going:
            self._let_go(key, entry_of(key))
        return going

    def _let_go(self, entry_id: EntryId, entry: Entry | None) -> None:
        del self._held[entry_id]
        if entry is not None:
            self._let_fetch(entry)

    def _let_fetch(self, entry: Entry) -> None:
        self._unheld.pop(entry.id, None)
        if not entry.disable_x509_svid_prefetch:
            self._unheld[entry.id] = entry

    def _may_try(self, entry_id: EntryId, monotonic: float) -> bool:
        refused = self._refused.get(entry_id)
        return refused is None or monotonic >= refused.retry_at
