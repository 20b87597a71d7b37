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
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import verification

from spiffe_core.bundle import MIN_RSA_BITS, Bundle, X509Authority, load_certificate, split_certificates
from spiffe_core.errors import InvalidBundle, InvalidSpiffeId, InvalidX509Svid
from spiffe_core.ids import SpiffeId

Chain = tuple[x509.Certificate, ...]
"""Certificates, leaf first; never empty.  What a peer presents may be in any order after the leaf."""

MAX_CHAIN: Final = 10
"""Longest chain that is read, in certificates."""


class UnknownAuthority(InvalidX509Svid):
    """No authority of the bundle vouches for the chain."""


@dataclass(frozen=True, slots=True)
class X509Svid:
    """A chain that passed every check, and the ID that it proves.

    Each certificate is signed by the next, the last by an authority of the bundle; what else was presented is
    not in it.
    """

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
        ders = split_certificates(der, at_most=MAX_CHAIN) if isinstance(der, bytes) else tuple(der)
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
        san = _extensions(certificate).get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise InvalidX509Svid("certificate has no URI SAN") from None
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
    if is_ca(leaf):
        raise InvalidX509Svid("leaf certificate must not have CA flag set to true")
    try:
        usage = _extensions(leaf).get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise InvalidX509Svid("leaf certificate has no key usage") from None
    if usage.key_cert_sign:
        raise InvalidX509Svid("leaf certificate must not have 'keyCertSign' set as key usage")
    if usage.crl_sign:
        raise InvalidX509Svid("leaf certificate must not have 'cRLSign' set as key usage")
    if not usage.digital_signature:
        raise InvalidX509Svid("leaf certificate must have 'digitalSignature' set as key usage")
    key = leaf.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise InvalidX509Svid(f"leaf certificate's RSA key has {key.key_size} bits, fewer than {MIN_RSA_BITS}")
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
    _check_time(chain[0], now)
    try:
        store = _store(bundle.x509_authorities)
        builder = verification.PolicyBuilder().store(store).time(now).max_chain_depth(MAX_CHAIN)
        policies = builder.extension_policies(ca_policy=_CA_POLICY, ee_policy=_LEAF_POLICY)
        path = policies.build_client_verifier().verify(chain[0], list(chain[1:])).chain
    except verification.VerificationError as exc:
        for certificate in chain[1:]:  # the likeliest cause, which the library does not name
            _check_time(certificate, now)
        reason = str(exc).partition(" (encountered processing")[0]
        raise UnknownAuthority(
            f'certificate does not chain to an X.509 authority of trust domain "{bundle.trust_domain}": {reason[:160]}'
        ) from exc
    return X509Svid(spiffe_id, tuple(path[:-1]))


def _check_time(certificate: x509.Certificate, now: datetime) -> None:
    if now > certificate.not_valid_after_utc:
        raise InvalidX509Svid(f"certificate has expired: not after {certificate.not_valid_after_utc:%FT%TZ}")
    if now < certificate.not_valid_before_utc:
        raise InvalidX509Svid(f"certificate is not yet valid: not before {certificate.not_valid_before_utc:%FT%TZ}")


@lru_cache(maxsize=64)
def _store(authorities: tuple[X509Authority, ...]) -> verification.Store:
    """The trust anchors of one bundle; what is no CA certificate vouches for nothing."""
    anchors = [a.certificate for a in authorities if _is_anchor(a)]
    if not anchors:
        raise InvalidX509Svid("the bundle has no X.509 authority")
    return verification.Store(anchors)


def _is_anchor(authority: X509Authority) -> bool:
    """Whether the authority is a CA certificate; one that cannot be read must not spoil the others."""
    try:
        return is_ca(authority.certificate)
    except (InvalidBundle, InvalidX509Svid):
        return False


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether the certificate is a CA's; one without basic constraints is not.

    Raises:
        InvalidX509Svid: if its extensions are malformed.
    """
    try:
        return _extensions(certificate).get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _extensions(certificate: x509.Certificate) -> x509.Extensions:
    """The certificate's extensions, which are parsed only when they are asked for."""
    try:
        return certificate.extensions
    except Exception as exc:  # the parser's border: a KeyError, too, means a malformed certificate
        raise InvalidX509Svid(f"malformed certificate extensions: {str(exc)[:160]}") from exc


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
    """The certificate's subject key identifier, or the one of RFC 5280 §4.2.1.2 (1) computed from its key.

    Raises:
        InvalidX509Svid: if its extensions are malformed.
    """
    try:
        return _extensions(certificate).get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def authority_key_id(certificate: x509.Certificate) -> bytes:
    """The certificate's authority key identifier, empty if it has none.

    Raises:
        InvalidX509Svid: if its extensions are malformed.
    """
    try:
        extension = _extensions(certificate).get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return b""
    return extension.value.key_identifier or b""


def has_issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether the issuer's key signed the certificate, which names it: names alone do not tell."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
