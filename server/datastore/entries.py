"""Registration entries in the database.

Batches are one transaction and have an outcome for each item; an item that is refused keeps no other from being
done.  Two entries are never "similar": a unique digest over parent, SPIFFE ID and selectors says so, also
between servers.  The revision number starts at 0 and grows with each update, even one that changes nothing.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal
from uuid import uuid4

import sqlalchemy as sa

from server.datastore.database import Database, Write
from server.datastore.entry_filter import EVERY_ENTRY, EntryFilter
from server.datastore.entry_rows import (
    StoredEntry,
    bundle_rows_of,
    chunks,
    delete_entries,
    delete_indexes,
    from_row,
    insert_indexes,
    likeness_digest,
    normalized,
    select_entries,
    to_row,
)
from server.datastore.paging import Page, next_token, paged
from server.datastore.tables import ENTRIES
from spiffe_core.entries import Entry, EntryId, check_entry
from spiffe_core.errors import AlreadyExists, Internal, NotFound, SpiffeError
from spiffe_core.ids import TrustDomain

EntryField = Literal[
    "spiffe_id",
    "parent_id",
    "selectors",
    "x509_svid_ttl",
    "jwt_svid_ttl",
    "federates_with",
    "dns_names",
    "hint",
    "admin",
    "downstream",
    "store_svid",
    "disable_x509_svid_prefetch",
    "jwt_svid_include_jti",
    "expires_at",
]
"""What an update may change."""
ALL_FIELDS: Final[tuple[EntryField, ...]] = EntryField.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class EntryOutcome:
    """What became of one item of a batch: the entry, or the error, or both for an entry that was there already."""

    entry: Entry | None = None
    error: SpiffeError | None = None


class Entries:
    """The table of entries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_batch(self, entries: Sequence[Entry]) -> list[EntryOutcome]:
        """Create entries, which the caller has checked; those without an id are given one.

        An entry like one that is there, or like an earlier one of the batch, is refused with AlreadyExists
        and that one; a federated trust domain without a bundle is refused with Internal, as in SPIRE.

        Raises:
            DatastoreUnavailable: if the database does not answer; then none was created.
        """
        return self._database.write(lambda write: _Creation(write, entries).run()) if entries else []

    def update_batch(self, updates: Sequence[tuple[Entry, Collection[EntryField] | None]]) -> list[EntryOutcome]:
        """Change the entries of these ids in the named fields, or in all fields for None.

        What comes out must be an entry that may be registered, and not like another one.

        Raises:
            DatastoreUnavailable: if the database does not answer; then none was changed.
        """
        return self._database.write(lambda write: _Revision(write, updates).run()) if updates else []

    def delete_batch(self, ids: Sequence[EntryId]) -> list[EntryOutcome]:
        """Delete entries; each outcome has the entry as it was.

        Raises:
            DatastoreUnavailable: if the database does not answer; then none was deleted.
        """

        def work(write: Write) -> list[EntryOutcome]:
            found = {s.entry.id: s for s in select_entries(write.connection, ENTRIES.c.id, ids, lock=True)}
            delete_entries(write.connection, [stored.row_id for stored in found.values()])
            write.changed_entries(found)
            gone = [found.pop(entry_id, None) for entry_id in ids]
            return [EntryOutcome(s.entry) if s else EntryOutcome(error=NotFound("entry not found")) for s in gone]

        return self._database.write(work) if ids else []

    def get(self, entry_id: EntryId) -> Entry | None:
        """The entry of that id, or None."""
        found = self.get_many([entry_id])
        return found[entry_id].entry if found else None

    def get_many(self, ids: Iterable[EntryId]) -> dict[EntryId, StoredEntry]:
        """The entries of those ids that there are."""
        with self._database.read() as connection:
            return {s.entry.id: s for s in select_entries(connection, ENTRIES.c.id, ids)}

    def list(self, wanted: EntryFilter = EVERY_ENTRY, *, page_size: int = 0, page_token: str = "") -> Page[Entry]:
        """The entries that match, in the order in which they were created, a page of them or all.

        Raises:
            InvalidInput: if the page token is none.
        """
        query = paged(sa.select(ENTRIES).where(*wanted.conditions()), ENTRIES.c.row_id, page_size, page_token)
        with self._database.read() as connection:
            rows = list(connection.execute(query))
        return Page(tuple(from_row(row).entry for row in rows), next_token(rows, page_size))

    def count(self, wanted: EntryFilter = EVERY_ENTRY) -> int:
        """How many entries match."""
        query = sa.select(sa.func.count()).select_from(ENTRIES).where(*wanted.conditions())
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def prune(self, before: int, at_most: int = 1000) -> tuple[Entry, ...]:
        """Delete entries that expired before that Unix time, and return them; call again while any come."""

        def work(write: Write) -> tuple[Entry, ...]:
            expired = sa.and_(ENTRIES.c.expires_at != 0, ENTRIES.c.expires_at < before)
            query = sa.select(ENTRIES).where(expired).order_by(ENTRIES.c.row_id).limit(at_most).with_for_update()
            found = [from_row(row) for row in write.connection.execute(query)]
            delete_entries(write.connection, [stored.row_id for stored in found])
            write.changed_entries(stored.entry.id for stored in found)
            return tuple(stored.entry for stored in found)

        return self._database.write(work)


