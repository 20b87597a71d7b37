"""Entries as rows: the codec, and the index rows that stand beside one.

Reading shares what rows have in common (trust domains, parents, lists of selectors), so that a registry of
100,000 entries in memory stays small.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from server.datastore.documents import dump, load
from server.datastore.tables import BUNDLES, ENTRIES, ENTRY_FEDERATION, ENTRY_SELECTORS
from spiffe_core.entries import Entry, EntryId, Selector, unique_selectors
from spiffe_core.ids import SpiffeId, TrustDomain

IN_CHUNK: Final = 500
"""Most values in one IN list: SQLite and PostgreSQL have limits, and planners do not like long ones."""


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry and the number of its row, which grows with each entry that is created."""

    row_id: int
    entry: Entry


def normalized(entry: Entry) -> Entry:
    """The entry with each selector and federated trust domain once."""
    selectors = unique_selectors(entry.selectors)
    federates_with = tuple(dict.fromkeys(entry.federates_with))
    if len(selectors) == len(entry.selectors) and len(federates_with) == len(entry.federates_with):
        return entry
    return replace(entry, selectors=selectors, federates_with=federates_with)


def likeness_digest(entry: Entry) -> bytes:
    """SHA-256 of what makes two entries similar."""
    return sha256(dump(entry.likeness).encode()).digest()


@lru_cache(maxsize=8192)
def selector_digest(selector: Selector) -> bytes:
    """SHA-256 of the selector's text, by which it is found."""
    return sha256(str(selector).encode()).digest()


def to_row(entry: Entry, likeness: bytes) -> dict[str, object]:
    """The columns of an entry, without ``row_id``."""
    return {
        "id": entry.id,
        "likeness": likeness,
        "spiffe_id": str(entry.spiffe_id),
        "parent_id": str(entry.parent_id),
        "selectors": dump_selectors(entry.selectors),
        "federates_with": dump([td.name for td in entry.federates_with]),
        "dns_names": dump(entry.dns_names),
        "hint": entry.hint,
        "x509_svid_ttl": entry.x509_svid_ttl,
        "jwt_svid_ttl": entry.jwt_svid_ttl,
        "admin": entry.admin,
        "downstream": entry.downstream,
        "store_svid": entry.store_svid,
        "disable_x509_svid_prefetch": entry.disable_x509_svid_prefetch,
        "jwt_svid_include_jti": entry.jwt_svid_include_jti,
        "expires_at": entry.expires_at,
        "created_at": entry.created_at,
        "revision_number": entry.revision_number,
    }


def from_row(row: sa.Row[Any]) -> StoredEntry:
    """The entry of a row of all columns, in the order of the table."""
    # Taken apart at once: by name, the columns of 100,000 rows cost a second more.
    row_id, entry_id, _, spiffe_id, parent_id, selectors, federates_with, dns_names, hint, *rest = cast(
        "tuple[Any, ...]", row
    )
    x509_ttl, jwt_ttl, admin, downstream, store_svid, no_prefetch, jti, expires_at, created_at, revision = rest
    entry = Entry(
        id=EntryId(entry_id),
        spiffe_id=_spiffe_id(spiffe_id),
        parent_id=_shared_spiffe_id(parent_id),
        selectors=load_selectors(selectors),
        federates_with=_trust_domains(federates_with),
        dns_names=_texts(dns_names),
        hint=hint,
        x509_svid_ttl=x509_ttl,
        jwt_svid_ttl=jwt_ttl,
        admin=admin,
        downstream=downstream,
        store_svid=store_svid,
        disable_x509_svid_prefetch=no_prefetch,
        jwt_svid_include_jti=jti,
        expires_at=expires_at,
        created_at=created_at,
        revision_number=revision,
    )
    return StoredEntry(row_id, entry)


def dump_selectors(selectors: Iterable[Selector]) -> str:
    """Selectors as JSON."""
    return dump([(s.type, s.value) for s in selectors])


@lru_cache(maxsize=8192)
def load_selectors(text: str) -> tuple[Selector, ...]:
    """Selectors from JSON; equal lists are one tuple, and equal selectors one object."""
    return tuple(_selector(kind, value) for kind, value in load(text))


_selector: Final = lru_cache(maxsize=8192)(Selector)
_trust_domain: Final = lru_cache(maxsize=1024)(TrustDomain)


@lru_cache(maxsize=1024)
def _texts(text: str) -> tuple[str, ...]:
    return tuple(load(text))


@lru_cache(maxsize=1024)
def _trust_domains(text: str) -> tuple[TrustDomain, ...]:
    return tuple(_trust_domain(name) for name in load(text))


def _spiffe_id(text: str) -> SpiffeId:
    name, slash, path = text[len("spiffe://") :].partition("/")
    return SpiffeId(_trust_domain(name), slash + path)


_shared_spiffe_id: Final = lru_cache(maxsize=8192)(_spiffe_id)


def chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """The values in lists that an IN may hold."""
    rest = list(values)
    for at in range(0, len(rest), IN_CHUNK):
        yield rest[at : at + IN_CHUNK]


def select_entries(
    connection: Connection, column: "sa.ColumnElement[Any]", values: Iterable[object], *, lock: bool = False
) -> list[StoredEntry]:
    """The entries of which the column is one of the values; with ``lock``, nobody else changes them meanwhile."""
    found = []
    for some in chunks(values):
        # In one order everywhere, so that two transactions do not wait for each other.
        query = sa.select(ENTRIES).where(column.in_(some)).order_by(ENTRIES.c.row_id)
        found += [from_row(row) for row in connection.execute(query.with_for_update() if lock else query)]
    return found


def insert_indexes(
    connection: Connection, entries: Iterable[StoredEntry], bundle_rows: Mapping[TrustDomain, int]
) -> None:
    """Write the index rows of entries that have none."""
    selectors = []
    federation = []
    for stored in entries:
        selectors += [{"digest": selector_digest(s), "entry": stored.row_id} for s in stored.entry.selectors]
        federation += [{"bundle": bundle_rows[td], "entry": stored.row_id} for td in stored.entry.federates_with]
    if selectors:
        connection.execute(sa.insert(ENTRY_SELECTORS), selectors)
    if federation:
        connection.execute(sa.insert(ENTRY_FEDERATION), federation)


def delete_indexes(connection: Connection, row_ids: Sequence[int]) -> None:
    """Delete the index rows of these entries."""
    for some in chunks(row_ids):
        connection.execute(sa.delete(ENTRY_SELECTORS).where(ENTRY_SELECTORS.c.entry.in_(some)))
        connection.execute(sa.delete(ENTRY_FEDERATION).where(ENTRY_FEDERATION.c.entry.in_(some)))


def delete_entries(connection: Connection, row_ids: Sequence[int]) -> None:
    """Delete entries; their index rows go with them, by their foreign keys."""
    for some in chunks(row_ids):
        connection.execute(sa.delete(ENTRIES).where(ENTRIES.c.row_id.in_(some)))


def bundle_rows_of(connection: Connection, trust_domains: Iterable[TrustDomain]) -> dict[TrustDomain, int]:
    """The rows of the bundles of those trust domains that have one."""
    found: dict[TrustDomain, int] = {}
    for some in chunks({td.name for td in trust_domains}):
        query = sa.select(BUNDLES.c.trust_domain, BUNDLES.c.row_id).where(BUNDLES.c.trust_domain.in_(some))
        found |= {_trust_domain(row.trust_domain): row.row_id for row in connection.execute(query)}
    return found
