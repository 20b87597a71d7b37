"""What a list or count of entries may ask for."""

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from server.datastore.entry_rows import selector_digest
from server.datastore.set_match import SetMatch, matches
from server.datastore.tables import BUNDLES, ENTRIES, ENTRY_FEDERATION, ENTRY_SELECTORS
from spiffe_core.entries import Selector
from spiffe_core.errors import InvalidInput
from spiffe_core.ids import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter:
    """All conditions that are set must hold.  An empty hint, and ``downstream`` false, set none, as in SPIRE."""

    spiffe_id: SpiffeId | None = None
    parent_id: SpiffeId | None = None
    selectors: SetMatch[Selector] | None = None
    federates_with: SetMatch[TrustDomain] | None = None
    hint: str = ""
    downstream: bool = False

    def __post_init__(self) -> None:
        if self.selectors and not self.selectors.members:
            raise InvalidInput("malformed selectors filter: empty selector set")
        if self.federates_with and not self.federates_with.members:
            raise InvalidInput("malformed federates with filter: empty trust domain set")

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """The conditions in SQL, on the table of entries."""
        if self.spiffe_id:
            yield ENTRIES.c.spiffe_id == str(self.spiffe_id)
        if self.parent_id:
            yield ENTRIES.c.parent_id == str(self.parent_id)
        if self.hint:
            yield ENTRIES.c.hint == self.hint
        if self.downstream:
            yield ENTRIES.c.downstream.is_(sa.true())
        if wanted := self.selectors:
            index = (ENTRY_SELECTORS.c.entry, ENTRY_SELECTORS.c.digest)
            digests = [selector_digest(selector) for selector in wanted.members]
            yield matches(ENTRIES.c.row_id, index, digests, len(digests), wanted.match)
        if federates := self.federates_with:
            federation = (ENTRY_FEDERATION.c.entry, ENTRY_FEDERATION.c.bundle)
            names = [trust_domain.name for trust_domain in federates.members]
            bundles = sa.select(BUNDLES.c.row_id).where(BUNDLES.c.trust_domain.in_(names))
            yield matches(ENTRIES.c.row_id, federation, bundles, len(names), federates.match)


EVERY_ENTRY = EntryFilter()
"""No condition."""
