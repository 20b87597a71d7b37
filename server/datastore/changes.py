"""The change feed: what changed since a reader last looked, in every server.

Each transaction that changes entries, agents, bundles or a journal appends one row.  Rows are numbered when they
are written and visible when they are committed, which may be in another order: a reader that sees number 7
after number 5 remembers 6 and looks for it until it appears or a writer of that age can be alive no more.  A
number whose transaction was rolled back never appears.

The newest row is never pruned, so a reader whose last row is gone knows that it fell behind, and that it must
read everything again.
"""

import threading
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from server.datastore.database import Database, Write, translated
from server.datastore.documents import load
from server.datastore.entry_rows import chunks
from server.datastore.tables import CHANGES
from spiffe_core.entries import EntryId
from spiffe_core.ids import SpiffeId, TrustDomain

GAP_SECONDS: Final = 15 * 60
"""How long a number that was skipped is looked for: longer than any transaction lives (SPIRE's value)."""
MAX_GAPS: Final = 10_000
"""Most numbers that are looked for; of more, the newest."""
_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a reader stands: the last row it saw, and numbers below that it skipped, each with its deadline."""

    position: int
    gaps: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What changed, made or gone alike; with ``reload_needed`` it is not known what."""

    cursor: Cursor
    """Where the reader stands now; with ``reload_needed``, what is read after this holds all before it."""
    entries: frozenset[EntryId] = frozenset()
    agents: frozenset[SpiffeId] = frozenset()
    bundles: frozenset[TrustDomain] = frozenset()
    journal: frozenset[str] = frozenset()
    """Authority groups."""
    reload_needed: bool = False

    def __bool__(self) -> bool:
        return bool(self.entries or self.agents or self.bundles or self.journal or self.reload_needed)


class ChangeFeed:
    """Reads the feed.  Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watch = _FileWatch(database)

    def start(self) -> Cursor:
        """A cursor at the end of the feed: read everything after this, and follow from here.

        Raises:
            DatastoreUnavailable: if the database does not answer.
        """
        with self._database.read() as connection:
            return newest(connection, self._database.now())

    def changes_since(self, cursor: Cursor) -> Changes:
        """What changed since the cursor.

        Raises:
            DatastoreUnavailable: if the database does not answer.
        """
        version = self._watch.version()
        if self._watch.unchanged(cursor, version):
            return Changes(cursor=cursor)
        with self._database.read() as connection:
            changes = self._read(connection, cursor)
        self._watch.seen(changes.cursor, version)
        return changes

    def prune(self, before: int) -> None:
        """Delete rows written before that Unix time, but not the newest; readers that far behind read all again."""

        def work(write: Write) -> None:
            old = sa.select(sa.func.max(CHANGES.c.row_id)).where(CHANGES.c.at < before)
            last = write.connection.execute(old).scalar()
            if last is not None:
                write.connection.execute(sa.delete(CHANGES).where(CHANGES.c.row_id < last))

        self._database.write(work)

    def close(self) -> None:
        """Close the connection that watches the file."""
        self._watch.close()

    def _read(self, connection: Connection, cursor: Cursor) -> Changes:
        now = self._database.now()
        found = _after(connection, cursor.position)
        if found is None:
            return Changes(cursor=newest(connection, now), reload_needed=True)
        late = _late(connection, [row_id for row_id, _ in cursor.gaps])
        appeared = {row.row_id for row in late}
        gaps = [gap for gap in cursor.gaps if gap[0] not in appeared and gap[1] > now]
        seen = [cursor.position, *(row.row_id for row in found)]
        gaps += [(row_id, now + GAP_SECONDS) for row_id in _skipped(seen)]
        return _merged(found + late, Cursor(seen[-1], tuple(gaps[-MAX_GAPS:])))


class _FileWatch:
    """Whether a SQLite file was written to, which costs a microsecond; of other databases it knows nothing."""

    def __init__(self, database: Database) -> None:
        self._backend = database.backend
        self._connection: Any = None
        self._lock = threading.Lock()
        self._last: tuple[Cursor, int] | None = None

    def version(self) -> int | None:
        """A number that is another one after each commit to the file by anybody."""
        if not self._backend.inline:
            return None
        with self._lock, translated(self._backend):
            if self._connection is None:
                self._connection = self._backend.connect(autocommit=True)
            return int(self._connection.execute("PRAGMA data_version").fetchall()[0][0])

    def unchanged(self, cursor: Cursor, version: int | None) -> bool:
        """Whether this cursor was found to be at the end when the file had this version."""
        return version is not None and self._last == (cursor, version)

    def seen(self, cursor: Cursor, version: int | None) -> None:
        """This cursor is at the end of what the file had in this version, or later."""
        self._last = None if version is None else (cursor, version)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def newest(connection: Connection, now: int) -> Cursor:
    """A cursor at the end of the feed, which looks for what was skipped there lately."""
    rows = list(
        connection.execute(sa.select(CHANGES.c.row_id, CHANGES.c.at).order_by(CHANGES.c.row_id.desc()).limit(MAX_GAPS))
    )
    seen = []
    for row in rows:
        seen.append(row.row_id)
        if row.at < now - GAP_SECONDS:  # what stood open then is over
            break
    seen.reverse()
    gaps = tuple((row_id, now + GAP_SECONDS) for row_id in _skipped(seen))
    return Cursor(seen[-1], gaps[-MAX_GAPS:])


def _after(connection: Connection, position: int) -> "list[sa.Row[Any]] | None":
    """The rows after the position, or None if the row at the position is not there any more."""
    found: list[sa.Row[Any]] = []
    while True:
        query: sa.Select[Any] = sa.select(CHANGES.c.row_id, CHANGES.c.what).where(CHANGES.c.row_id >= position)
        rows = list(connection.execute(query.order_by(CHANGES.c.row_id).limit(_AT_ONCE + 1)))
        if not rows or rows[0].row_id != position:
            return None
        found.extend(rows[1:])
        if len(rows) <= _AT_ONCE:
            return found
        position = rows[-1].row_id


def _late(connection: Connection, row_ids: list[int]) -> "list[sa.Row[Any]]":
    found: list[sa.Row[Any]] = []
    for some in chunks(row_ids):
        query: sa.Select[Any] = sa.select(CHANGES.c.row_id, CHANGES.c.what).where(CHANGES.c.row_id.in_(some))
        found.extend(connection.execute(query))
    return found


def _skipped(seen: list[int]) -> list[int]:
    """The numbers between those that were seen; of a very long gap only its end."""
    return [row_id for before, after in pairwise(seen) for row_id in range(max(before + 1, after - MAX_GAPS), after)]


def _merged(rows: "list[sa.Row[Any]]", cursor: Cursor) -> Changes:
    ids: dict[str, set[str]] = {}
    for row in rows:
        what = load(row.what)
        if what.pop("reload", False):
            return Changes(cursor=cursor, reload_needed=True)
        for kind, more in what.items():
            ids.setdefault(kind, set()).update(more)
    return Changes(
        cursor=cursor,
        entries=frozenset(map(EntryId, ids.get("entries", ()))),
        agents=frozenset(map(SpiffeId.parse, ids.get("agents", ()))),
        bundles=frozenset(map(TrustDomain, ids.get("bundles", ()))),
        journal=frozenset(ids.get("journal", ())),
    )
