"""The registry in memory: all entries and the agents' selectors, following the change feed.

It is read at start, then kept up by ``refresh``: what the feed names is read again and put in its place.  A
lock is held for one entry or agent at a time, so look-ups on an event loop never wait for a refresh in a thread;
what a refresh has not come to yet is seen as it was before.  When it cannot be told what changed, everything is
read into a new graph, which takes the place of the old one at once.
"""

import threading

from server.authorized_entries import AuthorizedEntries, IdFlags
from server.datastore.changes import Changes, Cursor
from server.datastore.store import Datastore
from spiffe_core.entries import Entry, EntryId
from spiffe_core.ids import SpiffeId, TrustDomain


class RegistryCache:
    """Answers from memory what agents ask on every call.  Thread-safe."""

    def __init__(
        self, datastore: Datastore, trust_domain: TrustDomain, *, agent_spiffe_id_as_selector: bool = False
    ) -> None:
        """Take the datastore; nothing is known before the first ``refresh``."""
        self._datastore = datastore
        self._trust_domain = trust_domain
        self._agent_id_as_selector = agent_spiffe_id_as_selector
        self._graph = self._new_graph()
        self._cursor: Cursor | None = None
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()

    def __len__(self) -> int:
        """How many entries it holds."""
        return len(self._graph)

    def refresh(self) -> Changes:
        """Catch up with the database, and say what changed: bundles and journals too, which are not kept here.

        After an error everything is as it was before, or some of what changed is applied, and will be again.

        Raises:
            DatastoreUnavailable: if the database does not answer.
        """
        with self._refreshing:
            if self._cursor is None:
                return self._load()
            changes = self._datastore.changes.changes_since(self._cursor)
            if changes.reload_needed:
                return self._load()
            self._apply(changes)
            self._cursor = changes.cursor
            return changes

    def authorized_for(self, agent_id: SpiffeId) -> tuple[Entry, ...]:
        """The entries to which the agent is entitled, in the order in which they were created."""
        with self._lock:
            return self._graph.of_agent(agent_id)

    def entry_for(self, agent_id: SpiffeId, entry_id: EntryId) -> Entry | None:
        """The entry of that id if the agent is entitled to it, or None."""
        with self._lock:
            return self._graph.entry_of_agent(agent_id, entry_id)

    def flags_of(self, spiffe_id: SpiffeId) -> IdFlags:
        """Whether entries make those who bear this SPIFFE ID admins, or downstream servers."""
        with self._lock:
            return self._graph.flags_of(spiffe_id)

    def _new_graph(self) -> AuthorizedEntries:
        return AuthorizedEntries(self._trust_domain, agent_id_as_selector=self._agent_id_as_selector)

    def _load(self) -> Changes:
        graph = self._new_graph()
        with self._datastore.snapshots.take() as snapshot:
            for stored in snapshot.entries():
                graph.put_entry(stored)
            for agent_id, selectors in snapshot.agents():
                graph.put_agent(agent_id, selectors)
        with self._lock:
            self._graph = graph
        self._cursor = snapshot.cursor
        return Changes(cursor=snapshot.cursor, reload_needed=True)

    def _apply(self, changes: Changes) -> None:
        entries = self._datastore.entries.get_many(changes.entries) if changes.entries else {}
        for entry_id in changes.entries:
            with self._lock:
                if entry_id in entries:
                    self._graph.put_entry(entries[entry_id])
                else:
                    self._graph.remove_entry(entry_id)
        agents = self._datastore.agents.selectors_of(changes.agents) if changes.agents else {}
        for agent_id in changes.agents:
            with self._lock:
                if agent_id in agents:
                    self._graph.put_agent(agent_id, agents[agent_id])
                else:
                    self._graph.remove_agent(agent_id)
