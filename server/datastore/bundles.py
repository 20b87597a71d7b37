"""Trust bundles in the database: our own and those of federated trust domains.

Whoever changes a bundle by what it holds (append, prune, taint, revoke) has its row locked from reading to
writing, so two servers that publish at once both find their authorities in it.  The sequence number grows by
one when that changed anything; ``create``, ``update`` and ``set`` store the one they are given.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Any, Final, Literal

import sqlalchemy as sa

from server.datastore import bundle_rows, distrust
from server.datastore.database import Database, Write
from server.datastore.entry_rows import StoredEntry, delete_entries, likeness_digest, select_entries, to_row
from server.datastore.paging import Page, next_token, paged
from server.datastore.tables import BUNDLES, ENTRIES, ENTRY_FEDERATION
from spiffe_core.bundle import Bundle, JwtAuthority, X509Authority
from spiffe_core.errors import AlreadyExists, FailedPrecondition, NotFound
from spiffe_core.ids import TrustDomain

BundleField = Literal["x509_authorities", "jwt_authorities", "refresh_hint", "sequence_number"]
"""What an update may change."""
ALL_FIELDS: Final[tuple[BundleField, ...]] = BundleField.__args__  # type: ignore[attr-defined]


class DeleteMode(Enum):
    """What deleting a bundle does to entries that federate with its trust domain."""

    RESTRICT = "restrict"
    """The bundle is not deleted while there are any."""
    DELETE = "delete"
    """They are deleted with it."""
    DISSOCIATE = "dissociate"
    """They stay, federate with it no more, and get a new revision, so that agents hear of it."""


class Bundles:
    """The table of bundles."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, trust_domain: TrustDomain) -> Bundle | None:
        """The bundle of that trust domain, or None."""
        query = sa.select(BUNDLES).where(BUNDLES.c.trust_domain == trust_domain.name)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return bundle_rows.from_row(row) if row else None

    def list(self, *, page_size: int = 0, page_token: str = "") -> Page[Bundle]:
        """The bundles in the order in which they were created, a page of them or all.

        Raises:
            InvalidInput: if the page token is none.
        """
        query = paged(sa.select(BUNDLES), BUNDLES.c.row_id, page_size, page_token)
        with self._database.read() as connection:
            rows = list(connection.execute(query))
        return Page(tuple(map(bundle_rows.from_row, rows)), next_token(rows, page_size))

    def count(self) -> int:
        """How many bundles there are, our own included."""
        with self._database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(BUNDLES)).scalar_one()

    def create(self, bundle: Bundle) -> Bundle:
        """Store a bundle of a trust domain that has none.

        Raises:
            AlreadyExists: if it has one.
        """

        def work(write: Write) -> Bundle:
            if bundle_rows.locked(write, bundle.trust_domain):
                raise AlreadyExists("bundle already exists")
            return bundle_rows.insert(write, bundle)

        return self._database.write(work)

    def update(self, bundle: Bundle, fields: Collection[BundleField] | None = None) -> Bundle:
        """Change the named fields, or all for None, of that trust domain's bundle; the bundle as it is then.

        Raises:
            NotFound: if there is none.
        """
        values: dict[str, Any] = {field: getattr(bundle, field) for field in fields or ()}
        return self._change(bundle.trust_domain, lambda old: bundle if fields is None else replace(old, **values))

    def set(self, bundle: Bundle) -> Bundle:
        """Store the bundle, in the place of the one that may be there."""

        def work(write: Write) -> Bundle:
            there = bundle_rows.locked(write, bundle.trust_domain)
            return bundle_rows.store(write, bundle) if there else bundle_rows.insert(write, bundle)

        return self._database.write(work)

    def append(
        self,
        trust_domain: TrustDomain,
        x509_authorities: Iterable[X509Authority] = (),
        jwt_authorities: Iterable[JwtAuthority] = (),
    ) -> Bundle:
        """Add the authorities that the bundle lacks, and make it if there is none; the bundle as it is then."""
        x509_authorities, jwt_authorities = tuple(x509_authorities), tuple(jwt_authorities)

        def work(write: Write) -> Bundle:
            old = bundle_rows.locked(write, trust_domain)
            new = (old or Bundle(trust_domain)).with_authorities(x509_authorities, jwt_authorities)
            if old is None:
                return bundle_rows.insert(write, replace(new, sequence_number=0))  # SPIRE counts from its making
            return old if new is old else bundle_rows.store(write, new)

        return self._database.write(work)

    def prune(self, trust_domain: TrustDomain, before: int) -> bool:
        """Take out the authorities that expired before that Unix time; whether there were any."""

        def work(write: Write) -> bool:
            old = bundle_rows.locked(write, trust_domain)
            new = old.without_expired(before) if old else None
            if new is None or new is old:
                return False
            bundle_rows.store(write, new)
            return True

        return self._database.write(work)

    def taint_x509(self, trust_domain: TrustDomain, key_id: str) -> Bundle:
        """``distrust.taint_x509`` on what is stored.  Raises NotFound too if there is no bundle."""
        return self._change(trust_domain, partial(distrust.taint_x509, key_id=key_id))

    def revoke_x509(self, trust_domain: TrustDomain, key_id: str) -> Bundle:
        """``distrust.revoke_x509`` on what is stored.  Raises NotFound too if there is no bundle."""
        return self._change(trust_domain, partial(distrust.revoke_x509, key_id=key_id))

    def taint_jwt(self, trust_domain: TrustDomain, key_id: str) -> Bundle:
        """``distrust.taint_jwt`` on what is stored.  Raises NotFound too if there is no bundle."""
        return self._change(trust_domain, partial(distrust.taint_jwt, key_id=key_id))

    def revoke_jwt(self, trust_domain: TrustDomain, key_id: str) -> Bundle:
        """``distrust.revoke_jwt`` on what is stored.  Raises NotFound too if there is no bundle."""
        return self._change(trust_domain, partial(distrust.revoke_jwt, key_id=key_id))

    def delete(self, trust_domain: TrustDomain, mode: DeleteMode = DeleteMode.RESTRICT) -> None:
        """Delete the bundle; ``mode`` says what becomes of entries that federate with it.

        Raises:
            NotFound: if there is none.
            FailedPrecondition: if there are such entries and the mode is RESTRICT.
        """
        self._database.write(lambda write: _delete(write, trust_domain, mode))

    def own(self, trust_domain: TrustDomain) -> "OwnBundle":
        """The bundle of our own trust domain, as the authority manager sees it."""
        return OwnBundle(self, trust_domain)

    def _change(self, trust_domain: TrustDomain, change: Callable[[Bundle], Bundle]) -> Bundle:
        def work(write: Write) -> Bundle:
            old = bundle_rows.locked(write, trust_domain)
            if old is None:
                raise NotFound("bundle not found")
            return bundle_rows.store(write, change(old))

        return self._database.write(work)


