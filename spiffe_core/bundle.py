"""Trust bundles: the public keys by which the SVIDs of one trust domain are verified.

A bundle's content is a set of X.509 authorities (CA certificates) and of JWT authorities (public keys with
an ID).  ``sequence_number`` grows with each change of content; whoever stores the bundle keeps it.  The
SPIFFE document format (a JWK Set) is in ``spiffe_core.jwks``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from spiffe_core.errors import InvalidBundle
from spiffe_core.ids import TrustDomain

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
"""The key types of SVIDs and authorities."""
CURVES: Final = frozenset({"secp256r1", "secp384r1", "secp521r1"})
"""The curves of their EC keys: those that a JWT-SVID's algorithms and a bundle document can name."""
MIN_RSA_BITS: Final = 2048
"""Shortest RSA key whose signature is believed (RFC 7518 §3.3)."""

MAX_CERTIFICATE_BYTES: Final = 64 * 1024
"""Longest single certificate that is read."""


@dataclass(frozen=True, slots=True)
class X509Authority:
    """A CA certificate that vouches for X509-SVIDs, DER; *tainted* means: distrust is on its way."""

    der: bytes
    tainted: bool = False

    @property
    def certificate(self) -> x509.Certificate:
        """The parsed certificate."""
        return _authority_certificate(self.der)


@dataclass(frozen=True, slots=True)
class JwtAuthority:
    """A public key that vouches for JWT-SVIDs: PKIX DER, under the ``kid`` that their headers name."""

    id: str
    public_key_der: bytes
    expires_at: int = 0
    tainted: bool = False

    @property
    def public_key(self) -> PublicKey:
        """The parsed key."""
        return _authority_key(self.public_key_der)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The bundle of ``trust_domain``; the refresh hint is in seconds, 0 if there is none."""

    trust_domain: TrustDomain
    x509_authorities: tuple[X509Authority, ...] = ()
    jwt_authorities: tuple[JwtAuthority, ...] = ()
    refresh_hint: int = 0
    sequence_number: int = 0

    def jwt_authority(self, key_id: str) -> JwtAuthority | None:
        """The JWT authority of that ID, or None."""
        return next((key for key in self.jwt_authorities if key.id == key_id), None)

    def with_authorities(
        self, x509_authorities: Iterable[X509Authority] = (), jwt_authorities: Iterable[JwtAuthority] = ()
    ) -> "Bundle":
        """This bundle and what it lacks of the given authorities; the sequence number grows if any was new.

        An authority that is there already, by certificate or by key ID, stays as it is, its taint included.
        """
        have_certificates = {a.der for a in self.x509_authorities}
        have_ids = {a.id for a in self.jwt_authorities}
        new_x509 = tuple({a.der: a for a in x509_authorities if a.der not in have_certificates}.values())
        new_jwt = tuple({a.id: a for a in jwt_authorities if a.id not in have_ids}.values())
        if not new_x509 and not new_jwt:
            return self
        return replace(
            self,
            x509_authorities=self.x509_authorities + new_x509,
            jwt_authorities=self.jwt_authorities + new_jwt,
            sequence_number=self.sequence_number + 1,
        )

    def without_expired(self, before: int) -> "Bundle":
        """This bundle without the authorities that expired before that Unix time.

        The last X.509 and the last JWT authority of a kind are never taken away by expiry: a trust domain
        whose clock or rotation broke must stay repairable (SPIRE refuses this prune too).  A JWT authority
        without an expiry (0) stays.
        """
        x509_left = tuple(a for a in self.x509_authorities if a.certificate.not_valid_after_utc.timestamp() >= before)
        jwt_left = tuple(a for a in self.jwt_authorities if not a.expires_at or a.expires_at >= before)
        x509_left = x509_left or self.x509_authorities
        jwt_left = jwt_left or self.jwt_authorities
        if len(x509_left) == len(self.x509_authorities) and len(jwt_left) == len(self.jwt_authorities):
            return self
        return replace(
            self,
            x509_authorities=x509_left,
            jwt_authorities=jwt_left,
            sequence_number=self.sequence_number + 1,
        )


def load_certificate(der: bytes) -> x509.Certificate:
    """Parse one DER certificate.

    Raises:
        InvalidBundle: if it is none, is too long, or has a key that no SVID may have.
    """
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise InvalidBundle(f"certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise InvalidBundle(f"malformed certificate: {exc}") from exc
    _check_key(key, "certificate's key")
    return certificate


def load_public_key(der: bytes) -> PublicKey:
    """Parse one PKIX DER public key.

    Raises:
        InvalidBundle: if it is none, or one that no SVID may have.
    """
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise InvalidBundle(f"malformed public key: {exc}") from exc
    return _check_key(key, "public key")


def _check_key(key: object, what: str) -> PublicKey:
    if not isinstance(key, PublicKey):
        raise InvalidBundle(f"{what} is neither EC nor RSA")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in CURVES:
        raise InvalidBundle(f"{what} is on curve {key.curve.name}, not P-256, P-384 or P-521")
    return key


# Authorities are few and used again and again.  What a peer presents is parsed anew: it costs a tenth of
# checking one signature, and nobody can fill these caches from outside.
_authority_certificate: Final = lru_cache(maxsize=1024)(load_certificate)
_authority_key: Final = lru_cache(maxsize=1024)(load_public_key)


def split_certificates(der: bytes, at_most: int = 10_000) -> tuple[bytes, ...]:
    """The certificates of a concatenation of DER, each by itself, unparsed.

    Raises:
        InvalidBundle: if the bytes are not exactly a sequence of DER SEQUENCEs, or are too many of them.
    """
    found: list[bytes] = []
    at = 0
    while at < len(der):
        if len(found) == at_most:
            raise InvalidBundle(f"more than {at_most} certificates")
        end = at + _der_length(der, at)
        if end > len(der):
            raise InvalidBundle("truncated certificate")
        found.append(der[at:end])
        at = end
    return tuple(found)


def _der_length(der: bytes, at: int) -> int:
    """Length in bytes, header included, of the SEQUENCE at ``at`` (X.690 §8.1.3)."""
    if der[at] != 0x30 or at + 1 >= len(der):  # noqa: PLR2004  SEQUENCE
        raise InvalidBundle("malformed certificate: no DER SEQUENCE")
    first = der[at + 1]
    if first < 0x80:  # noqa: PLR2004  short form
        return 2 + first
    count = first & 0x7F
    if not 1 <= count <= 3 or at + 2 + count > len(der):  # noqa: PLR2004  longer than 16 MiB is no certificate
        raise InvalidBundle("malformed certificate: bad DER length")
    return 2 + count + int.from_bytes(der[at + 2 : at + 2 + count])
