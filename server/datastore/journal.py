"""Authority journals and leases in the database (``hsm_ca.journal``), one of each per authority group.

A journal write reads the group's lease with its row locked, in the transaction that writes: no other server can
take the lease between the two.  The row of a lease is never deleted, so that an epoch never comes again.

That row also counts the writes to the group's journal.  Each server looks every second, and ended authorities stay
for days: records are read again only when the count has moved.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from hsm_ca.journal import AuthorityId, AuthorityRecord, LeaseState, StaleLease, State, Use
from keymanagers.base import KeyId, KeyType
from server.datastore.database import Database, Write
from server.datastore.documents import dump_binary, load_binary
from server.datastore.tables import AUTHORITY_LEASES as LEASES
from server.datastore.tables import AUTHORITY_RECORDS as RECORDS


class GroupJournal:
    """The journal of one group (``hsm_ca.journal.Journal``)."""

    def __init__(self, database: Database, group: str) -> None:
        self._database = database
        self._group = group
        self._last_read: tuple[tuple[int, int], tuple[AuthorityRecord, ...]] | None = None

    def records(self) -> Sequence[AuthorityRecord]:
        """Every record of the group, by ``reserved_at``, then ``key_id``."""
        # With the epoch: a database that was restored from a backup may come to the same count by another way.
        version = sa.select(LEASES.c.epoch, LEASES.c.version).where(LEASES.c.authority_group == self._group)
        query = sa.select(RECORDS).where(RECORDS.c.authority_group == self._group)
        last = self._last_read
        with self._database.read() as connection:
            # The count comes first: what is written between the two is read now, and once more next time.
            row = connection.execute(version).first()
            if row and last and last[0] == (row.epoch, row.version):
                return list(last[1])
            found = [_from_row(row) for row in connection.execute(query)]
        found.sort(key=lambda record: (record.reserved_at, record.key_id))
        self._last_read = ((row.epoch, row.version), tuple(found)) if row else None
        return found

    def write(self, epoch: int, *records: AuthorityRecord) -> None:
        """Insert or replace the records by ``key_id``, all or none.

        Raises:
            StaleLease: if the group's lease is not of that epoch.
        """
        latest = {record.key_id: record for record in records}

        def work(write: Write) -> None:
            self._fence(write, epoch)
            self._delete(write, latest)
            write.connection.execute(sa.insert(RECORDS), [_to_row(self._group, r) for r in latest.values()])
            _count(write, self._group)

        if latest:
            self._database.write(work)

    def forget(self, epoch: int, key_id: KeyId) -> None:
        """Delete the record of a key that was destroyed, or never came to be.

        Raises:
            StaleLease: if the group's lease is not of that epoch.
        """

        def work(write: Write) -> None:
            self._fence(write, epoch)
            self._delete(write, [key_id])
            _count(write, self._group)

        self._database.write(work)

    def _fence(self, write: Write, epoch: int) -> None:
        """Raise unless the lease is of that epoch; it stays so until the transaction ends."""
        query = sa.select(LEASES.c.epoch).where(LEASES.c.authority_group == self._group).with_for_update()
        current = write.connection.execute(query).scalar()
        if current != epoch:
            raise StaleLease(
                f'authority group "{self._group}" is led by another server: its lease is of epoch {current}, '
                f"not {epoch}; this server follows from now on"
            )

    def _delete(self, write: Write, key_ids: Iterable[KeyId]) -> None:
        mine = sa.and_(RECORDS.c.authority_group == self._group, RECORDS.c.key_id.in_(list(key_ids)))
        write.connection.execute(sa.delete(RECORDS).where(mine))


class GroupLease:
    """The lease of one group (``hsm_ca.journal.LeaseTable``)."""

    def __init__(self, database: Database, group: str) -> None:
        self._database = database
        self._group = group

    def lease(self) -> LeaseState | None:
        """The row as it is now, or None if nobody ever held it."""
        with self._database.read() as connection:
            row = connection.execute(self._query()).first()
        return _lease(row)

    def take(self, holder: str, seen: LeaseState | None) -> LeaseState | None:
        """Take the lease over from exactly the state that was seen: the new state, or None if it has changed."""

        def work(write: Write) -> LeaseState | None:
            if _lease(write.connection.execute(self._query().with_for_update()).first()) != seen:
                return None
            taken = LeaseState(holder, seen.epoch + 1 if seen else 1, 0)
            values = {"holder": taken.holder, "epoch": taken.epoch, "beat": taken.beat}
            if seen:
                write.connection.execute(sa.update(LEASES).where(LEASES.c.authority_group == self._group), values)
            else:
                write.connection.execute(sa.insert(LEASES), {"authority_group": self._group, "version": 0, **values})
            return taken

        return self._database.write(work)

    def beat(self, held: LeaseState) -> LeaseState | None:
        """Renew: the new state, or None if the lease is no longer that holder's in that epoch."""

        def work(write: Write) -> LeaseState | None:
            current = self._still(write, held)
            if current is None:
                return None
            renewed = replace(current, beat=current.beat + 1)
            change = sa.update(LEASES).where(LEASES.c.authority_group == self._group)
            write.connection.execute(change, {"beat": renewed.beat})
            return renewed

        return self._database.write(work)

    def release(self, held: LeaseState) -> None:
        """Give the lease up: the holder becomes empty; nothing happens if it is no longer held."""

        def work(write: Write) -> None:
            if self._still(write, held):
                change = sa.update(LEASES).where(LEASES.c.authority_group == self._group)
                write.connection.execute(change, {"holder": ""})

        self._database.write(work)

    def _query(self) -> "sa.Select[Any]":
        return sa.select(LEASES).where(LEASES.c.authority_group == self._group)

    def _still(self, write: Write, held: LeaseState) -> LeaseState | None:
        """The lease, locked, if it is that holder's in that epoch."""
        current = _lease(write.connection.execute(self._query().with_for_update()).first())
        mine = current is not None and (current.holder, current.epoch) == (held.holder, held.epoch)
        return current if mine else None


