"""What each kind of certificate contains: SVIDs of workloads, agents and servers, and CA certificates.

Contents follow X509-SVID.md §4 and SPIRE's templates: no path length, key usage of three bits on every SVID,
subject key identifiers by SHA-1 of the public key's bits, the first DNS name repeated as common name.
A template becomes the bytes to be signed once its issuer is known.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha1
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hsm_ca import der
from hsm_ca.policy import CaSubject
from spiffe_core.bundle import PublicKey
from spiffe_core.ids import SpiffeId, TrustDomain

SVID_SUBJECT: Final = x509.Name(
    [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIRE"),
    ]
)
"""Subject of every SVID (SPIRE's)."""
_SVID_SUBJECT_DER: Final = SVID_SUBJECT.public_bytes()
_EMPTY_NAME: Final = x509.Name([]).public_bytes()
_COMMON_NAME: Final = bytes.fromhex("0603550403")  # id-at-commonName
_EXTENSION_REQUEST: Final = bytes.fromhex("06092a864886f70d01090e")  # RFC 2985 §5.4.2


def extension(value: x509.ExtensionType, *, critical: bool) -> bytes:
    """DER of one Extension from the arc id-ce (2.5.29), where all of ours are."""
    oid = bytes((0x06, 0x03, 0x55, 0x1D, int(value.oid.dotted_string.removeprefix("2.5.29."))))
    flag = b"\x01\x01\xff" if critical else b""  # DER leaves the default, FALSE, out
    return der.sequence(oid, flag, der.octet_string(value.public_bytes()))


def _usage(*, svid: bool) -> bytes:
    usage = x509.KeyUsage(
        digital_signature=svid,
        key_encipherment=svid,
        key_agreement=svid,
        key_cert_sign=not svid,
        crl_sign=not svid,
        content_commitment=False,
        data_encipherment=False,
        encipher_only=False,
        decipher_only=False,
    )
    return extension(usage, critical=True)


_SVID_EXTENSIONS: Final = b"".join(
    (
        _usage(svid=True),
        extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        ),
        extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
    )
)
_CA_EXTENSIONS: Final = _usage(svid=False) + extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)


@dataclass(frozen=True, slots=True)
class Template:
    """A certificate without its issuer; names, key and extensions are DER already."""

    serial: int
    not_before: datetime
    not_after: datetime
    subject: bytes
    public_key: bytes
    """SubjectPublicKeyInfo."""
    extensions: bytes

    @classmethod
    def svid(
        cls,
        spiffe_id: SpiffeId,
        public_key: PublicKey,
        validity: tuple[datetime, datetime],
        *,
        dns_names: Sequence[str] = (),
        subject: x509.Name | None = None,
    ) -> Self:
        """An X509-SVID; ``subject`` replaces the usual one, and a DNS name replaces its common name."""
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns_names]
        names.append(x509.UniformResourceIdentifier(str(spiffe_id)))
        encoded = _subject(subject, dns_names)
        # RFC 5280 §4.2.1.6: critical when there is no subject to name the holder.
        san = extension(x509.SubjectAlternativeName(names), critical=encoded == _EMPTY_NAME)
        return cls._of(new_serial(), validity, encoded, public_key, _SVID_EXTENSIONS + san)

    @classmethod
    def ca(
        cls, trust_domain: TrustDomain, public_key: PublicKey, validity: tuple[datetime, datetime], subject: CaSubject
    ) -> Self:
        """A CA certificate of the trust domain.

        The serial number is repeated in the subject, so that two authorities of a trust domain have two names
        and a path is found without trial.
        """
        serial = new_serial()
        name = subject.name(str(serial)).public_bytes()
        return cls._of(serial, validity, name, public_key, _CA_EXTENSIONS + _trust_domain_san(trust_domain))

    @classmethod
    def _of(
        cls, serial: int, validity: tuple[datetime, datetime], subject: bytes, public_key: PublicKey, extensions: bytes
    ) -> Self:
        key = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ski = extension(x509.SubjectKeyIdentifier(key_identifier(public_key)), critical=False)
        return cls(serial, *validity, subject, key, extensions + ski)

    def to_be_signed(self, issuer: bytes, algorithm: bytes, authority_key_id: bytes) -> bytes:
        """DER of the TBSCertificate (RFC 5280 §4.1), given the issuer's name, algorithm and AKI extension."""
        return der.sequence(
            der.explicit(0, der.integer(2)),  # v3
            der.integer(self.serial),
            algorithm,
            issuer,
            der.sequence(der.time(self.not_before), der.time(self.not_after)),
            self.subject,
            self.public_key,
            der.explicit(3, der.sequence(self.extensions, authority_key_id)),
        )


def ca_request(trust_domain: TrustDomain, public_key: PublicKey, subject: CaSubject) -> bytes:
    """DER of the CertificationRequestInfo (RFC 2986 §4.1) by which an upstream authority is asked for a CA."""
    wanted = der.sequence(_EXTENSION_REQUEST, der.tagged(0x31, der.sequence(_trust_domain_san(trust_domain))))
    return der.sequence(
        der.integer(0),
        subject.name().public_bytes(),
        public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        der.tagged(0xA0, wanted),
    )


def signed(content: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """A signed certificate or request: the content, how it was signed, and the signature."""
    return der.sequence(content, algorithm, der.bit_string(signature))


def new_serial() -> int:
    """A random serial number from 1 to 2^128 - 1."""
    return secrets.randbelow(2**128 - 1) + 1


def key_identifier(key: PublicKey) -> bytes:
    """SHA-1 of the subjectPublicKey bits (RFC 5280 §4.2.1.2 (1)), as SPIRE sets it on every certificate."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        bits = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    else:
        bits = key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return sha1(bits, usedforsecurity=False).digest()


def _subject(subject: x509.Name | None, dns_names: Sequence[str]) -> bytes:
    if subject is None and not dns_names:
        return _SVID_SUBJECT_DER
    name = SVID_SUBJECT if subject is None else subject
    if dns_names:
        others = x509.Name([attribute for attribute in name if attribute.oid != NameOID.COMMON_NAME])
        # A DNS name may be longer than the 64 characters of a common name; SPIRE repeats it all the same.
        common_name = der.sequence(_COMMON_NAME, der.tagged(0x0C, dns_names[0].encode()))
        return der.sequence(der.content(others.public_bytes()), der.tagged(0x31, common_name))
    return name.public_bytes()


def _trust_domain_san(trust_domain: TrustDomain) -> bytes:
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(trust_domain.id))])
    return extension(san, critical=False)
