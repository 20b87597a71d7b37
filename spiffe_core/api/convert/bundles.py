"""Trust bundles and their authorities.

WIT authorities are passed over: no bundle of ours holds any.
"""

from collections.abc import Iterable
from typing import Final

from spiffe_core.api.convert.ids import trust_domain_from_pb
from spiffe_core.api.spire.api.types import bundle_pb2
from spiffe_core.api.spire.api.types.bundle_pb2 import BundleMask
from spiffe_core.bundle import (
    Bundle,
    JwtAuthority,
    X509Authority,
    load_certificate,
    load_public_key,
    split_certificates,
)
from spiffe_core.errors import InvalidBundle, InvalidSpiffeId

_ALL: Final = BundleMask(**{field.name: True for field in BundleMask.DESCRIPTOR.fields})


def bundle_fields(mask: BundleMask | None) -> frozenset[str]:
    """Names of the attributes of ``Bundle``, its trust domain aside, that the mask chooses."""
    names = {field.name for field, _ in (_ALL if mask is None else mask).ListFields()}
    return frozenset(names - {"wit_authorities"})


def bundle_from_pb(pb: bundle_pb2.Bundle | None, *, keep_taint: bool = False) -> Bundle:
    """A bundle, as an operator or another server sent it.

    Who may say that an authority is tainted decides ``keep_taint``: an agent believes its own server; a server
    passes over what a caller says of a foreign trust domain.  A negative refresh hint is no advice.

    Raises:
        InvalidBundle: if the trust domain or an authority is malformed.
    """
    if pb is None:
        raise InvalidBundle("no bundle provided")
    try:
        trust_domain = trust_domain_from_pb(pb.trust_domain)
    except InvalidSpiffeId as exc:
        raise InvalidBundle(f"invalid trust domain: {exc}") from exc
    try:
        x509_authorities = x509_authorities_from_pb(pb.x509_authorities, keep_taint=keep_taint)
    except InvalidBundle as exc:
        raise InvalidBundle(f"unable to parse X.509 authority: {exc}") from exc
    try:
        jwt_authorities = tuple(jwt_authority_from_pb(key, keep_taint=keep_taint) for key in pb.jwt_authorities)
    except InvalidBundle as exc:
        raise InvalidBundle(f"unable to parse JWT authority: {exc}") from exc
    return Bundle(
        trust_domain,
        x509_authorities,
        jwt_authorities,
        refresh_hint=max(pb.refresh_hint, 0),
        sequence_number=pb.sequence_number,
    )


def bundle_to_pb(bundle: Bundle, mask: BundleMask | None = None) -> bundle_pb2.Bundle:
    """The bundle with the chosen fields, and always its trust domain."""
    show = _ALL if mask is None else mask
    return bundle_pb2.Bundle(
        trust_domain=bundle.trust_domain.name,
        x509_authorities=map(x509_authority_to_pb, bundle.x509_authorities) if show.x509_authorities else (),
        jwt_authorities=map(jwt_authority_to_pb, bundle.jwt_authorities) if show.jwt_authorities else (),
        refresh_hint=bundle.refresh_hint if show.refresh_hint else 0,
        sequence_number=bundle.sequence_number if show.sequence_number else 0,
    )


def x509_authorities_from_pb(
    pbs: Iterable[bundle_pb2.X509Certificate], *, keep_taint: bool = False
) -> tuple[X509Authority, ...]:
    """The X.509 authorities in these messages: any number in each, concatenated.

    Raises:
        InvalidBundle: if a certificate is malformed or unfit.
    """
    found = []
    for pb in pbs:
        for der in split_certificates(pb.asn1):
            load_certificate(der)
            found.append(X509Authority(der, tainted=keep_taint and pb.tainted))
    return tuple(found)


def x509_authority_to_pb(authority: X509Authority) -> bundle_pb2.X509Certificate:
    """The X.509 authority as a message of its own."""
    return bundle_pb2.X509Certificate(asn1=authority.der, tainted=authority.tainted)


def jwt_authority_from_pb(pb: bundle_pb2.JWTKey, *, keep_taint: bool = False) -> JwtAuthority:
    """A JWT authority.

    Raises:
        InvalidBundle: if the key is malformed or unfit, or has no ID.
    """
    load_public_key(pb.public_key)
    if not pb.key_id:
        raise InvalidBundle("missing key ID")
    return JwtAuthority(pb.key_id, pb.public_key, pb.expires_at, tainted=keep_taint and pb.tainted)


def jwt_authority_to_pb(authority: JwtAuthority) -> bundle_pb2.JWTKey:
    """The JWT authority as a message."""
    return bundle_pb2.JWTKey(
        public_key=authority.public_key_der,
        key_id=authority.id,
        expires_at=authority.expires_at,
        tainted=authority.tainted,
    )
