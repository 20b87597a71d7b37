"""Selectors and registration entries: which workload on which node gets which SPIFFE ID.

Validation here is what holds for an entry by itself; what needs other rows (a federated bundle must
exist, an equal entry must not) is the datastore's.  The rules are SPIRE's (server API and SQL store).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NewType, Self

from spiffe_core.dns import check_dns_names
from spiffe_core.errors import InvalidEntry, InvalidSelector, InvalidSpiffeId
from spiffe_core.ids import SpiffeId, TrustDomain

EntryId = NewType("EntryId", str)

MAX_HINT_BYTES: Final = 1024
"""Longest hint (SPIFFE_Workload_API.md §8)."""
_ENTRY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")
_UNSTORABLE: Final = re.compile(r"[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """One attested property of a node or workload, such as type ``unix``, value ``uid:1000``."""

    type: str
    value: str

    def __post_init__(self) -> None:
        if not self.type:
            raise InvalidSelector("missing selector type")
        if ":" in self.type:
            raise InvalidSelector("selector type contains ':'")
        if not self.value:
            raise InvalidSelector("missing selector value")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``type:value``; the value may hold colons."""
        kind, colon, value = text.partition(":")
        if not colon:
            raise InvalidSelector(f'selector "{text}" must be formatted as type:value')
        return cls(kind, value)

    def __str__(self) -> str:
        return f"{self.type}:{self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A registration entry.  Times are Unix seconds and lifetimes seconds; 0 means "not set"."""

    spiffe_id: SpiffeId
    parent_id: SpiffeId
    selectors: tuple[Selector, ...]
    id: EntryId = EntryId("")
    x509_svid_ttl: int = 0
    jwt_svid_ttl: int = 0
    federates_with: tuple[TrustDomain, ...] = ()
    dns_names: tuple[str, ...] = ()
    hint: str = ""
    admin: bool = False
    downstream: bool = False
    store_svid: bool = False
    disable_x509_svid_prefetch: bool = False
    jwt_svid_include_jti: bool = False
    expires_at: int = 0
    created_at: int = 0
    revision_number: int = 0

    @property
    def likeness(self) -> tuple[str, str, tuple[str, ...]]:
        """What makes two entries "similar": parent, SPIFFE ID and the set of selectors."""
        return (str(self.parent_id), str(self.spiffe_id), tuple(sorted({str(s) for s in self.selectors})))


def check_entry(entry: Entry, trust_domain: TrustDomain) -> None:
    """Raise unless ``entry`` may be registered in ``trust_domain``.

    Raises:
        InvalidEntry: naming the first rule that is broken.
        InvalidSpiffeId: if one of its IDs is not allowed there.
    """
    check_parent_id(entry.parent_id, trust_domain)
    check_workload_id(entry.spiffe_id, trust_domain)
    if not entry.selectors:
        raise InvalidEntry("selector list is empty")
    if entry.x509_svid_ttl < 0:
        raise InvalidEntry("X509SVIDTTL is negative")
    if entry.jwt_svid_ttl < 0:
        raise InvalidEntry("JWTSVIDTTL is negative")
    if entry.expires_at < 0:
        raise InvalidEntry("expiry is negative")
    _check_texts((entry.hint, *(text for s in entry.selectors for text in (s.type, s.value))))
    if len(entry.hint.encode()) > MAX_HINT_BYTES:
        raise InvalidEntry(f"hint is too long, max length is {MAX_HINT_BYTES} characters")
    if entry.id and not _ENTRY_ID.fullmatch(entry.id):
        raise InvalidEntry("entry ID contains invalid characters or is longer than 255")
    check_dns_names(entry.dns_names)
    if entry.store_svid:
        if len({s.type for s in entry.selectors}) > 1:
            raise InvalidEntry("selector types must be the same when store SVID is enabled")
        if entry.disable_x509_svid_prefetch:
            raise InvalidEntry("X509-SVID prefetch cannot be disabled when store SVID is enabled")


def check_parent_id(spiffe_id: SpiffeId, trust_domain: TrustDomain) -> None:
    """Raise unless the ID may be a parent: any member with a path, agents and the server included."""
    _check_member(spiffe_id, trust_domain)
    if not spiffe_id.path:
        raise InvalidSpiffeId(f'"{spiffe_id}" is not a member of trust domain "{trust_domain}"; path is empty')


def check_workload_id(spiffe_id: SpiffeId, trust_domain: TrustDomain) -> None:
    """Raise unless the ID may be a workload's: a member with a path outside ``/spire``."""
    _check_member(spiffe_id, trust_domain)
    if not spiffe_id.path:
        raise InvalidSpiffeId(f'"{spiffe_id}" is not a workload in trust domain "{trust_domain}"; path is empty')
    if spiffe_id.is_reserved:
        raise InvalidSpiffeId(
            f'"{spiffe_id}" is not a workload in trust domain "{trust_domain}"; path is in the reserved namespace'
        )


def unique_selectors(selectors: Iterable[Selector]) -> tuple[Selector, ...]:
    """The selectors in their order, each once."""
    return tuple(dict.fromkeys(selectors))


def _check_texts(texts: Iterable[str]) -> None:
    """Raise unless every message and every database can hold the texts."""
    for text in texts:
        if _UNSTORABLE.search(text):
            raise InvalidEntry(f"{text[:80]!r} holds a character that cannot be stored: NUL or half a surrogate pair")


def _check_member(spiffe_id: SpiffeId, trust_domain: TrustDomain) -> None:
    if not spiffe_id.member_of(trust_domain):
        raise InvalidSpiffeId(f'"{spiffe_id}" is not a member of trust domain "{trust_domain}"')
