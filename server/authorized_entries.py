"""The authorization graph: which agent is entitled to which entries.

An entry is parented to an ID.  An agent is entitled to the entries below its own ID, to those below the IDs of
these entries, and so on; and in the same way to those below each *node alias* that applies to it.  An alias is
an entry parented to the server: it applies to every agent that has all of its selectors, and is itself given to
nobody.  A graph may have cycles.  IDs are compared by path, since all of them are of one trust domain; entries
of another are passed over.  (SPIRE's rules.)

Nothing here looks at all entries: going down costs what is found, and is done again only when something on the
way has changed (``KeptAnswers``); the question whether an agent is entitled to one entry goes *up* from the
entry, which is a step or two however many entries there are.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from server.datastore.entry_rows import StoredEntry
from server.kept_answers import KeptAnswers
from spiffe_core.entries import Entry, EntryId, Selector
from spiffe_core.ids import SpiffeId, TrustDomain, server_id

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class IdFlags:
    """What entries say of those who bear a SPIFFE ID, on whatever node they run."""

    admin: bool = False
    downstream: Entry | None = None
    """The first entry that makes it a downstream server's, or None."""


@dataclass(slots=True)
class _Agent:
    """An agent's selectors, and the paths of the aliases that applied to it in a generation of aliases."""

    selectors: frozenset[Selector]
    aliases: frozenset[str] = frozenset()
    generation: int = -1


