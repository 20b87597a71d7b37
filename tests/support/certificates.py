"""Certificates of every shape, right ones and wrong ones, for tests of what verifies them.

``ca()`` and ``leaf()`` make what an honest authority makes.  ``extensions`` replace those of their kind or come
beside them, ``without`` takes some away, and the other keywords bend one part each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from spiffe_core.bundle import Bundle, X509Authority
from spiffe_core.ids import TrustDomain

NOW: Final = datetime(2030, 1, 1, tzinfo=UTC)
"""The time at which tests verify."""
HOUR: Final = timedelta(hours=1)
WORKLOAD: Final = "spiffe://example.org/workload"

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Hash = hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512
Extensions = Iterable[tuple[x509.ExtensionType, bool]]
"""Extensions, each with whether it is critical."""

_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate and the key in it."""

    certificate: x509.Certificate
    private_key: PrivateKey

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is not an extension, and how the certificate is signed."""

    key: PrivateKey | None = None
    validity: tuple[datetime, datetime] = (NOW - HOUR, NOW + HOUR)
    serial: int = 0
    algorithm: Hash | None = None
    """SHA-256 unless given."""
    rsa_padding: padding.PSS | None = None


USUAL: Final = Shape()


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    """The RSA key of that length."""
    return rsa.generate_private_key(65537, bits)


def usage(*bits: str) -> x509.KeyUsage:
    """A key usage of exactly these bits."""
    return x509.KeyUsage(**{bit: bit in bits for bit in _USAGES})


def basic_constraints(*, ca: bool, path_length: int | None = None) -> x509.BasicConstraints:
    """Basic constraints."""
    return x509.BasicConstraints(ca, path_length)


def sans(*uris: str, others: Sequence[x509.GeneralName] = ()) -> x509.SubjectAlternativeName:
    """A subject alternative name of URIs, and of other names after them."""
    return x509.SubjectAlternativeName([*map(x509.UniformResourceIdentifier, uris), *others])


def ca(
    issuer: Certified | None = None,
    shape: Shape = USUAL,
    *,
    subject: str = "CA of example.org",
    uri: str = "spiffe://example.org",
    path_length: int | None = None,
    extensions: Extensions = (),
    without: Iterable[type[x509.ExtensionType]] = (),
) -> Certified:
    """A CA certificate, self-signed unless it has an issuer."""
    usual: Extensions = (
        (basic_constraints(ca=True, path_length=path_length), True),
        (usage("key_cert_sign", "crl_sign"), True),
        (sans(uri), False),
    )
    return _certify(issuer, shape, subject, [*usual, *extensions], without)


def leaf(
    issuer: Certified | None,
    uri: str = WORKLOAD,
    shape: Shape = USUAL,
    *,
    subject: str = "",
    extensions: Extensions = (),
    without: Iterable[type[x509.ExtensionType]] = (),
) -> Certified:
    """An X509-SVID; signed by its own key if it has no issuer."""
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    usual: Extensions = (
        (basic_constraints(ca=False), True),
        (usage("digital_signature", "key_encipherment", "key_agreement"), True),
        (x509.ExtendedKeyUsage(both), False),
        (sans(uri), not subject),
    )
    return _certify(issuer, shape, subject, [*usual, *extensions], without)


def bundle_of(*authorities: Certified, trust_domain: str = "example.org") -> Bundle:
    """The bundle of those authorities."""
    return Bundle(TrustDomain(trust_domain), tuple(X509Authority(a.der) for a in authorities))


def chain_of(*certified: Certified) -> tuple[x509.Certificate, ...]:
    """Their certificates."""
    return tuple(c.certificate for c in certified)


def _certify(
    issuer: Certified | None,
    shape: Shape,
    subject: str,
    extensions: Extensions,
    without: Iterable[type[x509.ExtensionType]],
) -> Certified:
    key = shape.key or ec.generate_private_key(ec.SECP256R1())
    signer = issuer.private_key if issuer else key
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    builder = x509.CertificateBuilder(
        issuer_name=issuer.certificate.subject if issuer else name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=shape.serial or x509.random_serial_number(),
        not_valid_before=shape.validity[0],
        not_valid_after=shape.validity[1],
    )
    identifiers: Extensions = (
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    )
    wanted = {value.oid: (value, critical) for value, critical in (*identifiers, *extensions)}
    for kind in without:
        del wanted[kind.oid]
    for value, critical in wanted.values():
        builder = builder.add_extension(value, critical)
    return Certified(builder.sign(signer, shape.algorithm or hashes.SHA256(), rsa_padding=shape.rsa_padding), key)
