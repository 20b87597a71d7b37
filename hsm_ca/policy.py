"""What the operator decided about the authorities: names, key types and lifetimes."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from keymanagers.base import KeyType
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

    def attributes(self) -> list[x509.NameAttribute[str]]:
        """The parts in the order in which Go writes them: C, O, then what the caller adds, CN last."""
        return [
            *(x509.NameAttribute(NameOID.COUNTRY_NAME, value) for value in self.country),
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in self.organization),
        ]


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
