"""What the operator decided about the authorities: names, key types and lifetimes."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from keymanagers.base import KeyType
from spiffe_core.errors import InvalidConfig
from spiffe_core.ids import TrustDomain

DEFAULT_CA_TTL: Final = timedelta(hours=24)
DEFAULT_X509_SVID_TTL: Final = timedelta(hours=1)
DEFAULT_JWT_SVID_TTL: Final = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class CaSubject:
    """Subject of the CA certificates, each part a list as in SPIRE's ``ca_subject``."""

    country: tuple[str, ...] = ("US",)
    organization: tuple[str, ...] = ("SPIFFE",)
    common_name: str = ""

    def __post_init__(self) -> None:
        """Raise unless a certificate can have this subject.

        Raises:
            InvalidConfig: naming the value that no certificate can hold.
        """
        try:
            self.name()
        except ValueError as exc:
            raise InvalidConfig(f"ca_subject: {exc}") from exc

    def name(self, serial_number: str = "") -> x509.Name:
        """The subject in the order in which Go writes it: C, O, CN, serial number; the values of one part together."""
        parts = (
            (NameOID.COUNTRY_NAME, self.country),
            (NameOID.ORGANIZATION_NAME, self.organization),
            (NameOID.COMMON_NAME, (self.common_name,)),
            (NameOID.SERIAL_NUMBER, (serial_number,)),
        )
        given = ((oid, [value for value in dict.fromkeys(values) if value]) for oid, values in parts)
        return x509.Name(
            x509.RelativeDistinguishedName(x509.NameAttribute(oid, value) for value in values)
            for oid, values in given
            if values
        )


@dataclass(frozen=True, kw_only=True)
class CaPolicy:
    """The settings of a server's ``server`` block that concern its authorities and what they sign."""

    trust_domain: TrustDomain
    ca_ttl: timedelta = DEFAULT_CA_TTL
    ca_key_type: KeyType = KeyType.EC_P256
    jwt_key_type: KeyType | None = None
    """None: the CA's key type."""
    ca_subject: CaSubject = field(default_factory=CaSubject)
    x509_svid_ttl: timedelta = DEFAULT_X509_SVID_TTL
    jwt_svid_ttl: timedelta = DEFAULT_JWT_SVID_TTL
    agent_ttl: timedelta | None = None
    """None: as the workloads'."""
    jwt_issuer: str = ""
    jwt_svids_disabled: bool = False
    go_on_without_lost_keys: bool = False
    """Whether a journalled key that the key manager does not show may be given up at start."""