class AuthorizedEntries:
    """The graph in memory.  Not thread-safe: ``RegistryCache`` guards it."""

    def __init__(self, trust_domain: TrustDomain, *, agent_id_as_selector: bool = False) -> None:
        """Take our trust domain; with ``agent_id_as_selector`` each agent has its own ID as a selector too."""
        self._trust_domain = trust_domain
        self._agent_id_as_selector = agent_id_as_selector
        self._server_path: Final = server_id(trust_domain).path
        self._entries: dict[EntryId, StoredEntry] = {}
        self._by_parent: dict[str, dict[EntryId, StoredEntry]] = {}
        self._by_spiffe_id: dict[str, dict[EntryId, StoredEntry]] = {}
        # Each alias under one of its selectors: an agent that lacks that one lacks one.
        self._aliases: dict[Selector, dict[EntryId, StoredEntry]] = {}
        self._alias_keys: dict[EntryId, Selector] = {}
        self._generation = 0
        self._agents: dict[str, _Agent] = {}
        self._kept = KeptAnswers()

    def __len__(self) -> int:
        return len(self._entries)

    def put_entry(self, stored: StoredEntry) -> None:
        """Add an entry, or put it in the place of the one of that id."""
        entry = stored.entry
        if self._entries.get(entry.id) == stored:
            return
        self.remove_entry(entry.id)
        if not (entry.parent_id.member_of(self._trust_domain) and entry.spiffe_id.member_of(self._trust_domain)):
            return
        self._entries[entry.id] = stored
        self._by_spiffe_id.setdefault(entry.spiffe_id.path, {})[entry.id] = stored
        if self._is_alias(entry):
            self._put_alias(stored)
        else:
            self._by_parent.setdefault(entry.parent_id.path, {})[entry.id] = stored
            self._kept.note_change(entry.parent_id.path)

    def remove_entry(self, entry_id: EntryId) -> None:
        """Take out the entry of that id, if there is one."""
        stored = self._entries.pop(entry_id, None)
        if stored is None:
            return
        _take_out(self._by_spiffe_id, stored.entry.spiffe_id.path, entry_id)
        if self._is_alias(stored.entry):
            _take_out(self._aliases, self._alias_keys.pop(entry_id), entry_id)
            self._generation += 1
        else:
            _take_out(self._by_parent, stored.entry.parent_id.path, entry_id)
            self._kept.note_change(stored.entry.parent_id.path)

    def put_agent(self, agent_id: SpiffeId, selectors: Iterable[Selector]) -> None:
        """Add an agent, or give it other selectors."""
        held = set(selectors)
        if self._agent_id_as_selector:
            held.add(Selector("spiffe_id", str(agent_id)))
        if agent_id.member_of(self._trust_domain):
            self._agents[agent_id.path] = _Agent(frozenset(held))

    def remove_agent(self, agent_id: SpiffeId) -> None:
        """Take out the agent of that ID, if there is one."""
        if agent_id.member_of(self._trust_domain):
            self._agents.pop(agent_id.path, None)
            self._kept.drop(agent_id.path)

    def of_agent(self, agent_id: SpiffeId) -> tuple[Entry, ...]:
        """The entries to which the agent is entitled, in the order in which they were created.

        The same object as long as none of them has changed.  An agent whose selectors are not known, such as one
        that has just attested, is given what is below its own ID.
        """
        if not agent_id.member_of(self._trust_domain):
            return ()
        tops = self._aliases_of(agent_id) | {agent_id.path}
        kept = self._kept.get(agent_id.path, tops)
        if kept is None:
            looked_below, kept = self._below(tops)
            self._kept.put(agent_id.path, tops, looked_below, kept)
        return kept

    def _below(self, tops: frozenset[str]) -> tuple[set[str], tuple[Entry, ...]]:
        """The paths that can be reached from some, and the entries on the way."""
        found: dict[EntryId, StoredEntry] = {}
        seen = set(tops)
        to_visit = list(seen)
        while to_visit:
            for entry_id, stored in self._by_parent.get(to_visit.pop(), {}).items():
                found[entry_id] = stored
                path = stored.entry.spiffe_id.path
                if path not in seen:
                    seen.add(path)
                    to_visit.append(path)
        return seen, tuple(stored.entry for stored in sorted(found.values(), key=_row_id))

    def entry_of_agent(self, agent_id: SpiffeId, entry_id: EntryId) -> Entry | None:
        """The entry of that id if the agent is entitled to it, or None."""
        stored = self._entries.get(entry_id)
        if stored is None or self._is_alias(stored.entry) or not agent_id.member_of(self._trust_domain):
            return None
        tops = self._aliases_of(agent_id) | {agent_id.path}
        seen = {stored.entry.parent_id.path}
        to_visit = list(seen)
        while to_visit:
            path = to_visit.pop()
            if path in tops:
                return stored.entry
            for above in self._by_spiffe_id.get(path, {}).values():
                parent = above.entry.parent_id.path
                # Only the server's own ID cannot be gone through: what is parented to it is given to nobody.
                if parent not in seen and parent != self._server_path:
                    seen.add(parent)
                    to_visit.append(parent)
        return None

    def flags_of(self, spiffe_id: SpiffeId) -> IdFlags:
        """What the entries that bear this SPIFFE ID, whatever their parent, say of it."""
        if not spiffe_id.member_of(self._trust_domain):
            return IdFlags()
        entries = self._by_spiffe_id.get(spiffe_id.path, {}).values()
        downstream = min((one for one in entries if one.entry.downstream), key=_row_id, default=None)
        return IdFlags(any(one.entry.admin for one in entries), downstream.entry if downstream else None)

    def _is_alias(self, entry: Entry) -> bool:
        return entry.parent_id.path == self._server_path

    def _put_alias(self, stored: StoredEntry) -> None:
        # Under the selector that fewest share, so that one that all aliases have brings nobody to all of them.
        key = min(stored.entry.selectors, key=lambda selector: len(self._aliases.get(selector, ())))
        self._aliases.setdefault(key, {})[stored.entry.id] = stored
        self._alias_keys[stored.entry.id] = key
        self._generation += 1

    def _aliases_of(self, agent_id: SpiffeId) -> frozenset[str]:
        """The paths of the aliases that apply to the agent."""
        agent = self._agents.get(agent_id.path)
        if agent is None:
            return frozenset()
        if agent.generation != self._generation:  # aliases seldom change, and then everybody looks once
            agent.aliases = frozenset(self._matching(agent.selectors))
            agent.generation = self._generation
        return agent.aliases

    def _matching(self, selectors: frozenset[Selector]) -> Iterator[str]:
        for selector in selectors:
            for stored in self._aliases.get(selector, {}).values():
                if selectors.issuperset(stored.entry.selectors):
                    yield stored.entry.spiffe_id.path


def _row_id(stored: StoredEntry) -> int:
    return stored.row_id


def _take_out(index: dict[K, dict[EntryId, StoredEntry]], key: K, entry_id: EntryId) -> None:
    entries = index[key]
    del entries[entry_id]
    if not entries:
        del index[key]
