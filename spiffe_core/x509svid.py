"""X509-SVIDs: reading, checking and verifying them (X509-SVID.md).

Path validation of RFC 5280 is cryptography's; what SPIFFE adds is here: exactly one URI SAN, which is a
SPIFFE ID with a path, on a leaf that signs nothing, verified by the bundle of the ID's *own* trust domain.
As in SPIRE, extended key usage does not decide: a leaf for serverAuth only still identifies its holder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import ExtensionOID

from spiffe_core.bundle import Bundle, load_certificate, split_certificates
from spiffe_core.errors import InvalidBundle, InvalidSpiffeId, InvalidX509Svid
from spiffe_core.ids import SpiffeId

Chain = tuple[x509.Certificate, ...]
"""Certificates, leaf first, each signed by the next; never empty."""

MAX_CHAIN: Final = 10
"""Longest chain that is read, in certificates."""


@dataclass(frozen=True, slots=True)
class X509Svid:
    """A chain that passed every check, and the ID that it proves."""

    id: SpiffeId
    chain: Chain

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate of the holder."""
        return self.chain[0]

    @property
    def not_after(self) -> datetime:
        """When the leaf expires, UTC."""
        return self.leaf.not_valid_after_utc


def parse_chain(der: bytes | Sequence[bytes]) -> Chain:
    """Read a chain from concatenated DER or from its certificates one by one.

    Raises:
        InvalidX509Svid: if there is none, or a certificate is malformed.
    """
    try:
        ders = split_certificates(der) if isinstance(der, bytes) else tuple(der)
        if not 1 <= len(ders) <= MAX_CHAIN:
            raise InvalidX509Svid(f"certificate chain has {len(ders)} certificates, not 1 to {MAX_CHAIN}")
        return tuple(load_certificate(one) for one in ders)
    except InvalidBundle as exc:
        raise InvalidX509Svid(str(exc)) from exc


def id_of(certificate: x509.Certificate) -> SpiffeId:
    """The SPIFFE ID in the certificate's only URI SAN (§2).

    Raises:
        InvalidX509Svid: if it has no URI SAN, more than one, or one that is no SPIFFE ID.
    """
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise InvalidX509Svid("certificate has no URI SAN") from None
    except (ValueError, x509.DuplicateExtension) as exc:
        raise InvalidX509Svid(f"malformed certificate extensions: {exc}") from exc
    uris = san.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise InvalidX509Svid(f"certificate has {'more than one' if uris else 'no'} URI SAN")
    try:
        return SpiffeId.parse(uris[0])
    except InvalidSpiffeId as exc:
        raise InvalidX509Svid(f"malformed URI SAN: {exc}") from exc


def check_leaf(leaf: x509.Certificate) -> SpiffeId:
    """Check what SPIFFE asks of a leaf by itself (§4, §5.2) and return its ID.

    Raises:
        InvalidX509Svid: naming the first rule that is broken.
    """
    spiffe_id = id_of(leaf)
    if not spiffe_id.path:
        raise InvalidX509Svid(f'leaf certificate\'s ID "{spiffe_id}" has no path: only a signing certificate may')
    if _basic_constraints(leaf):
        raise InvalidX509Svid("leaf certificate must not have CA flag set to true")
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise InvalidX509Svid("leaf certificate has no key usage") from None
    if usage.key_cert_sign:
        raise InvalidX509Svid("leaf certificate must not have 'keyCertSign' set as key usage")
    if usage.crl_sign:
        raise InvalidX509Svid("leaf certificate must not have 'cRLSign' set as key usage")
    if not usage.digital_signature:
        raise InvalidX509Svid("leaf certificate must have 'digitalSignature' set as key usage")
    return spiffe_id


def verify_x509_svid(chain: Chain, bundle: Bundle, now: datetime) -> X509Svid:
    """Verify a chain against the bundle of its own trust domain at the time ``now``.

    The certificates after the leaf are intermediates, in any order; a bundle's authority need not be
    self-signed.

    Raises:
        InvalidX509Svid: saying which check failed.
    """
    spiffe_id = check_leaf(chain[0])
    if spiffe_id.trust_domain != bundle.trust_domain:
        raise InvalidX509Svid(
            f'"{spiffe_id}" is not of trust domain "{bundle.trust_domain}", whose bundle cannot vouch for it'
        )
    for certificate in chain:
        if now > certificate.not_valid_after_utc:
            raise InvalidX509Svid(f"certificate has expired: not after {certificate.not_valid_after_utc:%FT%TZ}")
        if now < certificate.not_valid_before_utc:
            raise InvalidX509Svid(f"certificate is not yet valid: not before {certificate.not_valid_before_utc:%FT%TZ}")
    try:
        store = _store(tuple(a.der for a in bundle.x509_authorities))
        builder = verification.PolicyBuilder().store(store).time(now).max_chain_depth(MAX_CHAIN)
        policies = builder.extension_policies(ca_policy=_CA_POLICY, ee_policy=_LEAF_POLICY)
        policies.build_client_verifier().verify(chain[0], list(chain[1:]))
    except verification.VerificationError as exc:
        raise InvalidX509Svid(
            f'certificate does not chain to an X.509 authority of trust domain "{bundle.trust_domain}": {exc}'
        ) from exc
    return X509Svid(spiffe_id, chain)


@lru_cache(maxsize=64)
def _store(authorities: tuple[bytes, ...]) -> verification.Store:
    """The trust anchors of one bundle; what is no CA certificate vouches for nothing."""
    anchors = [c for c in map(load_certificate, authorities) if _basic_constraints(c)]
    if not anchors:
        raise InvalidX509Svid("the bundle has no X.509 authority")
    return verification.Store(anchors)


def _basic_constraints(certificate: x509.Certificate) -> bool:
    """Whether the certificate is a CA's; one without the extension is not."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
    except (ValueError, x509.DuplicateExtension) as exc:
        raise InvalidX509Svid(f"malformed certificate extensions: {exc}") from exc


def _is_ca(_policy: verification.Policy, _certificate: x509.Certificate, extension: x509.BasicConstraints) -> None:
    if not extension.ca:
        raise ValueError("an intermediate is no CA certificate")


def _signs_certificates(
    _policy: verification.Policy, _certificate: x509.Certificate, extension: x509.KeyUsage | None
) -> None:
    if extension is not None and not extension.key_cert_sign:
        raise ValueError("a CA certificate lacks keyCertSign")


# Extensions that are present and unknown are refused by cryptography when critical, whatever the policy.
_ANY: Final = verification.Criticality.AGNOSTIC
_CA_POLICY: Final = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, _ANY, _is_ca)
    .may_be_present(x509.KeyUsage, _ANY, _signs_certificates)
)
_LEAF_POLICY: Final = verification.ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, _ANY, None)


def subject_key_id(certificate: x509.Certificate) -> bytes:
    """The certificate's subject key identifier, or the one of RFC 5280 §4.2.1.2 (1) computed from its key."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def authority_key_id(certificate: x509.Certificate) -> bytes:
    """The certificate's authority key identifier, empty if it has none."""
    try:
        extension = certificate.extensions.get_extension_for_oid(ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
    except x509.ExtensionNotFound:
        return b""
    assert isinstance(extension.value, x509.AuthorityKeyIdentifier)
    return extension.value.key_identifier or b""
