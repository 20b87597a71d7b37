"""Trust domains that are alive now: an authority, its bundle, and identities that TLS can use.

``tests.support.certificates`` makes certificates of every shape, for a clock in a test's hand.  TLS libraries
read the machine's clock, so what is made here is valid at this moment, unless it is meant not to be.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from spiffe_core.bundle import Bundle, X509Authority
from spiffe_core.dns import SERVER_NAME
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.tls import TlsIdentity
from tests.support.certificates import HOUR, Certified, Extensions, PrivateKey, Shape, ca, leaf, sans, usage

NOW: Final = datetime.now(UTC)
"""When this run began."""
DAY: Final = timedelta(days=1)

VALID: Final = (NOW - HOUR, NOW + DAY)
EXPIRED: Final = (NOW - DAY, NOW - HOUR)
NOT_YET: Final = (NOW + HOUR, NOW + DAY)
CA_VALID: Final = (NOW - 2 * DAY, NOW + 2 * DAY)


def _shape(validity: tuple[datetime, datetime], key: PrivateKey | None = None) -> Shape:
    return Shape(validity=validity, key=key)


@dataclass(frozen=True, slots=True)
class Realm:
    """A trust domain and the authority that signs for it."""

    name: str = "example.org"
    root: Certified = field(default_factory=lambda: authority())  # noqa: PLW0108  defined below
    through: tuple[Certified, ...] = ()
    """Intermediates between the leaf and the bundle, nearest to the leaf first."""

    @property
    def trust_domain(self) -> TrustDomain:
        """Its trust domain."""
        return TrustDomain(self.name)

    @property
    def bundle(self) -> Bundle:
        """Its bundle: the one authority."""
        return Bundle(self.trust_domain, (X509Authority(self.root.der),))

    def id(self, path: str) -> SpiffeId:
        """The ID of that path in this trust domain."""
        return SpiffeId(self.trust_domain, path)

    def with_intermediate(self) -> "Realm":
        """The same trust domain, whose SVIDs have one more CA between them and the bundle."""
        signer = self.through[0] if self.through else self.root
        return replace(self, through=(authority(signer, subject="Intermediate"), *self.through))

    def issue(
        self,
        path: str = "/workload",
        *,
        uri: str | None = None,
        validity: tuple[datetime, datetime] = VALID,
        key: PrivateKey | None = None,
        extensions: Extensions = (),
        without: tuple[type[x509.ExtensionType], ...] = (),
    ) -> TlsIdentity:
        """An X509-SVID of this trust domain, as its holder presents it; ``uri`` replaces the whole ID."""
        signer = self.through[0] if self.through else self.root
        own = leaf(
            signer,
            uri or str(self.id(path)),
            _shape(validity, key),
            subject="leaf",
            extensions=extensions,
            without=without,
        )
        return TlsIdentity((own.certificate, *(one.certificate for one in self.through)), own.private_key)

    def server(self, *, dns_name: bool = True, key: PrivateKey | None = None) -> TlsIdentity:
        """A server's SVID, as Steeple's servers have it, or without the DNS name, as SPIRE's have."""
        path = "/spire/server"
        others = [x509.DNSName(SERVER_NAME)] if dns_name else []
        return self.issue(path, key=key, extensions=[(sans(str(self.id(path)), others=others), False)])


def authority(issuer: Certified | None = None, *, subject: str = "Authority") -> Certified:
    """A CA that is valid now, self-signed unless it has an issuer."""
    return ca(issuer, _shape(CA_VALID), subject=subject)


def self_signed(path: str = "/workload", *, name: str = "example.org") -> TlsIdentity:
    """A leaf that vouches for itself."""
    own = leaf(None, f"spiffe://{name}{path}", _shape(VALID), subject="leaf")
    return TlsIdentity((own.certificate,), own.private_key)


def as_identity(certified: Certified) -> TlsIdentity:
    """Any certificate and its key, to be presented."""
    return TlsIdentity((certified.certificate,), certified.private_key)


def ca_of(realm: Realm, path: str, *usages: str) -> Certified:
    """A CA certificate that carries a workload's ID, with more key usages than a CA has."""
    bits = usage("key_cert_sign", "crl_sign", *usages)
    return ca(realm.root, _shape(VALID), subject="CA", uri=str(realm.id(path)), extensions=[(bits, True)])


def write_identity(identity: TlsIdentity, path: Path) -> None:
    """Write key and chain where another TLS library reads them."""
    key = identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(key + b"".join(one.public_bytes(Encoding.PEM) for one in identity.chain))