def prune_groups(database: Database, before: int) -> tuple[str, ...]:
    """Delete the records of groups of which nothing has lived since that Unix time, and return those groups.

    Such a group's servers are gone for good: a server that runs has an authority that has not expired.
    """
    # A record without a certificate has no end; it is as old as its last change.
    ends = [sa.func.max(column) for column in (RECORDS.c.not_after, RECORDS.c.changed_at, RECORDS.c.reserved_at)]
    ages = sa.select(RECORDS.c.authority_group, *ends).group_by(RECORDS.c.authority_group)

    def dead(write: Write, *conditions: sa.ColumnElement[bool]) -> list[str]:
        return [row[0] for row in write.connection.execute(ages.where(*conditions)) if max(row[1:]) < before]

    def work(write: Write) -> tuple[str, ...]:
        pruned = []
        for group in dead(write):
            mine = RECORDS.c.authority_group == group
            # Whoever writes to the journal now holds this lock, and is seen by looking again.
            write.connection.execute(
                sa.select(LEASES.c.epoch).where(LEASES.c.authority_group == group).with_for_update()
            )
            if dead(write, mine):
                write.connection.execute(sa.delete(RECORDS).where(mine))
                _count(write, group)
                pruned.append(group)
        return tuple(pruned)

    return database.write(work)


def _count(write: Write, group: str) -> None:
    """Tell that the journal has changed; the group's lease is locked."""
    mine = sa.update(LEASES).where(LEASES.c.authority_group == group)
    write.connection.execute(mine.values(version=LEASES.c.version + 1))
    write.changed_journal(group)


def _lease(row: "sa.Row[Any] | None") -> LeaseState | None:
    return LeaseState(row.holder, row.epoch, row.beat) if row else None


def _to_row(group: str, record: AuthorityRecord) -> dict[str, object]:
    return {
        "authority_group": group,
        "key_id": record.key_id,
        "purpose": record.use.value,
        "key_type": record.key_type.value,
        "state": record.state.value,
        "public_key": record.public_key,
        "authority_id": record.authority_id,
        "chain": dump_binary(record.chain),
        "roots": dump_binary(record.roots),
        "reserved_at": record.reserved_at,
        "issued_at": record.issued_at,
        "not_after": record.not_after,
        "published": record.published,
        "tainted": record.tainted,
        "changed_at": record.changed_at,
    }


def _from_row(row: "sa.Row[Any]") -> AuthorityRecord:
    return AuthorityRecord(
        key_id=KeyId(row.key_id),
        use=Use(row.purpose),
        key_type=KeyType(row.key_type),
        state=State(row.state),
        public_key=bytes(row.public_key),
        authority_id=AuthorityId(row.authority_id),
        chain=load_binary(row.chain),
        roots=load_binary(row.roots),
        reserved_at=row.reserved_at,
        issued_at=row.issued_at,
        not_after=row.not_after,
        published=row.published,
        tainted=row.tainted,
        changed_at=row.changed_at,
    )
