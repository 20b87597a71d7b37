"""The whole registry, as a server reads it into memory at its start, and the place in the feed from which it follows.

It is read from the replica, if there is one, in one transaction on one connection: what lies after the cursor
comes by the feed, which is read from the primary database.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from server.datastore.changes import Cursor, newest
from server.datastore.database import Database
from server.datastore.entry_rows import StoredEntry, from_row, load_selectors
from server.datastore.tables import AGENTS, ENTRIES
from spiffe_core.entries import Selector
from spiffe_core.ids import SpiffeId

_AT_ONCE: Final = 2000


class Snapshot:
    """One reading of the registry, open."""

    def __init__(self, connection: Connection, cursor: Cursor) -> None:
        self._connection = connection
        self.cursor = cursor
        """What is read from this snapshot holds every change before it."""

    def entries(self) -> Iterator[StoredEntry]:
        """Every entry, in the order in which they were created."""
        return map(from_row, self._rows(sa.select(ENTRIES), ENTRIES.c.row_id))

    def agents(self) -> Iterator[tuple[SpiffeId, tuple[Selector, ...]]]:
        """Every agent's ID and selectors."""
        query = sa.select(AGENTS.c.row_id, AGENTS.c.id, AGENTS.c.selectors)
        for row in self._rows(query, AGENTS.c.row_id):
            yield SpiffeId.parse(row.id), load_selectors(row.selectors)

    def _rows(self, query: "sa.Select[Any]", row_id: "sa.ColumnElement[int]") -> "Iterator[sa.Row[Any]]":
        last = 0
        while rows := list(self._connection.execute(query.where(row_id > last).order_by(row_id).limit(_AT_ONCE))):
            yield from rows
            last = rows[-1].row_id


class Snapshots:
    """Takes snapshots."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def take(self) -> Iterator[Snapshot]:
        """A snapshot to read from.

        Raises:
            DatastoreUnavailable: if the database does not answer.
        """
        with self._database.read(stale=True) as connection:
            yield Snapshot(connection, newest(connection, self._database.now()))