class OwnBundle:
    """The bundle of one trust domain, to which authorities are published (``hsm_ca.manager.BundleStore``)."""

    def __init__(self, bundles: Bundles, trust_domain: TrustDomain) -> None:
        self._bundles = bundles
        self._trust_domain = trust_domain

    def publish(self, x509_authorities: Sequence[X509Authority], jwt_authorities: Sequence[JwtAuthority]) -> Bundle:
        """Add what is new, durably, and return the bundle as it stands then."""
        return self._bundles.append(self._trust_domain, x509_authorities, jwt_authorities)

    def prune(self, before: int) -> bool:
        """Take out what expired before that Unix time; whether anything was."""
        return self._bundles.prune(self._trust_domain, before)


def _delete(write: Write, trust_domain: TrustDomain, mode: DeleteMode) -> None:
    connection = write.connection
    query = sa.select(BUNDLES.c.row_id).where(BUNDLES.c.trust_domain == trust_domain.name).with_for_update()
    bundle_row = connection.execute(query).scalar()
    if bundle_row is None:
        raise NotFound("bundle not found")
    federated = sa.select(ENTRY_FEDERATION.c.entry).where(ENTRY_FEDERATION.c.bundle == bundle_row)
    rows = list(connection.execute(federated).scalars())
    if rows and mode is DeleteMode.RESTRICT:
        raise FailedPrecondition(f"cannot delete bundle; federated with {len(rows)} registration entries")
    entries = select_entries(connection, ENTRIES.c.row_id, rows, lock=True)
    if mode is DeleteMode.DELETE:
        delete_entries(connection, rows)
    else:
        connection.execute(sa.delete(ENTRY_FEDERATION).where(ENTRY_FEDERATION.c.bundle == bundle_row))
        _dissociate(write, entries, trust_domain)
    connection.execute(sa.delete(BUNDLES).where(BUNDLES.c.row_id == bundle_row))
    write.changed_entries(stored.entry.id for stored in entries)
    write.changed_bundle(trust_domain)


def _dissociate(write: Write, entries: Iterable[StoredEntry], trust_domain: TrustDomain) -> None:
    for stored in entries:
        left = tuple(td for td in stored.entry.federates_with if td != trust_domain)
        new = replace(stored.entry, federates_with=left, revision_number=stored.entry.revision_number + 1)
        change = sa.update(ENTRIES).where(ENTRIES.c.row_id == stored.row_id)
        write.connection.execute(change, to_row(new, likeness_digest(new)))