class _Creation:
    """One run of a batch that creates."""

    def __init__(self, write: Write, entries: Sequence[Entry]) -> None:
        self._write = write
        self._wanted = [(likeness_digest(entry), normalized(entry)) for entry in entries]
        connection = write.connection
        there = select_entries(connection, ENTRIES.c.likeness, {digest for digest, _ in self._wanted})
        self._alike = {likeness_digest(stored.entry): stored.entry for stored in there}
        self._ids = _ids_in_use(write, {entry.id for entry in entries if entry.id})
        self._bundles = bundle_rows_of(connection, {td for entry in entries for td in entry.federates_with})
        self._rows: list[dict[str, object]] = []
        self._created: dict[EntryId, Entry] = {}

    def run(self) -> list[EntryOutcome]:
        outcomes = [self._create(digest, entry) for digest, entry in self._wanted]
        if self._created:
            connection = self._write.connection
            connection.execute(sa.insert(ENTRIES), self._rows)
            insert_indexes(connection, self._stored(), self._bundles)
            self._write.changed_entries(self._created)
        return outcomes

    def _create(self, digest: bytes, entry: Entry) -> EntryOutcome:
        if digest in self._alike:
            return EntryOutcome(self._alike[digest], AlreadyExists("similar entry already exists"))
        if entry.id in self._ids:
            return EntryOutcome(error=AlreadyExists(f'an entry with ID "{entry.id}" already exists'))
        if missing := _without_bundle(entry, self._bundles):
            return EntryOutcome(error=missing)
        entry_id = entry.id or EntryId(str(uuid4()))
        entry = replace(entry, id=entry_id, created_at=self._write.now, revision_number=0)
        self._alike[digest] = self._created[entry_id] = entry
        self._ids.add(entry_id)
        self._rows.append(to_row(entry, digest))
        return EntryOutcome(entry)

    def _stored(self) -> Iterable[StoredEntry]:
        for some in chunks(self._created):
            query = sa.select(ENTRIES.c.row_id, ENTRIES.c.id).where(ENTRIES.c.id.in_(some))
            for row in self._write.connection.execute(query):
                yield StoredEntry(row.row_id, self._created[row.id])


class _Revision:
    """One run of a batch that updates."""

    def __init__(self, write: Write, updates: Sequence[tuple[Entry, Collection[EntryField] | None]]) -> None:
        self._write = write
        self._updates = updates
        connection = write.connection
        there = select_entries(connection, ENTRIES.c.id, {entry.id for entry, _ in updates}, lock=True)
        self._stored = {stored.entry.id: stored for stored in there}
        self._bundles = bundle_rows_of(connection, {td for entry, _ in updates for td in entry.federates_with})
        kept = {td for stored in there for td in stored.entry.federates_with} - self._bundles.keys()
        self._bundles |= bundle_rows_of(connection, kept)

    def run(self) -> list[EntryOutcome]:
        changed: dict[EntryId, None] = {}
        outcomes = []
        for entry, fields in self._updates:
            try:
                updated = self._update(entry, ALL_FIELDS if fields is None else fields)
            except SpiffeError as exc:
                outcomes.append(EntryOutcome(error=exc))
            else:
                outcomes.append(EntryOutcome(updated))
                changed[entry.id] = None
        delete_indexes(self._write.connection, [self._stored[entry_id].row_id for entry_id in changed])
        insert_indexes(self._write.connection, [self._stored[entry_id] for entry_id in changed], self._bundles)
        self._write.changed_entries(changed)
        return outcomes

    def _update(self, entry: Entry, fields: Collection[EntryField]) -> Entry:
        stored = self._stored.get(entry.id)
        if not stored:
            raise NotFound("entry not found")
        revision = stored.entry.revision_number + 1
        values = {field: getattr(entry, field) for field in fields}
        updated = normalized(replace(stored.entry, revision_number=revision, **values))
        check_entry(updated, updated.parent_id.trust_domain)
        if missing := _without_bundle(updated, self._bundles):
            raise missing
        digest = likeness_digest(updated)
        # One by one, so that each sees what those before it have left.
        like = sa.select(ENTRIES.c.row_id).where(ENTRIES.c.likeness == digest, ENTRIES.c.row_id != stored.row_id)
        if self._write.connection.execute(like).first():
            raise AlreadyExists("similar entry already exists")
        change = sa.update(ENTRIES).where(ENTRIES.c.row_id == stored.row_id)
        self._write.connection.execute(change, to_row(updated, digest))
        self._stored[entry.id] = replace(stored, entry=updated)
        return updated


def _ids_in_use(write: Write, ids: Iterable[EntryId]) -> set[str]:
    found: set[str] = set()
    for some in chunks(ids):
        found |= set(write.connection.execute(sa.select(ENTRIES.c.id).where(ENTRIES.c.id.in_(some))).scalars())
    return found


def _without_bundle(entry: Entry, bundles: Collection[TrustDomain]) -> SpiffeError | None:
    missing = [trust_domain for trust_domain in entry.federates_with if trust_domain not in bundles]
    return Internal(f'unable to find federated bundle "{missing[0].id}"') if missing else None
