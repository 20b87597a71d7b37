"""What each kind of certificate contains: SVIDs of workloads, agents and servers, and CA certificates.

Contents follow X509-SVID.md §4 and SPIRE's templates: no path length, key usage of three bits on every SVID,
subject key identifiers by SHA-1 of the public key's bits, the first DNS name repeated as common name.
A template becomes the bytes to be signed once its issuer is known.
"""

import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
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
_EMPTY_NAME: Final = x509.Name([]).public_bytes()
_PRINTABLE: Final = re.compile(r"[A-Za-z0-9 '()+,./:=?-]*")
_SET: Final = 0x31
_EXTENSION_REQUEST: Final = bytes.fromhex("06092a864886f70d01090e")  # RFC 2985 §5.4.2


def extension(value: x509.ExtensionType, *, critical: bool) -> bytes:
    """DER of one Extension from the arc id-ce (2.5.29), where all of ours are."""
    oid = bytes((0x06, 0x03, 0x55, 0x1D, int(value.oid.dotted_string.removeprefix("2.5.29."))))
    flag = b"\x01\x01\xff" if critical else b""  # DER leaves the default, FALSE, out
    return der.sequence(oid, flag, der.octet_string(value.public_bytes()))


def encoded_name(name: x509.Name) -> bytes:
    """DER of a name from the arc id-at (2.5.4), with the string types that Go chooses: printable if it can be."""
    sets = (sorted(_attribute(one.oid, str(one.value)) for one in rdn) for rdn in name.rdns)
    return der.sequence(*(der.tagged(_SET, b"".join(attributes)) for attributes in sets))


def _attribute(oid: x509.ObjectIdentifier, value: str) -> bytes:
    tag = 0x13 if _PRINTABLE.fullmatch(value) else 0x0C  # PrintableString or UTF8String
    kind = bytes((0x06, 0x03, 0x55, 0x04, int(oid.dotted_string.removeprefix("2.5.4."))))
    return der.sequence(kind, der.tagged(tag, value.encode()))


_SVID_SUBJECT_DER: Final = encoded_name(SVID_SUBJECT)


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
_SKI_HEAD: Final = extension(x509.SubjectKeyIdentifier(bytes(20)), critical=False)[:-20]
"""The extension up to the identifier, a SHA-1."""
_V3: Final = der.explicit(0, der.integer(2))
_SERIAL_BYTES: Final = 16
_SERIALS_AT_ONCE: Final = 64
_random: Final[list[bytes]] = []
"""Random bytes for serial numbers to come: asking the kernel for each lets another thread in between."""
os.register_at_fork(after_in_child=_random.clear)  # or a child would give out its parent's numbers
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
    alternative_name: bytes
    """The extension that comes after the authority key identifier, where Go has it."""

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
        encoded = _subject(subject, dns_names)
        # RFC 5280 §4.2.1.6: critical when there is no subject to name the holder.
        san = _svid_san(spiffe_id, tuple(dns_names), critical=encoded == _EMPTY_NAME)
        return cls._of(new_serial(), validity, encoded, public_key, _SVID_EXTENSIONS, san)

    @classmethod
    def ca(
        cls, trust_domain: TrustDomain, public_key: PublicKey, validity: tuple[datetime, datetime], subject: CaSubject
    ) -> Self:
        """A CA certificate of the trust domain.

        The serial number is repeated in the subject, so that two authorities of a trust domain have two names
        and a path is found without trial.
        """
        serial = new_serial()
        name = encoded_name(subject.name(str(serial)))
        return cls._of(serial, validity, name, public_key, _CA_EXTENSIONS, _trust_domain_san(trust_domain))

    @classmethod
    def _of(
        cls,
        serial: int,
        validity: tuple[datetime, datetime],
        subject: bytes,
        public_key: PublicKey,
        extensions: bytes,
        alternative_name: bytes,
    ) -> Self:
        key = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ski = sha1(_key_bits(public_key, key), usedforsecurity=False).digest()
        return cls(serial, *validity, subject, key, extensions + _SKI_HEAD + ski, alternative_name)

    def to_be_signed(self, issuer: bytes, algorithm: bytes, authority_key_id: bytes) -> bytes:
        """DER of the TBSCertificate (RFC 5280 §4.1), given the issuer's name, algorithm and AKI extension."""
        return der.sequence(
            _V3,
            der.integer(self.serial),
            algorithm,
            issuer,
            der.sequence(der.time(self.not_before), der.time(self.not_after)),
            self.subject,
            self.public_key,
            der.explicit(3, der.sequence(self.extensions, authority_key_id, self.alternative_name)),
        )


def ca_request(trust_domain: TrustDomain, public_key: PublicKey, subject: CaSubject) -> bytes:
    """DER of the CertificationRequestInfo (RFC 2986 §4.1) by which an upstream authority is asked for a CA."""
    wanted = der.sequence(_EXTENSION_REQUEST, der.tagged(_SET, der.sequence(_trust_domain_san(trust_domain))))
    return der.sequence(
        der.integer(0),
        encoded_name(subject.name()),
        public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        der.tagged(0xA0, wanted),
    )


def signed(content: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """A signed certificate or request: the content, how it was signed, and the signature."""
    return der.sequence(content, algorithm, der.bit_string(signature))


def new_serial() -> int:
    """A random serial number from 1 to 2^128 - 1."""
    while True:
        try:
            number = int.from_bytes(_random.pop())
        except IndexError:
            fresh = secrets.token_bytes(_SERIAL_BYTES * _SERIALS_AT_ONCE)
            _random.extend(fresh[at : at + _SERIAL_BYTES] for at in range(0, len(fresh), _SERIAL_BYTES))
            continue
        if number:
            return number


def key_identifier(key: PublicKey) -> bytes:
    """SHA-1 of the subjectPublicKey bits (RFC 5280 §4.2.1.2 (1)), as SPIRE sets it on every certificate."""
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha1(_key_bits(key, encoded), usedforsecurity=False).digest()


def _key_bits(key: PublicKey, encoded: bytes) -> bytes:
    """The subjectPublicKey bits of a key whose SubjectPublicKeyInfo is given."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return encoded[-1 - 2 * ((key.key_size + 7) // 8) :]  # the point, uncompressed, is what stands last
    return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)


@lru_cache(maxsize=8192)
def _svid_san(spiffe_id: SpiffeId, dns_names: tuple[str, ...], *, critical: bool) -> bytes:
    """The extension that names the holder, which is asked for again with each renewal."""
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns_names]
    names.append(x509.UniformResourceIdentifier(str(spiffe_id)))
    return extension(x509.SubjectAlternativeName(names), critical=critical)


def _subject(subject: x509.Name | None, dns_names: Sequence[str]) -> bytes:
    if subject is None and not dns_names:
        return _SVID_SUBJECT_DER
    name = _SVID_SUBJECT_DER
    if subject is not None:
        others = [one for one in subject if one.oid != NameOID.COMMON_NAME or not dns_names]
        name = x509.Name(others).public_bytes()
    if dns_names:
        # A DNS name may be longer than the 64 characters of a common name; SPIRE repeats it all the same.
        common_name = der.tagged(_SET, _attribute(NameOID.COMMON_NAME, dns_names[0]))
        name = der.sequence(der.content(name), common_name)
    return name


def _trust_domain_san(trust_domain: TrustDomain) -> bytes:
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(trust_domain.id))])
    return extension(san, critical=False)
