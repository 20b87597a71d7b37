"""Registration entries.

Agents sync thousands of entries, so writing one sets the fields of the message one by one: that is a third
faster than to construct it with messages inside.
"""

from collections.abc import Iterable
from typing import Final

from spiffe_core.api.convert.ids import member_id_from_pb, trust_domain_from_pb, workload_id_from_pb
from spiffe_core.api.convert.selectors import selectors_from_pb
from spiffe_core.api.spire.api.types import entry_pb2
from spiffe_core.api.spire.api.types.entry_pb2 import EntryMask
from spiffe_core.dns import check_dns_name
from spiffe_core.entries import MAX_HINT_BYTES, Entry, EntryId, Selector
from spiffe_core.errors import InvalidEntry, InvalidSpiffeId
from spiffe_core.ids import SpiffeId, TrustDomain

_ALL: Final = EntryMask(**{field.name: True for field in EntryMask.DESCRIPTOR.fields})
_ADDITIONAL: Final = ("disable_x509_svid_prefetch", "jwt_svid_include_jti")


def entry_fields(mask: EntryMask | None) -> frozenset[str]:
    """Names of the attributes of ``Entry``, its ID aside, that the mask chooses."""
    names = {field.name for field, _ in (_ALL if mask is None else mask).ListFields()}
    if "additional_attributes" in names:
        names.remove("additional_attributes")
        names.update(_ADDITIONAL)
    return frozenset(names)


def entry_from_pb(pb: entry_pb2.Entry | None, trust_domain: TrustDomain, mask: EntryMask | None = None) -> Entry:
    """An entry that is to be registered in ``trust_domain``, or one that a server of it sent.

    Fields outside of the mask are not looked at and left at their defaults; ``spiffe_id`` and ``parent_id``
    have none, so the trust domain's own ID, which no entry may have, stands for them.  What needs more than
    each field by itself is left to ``check_entry``.

    Raises:
        InvalidEntry: naming the first field that is wrong.
        InvalidSelector: if a selector is malformed.
    """
    if pb is None:
        raise InvalidEntry("missing entry")
    show = _ALL if mask is None else mask
    nobody = trust_domain.id
    return Entry(
        id=EntryId(pb.id),
        parent_id=_parent_id(pb, trust_domain) if show.parent_id else nobody,
        spiffe_id=_spiffe_id(pb, trust_domain) if show.spiffe_id else nobody,
        dns_names=_dns_names(pb.dns_names) if show.dns_names else (),
        federates_with=_trust_domains(pb.federates_with) if show.federates_with else (),
        selectors=_selectors(pb) if show.selectors else (),
        hint=_hint(pb.hint) if show.hint else "",
        x509_svid_ttl=pb.x509_svid_ttl if show.x509_svid_ttl else 0,
        jwt_svid_ttl=pb.jwt_svid_ttl if show.jwt_svid_ttl else 0,
        admin=show.admin and pb.admin,
        downstream=show.downstream and pb.downstream,
        store_svid=show.store_svid and pb.store_svid,
        disable_x509_svid_prefetch=show.additional_attributes and pb.additional_attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti=show.additional_attributes and pb.additional_attributes.jwt_svid_include_jti,
        expires_at=pb.expires_at if show.expires_at else 0,
        created_at=pb.created_at if show.created_at else 0,
        revision_number=pb.revision_number if show.revision_number else 0,
    )


def entry_to_pb(entry: Entry, mask: EntryMask | None = None) -> entry_pb2.Entry:  # noqa: C901, PLR0912  a field a line
    """The entry with the chosen fields, and always its ID."""
    show = _ALL if mask is None else mask
    pb = entry_pb2.Entry(id=entry.id)
    if show.spiffe_id:
        pb.spiffe_id.trust_domain = entry.spiffe_id.trust_domain.name
        pb.spiffe_id.path = entry.spiffe_id.path
    if show.parent_id:
        pb.parent_id.trust_domain = entry.parent_id.trust_domain.name
        pb.parent_id.path = entry.parent_id.path
    if show.selectors:
        for selector in entry.selectors:
            pb.selectors.add(type=selector.type, value=selector.value)
    if show.x509_svid_ttl:
        pb.x509_svid_ttl = entry.x509_svid_ttl
    if show.jwt_svid_ttl:
        pb.jwt_svid_ttl = entry.jwt_svid_ttl
    if show.federates_with:
        pb.federates_with.extend([trust_domain.name for trust_domain in entry.federates_with])
    if show.dns_names:
        pb.dns_names.extend(entry.dns_names)
    if show.admin:
        pb.admin = entry.admin
    if show.downstream:
        pb.downstream = entry.downstream
    if show.store_svid:
        pb.store_svid = entry.store_svid
    if show.additional_attributes and (entry.disable_x509_svid_prefetch or entry.jwt_svid_include_jti):
        pb.additional_attributes.disable_x509_svid_prefetch = entry.disable_x509_svid_prefetch
        pb.additional_attributes.jwt_svid_include_jti = entry.jwt_svid_include_jti
    if show.hint:
        pb.hint = entry.hint
    if show.expires_at:
        pb.expires_at = entry.expires_at
    if show.created_at:
        pb.created_at = entry.created_at
    if show.revision_number:
        pb.revision_number = entry.revision_number
    return pb


def _parent_id(pb: entry_pb2.Entry, trust_domain: TrustDomain) -> SpiffeId:
    try:
        return member_id_from_pb(pb.parent_id if pb.HasField("parent_id") else None, trust_domain)
    except InvalidSpiffeId as exc:
        raise InvalidEntry(f"invalid parent ID: {exc}") from exc


def _spiffe_id(pb: entry_pb2.Entry, trust_domain: TrustDomain) -> SpiffeId:
    try:
        return workload_id_from_pb(pb.spiffe_id if pb.HasField("spiffe_id") else None, trust_domain)
    except InvalidSpiffeId as exc:
        raise InvalidEntry(f"invalid spiffe ID: {exc}") from exc


def _trust_domains(names: Iterable[str]) -> tuple[TrustDomain, ...]:
    try:
        return tuple(trust_domain_from_pb(name) for name in names)
    except InvalidSpiffeId as exc:
        raise InvalidEntry(f"invalid federated trust domain: {exc}") from exc


def _selectors(pb: entry_pb2.Entry) -> tuple[Selector, ...]:
    if not pb.selectors:
        raise InvalidEntry("selector list is empty")
    return selectors_from_pb(pb.selectors)


def _dns_names(names: Iterable[str]) -> tuple[str, ...]:
    found = tuple(names)
    for name in found:
        check_dns_name(name)
    return found


def _hint(hint: str) -> str:
    if len(hint.encode()) > MAX_HINT_BYTES:
        raise InvalidEntry(f"hint is too long, max length is {MAX_HINT_BYTES} characters")
    return hint
