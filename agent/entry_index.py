"""The entries of an agent, found by a workload's selectors without looking at all of them.

An entry applies to a workload that has all its selectors.  So each entry lies under one of them, the one that the
fewest others lie under when it comes; a look-up goes through what lies under each selector of the workload.
"""

from collections.abc import Iterable

from agent.identities import Selectors
from spiffe_core.entries import Entry, EntryId, Selector


class EntryIndex:
    """Entries by ID and by selectors."""

    def __init__(self) -> None:
        self._entries: dict[EntryId, Entry] = {}
        self._place: dict[EntryId, Selector] = {}
        self._under: dict[Selector, dict[EntryId, tuple[Selectors, Entry]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry_id: EntryId) -> bool:
        return entry_id in self._entries

    def get(self, entry_id: EntryId) -> Entry | None:
        """The entry of that ID."""
        return self._entries.get(entry_id)

    def put(self, entry: Entry) -> None:
        """Add an entry, or replace the one of its ID.  One without selectors applies to nobody."""
        self.remove(entry.id)
        self._entries[entry.id] = entry
        selectors = frozenset(entry.selectors)
        if not selectors:
            return
        place = min(sorted(selectors), key=lambda selector: len(self._under.get(selector, ())))
        self._place[entry.id] = place
        self._under.setdefault(place, {})[entry.id] = (selectors, entry)

    def remove(self, entry_id: EntryId) -> Entry | None:
        """Take an entry out; it, if it was there."""
        place = self._place.pop(entry_id, None)
        if place is not None:
            lying = self._under[place]
            del lying[entry_id]
            if not lying:
                del self._under[place]
        return self._entries.pop(entry_id, None)

    def matching(self, selectors: Selectors) -> list[Entry]:
        """The entries that apply to a workload with these selectors, by ID."""
        found = [
            entry
            for selector in selectors
            for wanted, entry in self._under.get(selector, {}).values()
            if wanted <= selectors
        ]
        return sorted(found, key=lambda entry: entry.id)


def without_rivals(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Of several entries with one hint, the oldest, or of those the one of the lowest ID; the others as they come."""
    first: dict[str, Entry] = {}
    kept = list(entries)
    for entry in kept:
        rival = first.get(entry.hint)
        if entry.hint and (rival is None or (entry.created_at, entry.id) < (rival.created_at, rival.id)):
            first[entry.hint] = entry
    return tuple(entry for entry in kept if not entry.hint or first[entry.hint] is entry)
