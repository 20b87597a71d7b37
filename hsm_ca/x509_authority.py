"""An X.509 authority that can sign: a CA certificate of the trust domain and its key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Self

from cryptography import x509

from hsm_ca import templates
from hsm_ca.authority_key import X509_ALGORITHM, AuthorityKey, Issuance, Kind
from hsm_ca.journal import AuthorityId
from hsm_ca.lifetimes import certificate_validity
from hsm_ca.policy import CaSubject
from hsm_ca.templates import Template
from spiffe_core.bundle import PublicKey, load_certificate
from spiffe_core.errors import Unavailable
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.x509svid import authority_key_id, has_issued, subject_key_id


@dataclass(frozen=True, slots=True, kw_only=True)
class SvidRequest:
    """What an X509-SVID is asked for.  The caller has decided that the ID may be granted."""

    kind: Kind
    spiffe_id: SpiffeId
    public_key: PublicKey
    ttl: timedelta
    dns_names: Sequence[str] = ()
    subject: x509.Name | None = None
    entry_id: str = ""
    caller: str = ""


@dataclass(frozen=True, slots=True)
class IssuedSvid:
    """A new X509-SVID: leaf first, then the issuer's own chain when the issuer is not the root."""

    spiffe_id: SpiffeId
    chain: tuple[bytes, ...]
    serial: int
    not_after: datetime


class X509Issuer:
    """Signs X509-SVIDs with one authority.  Thread-safe."""

    def __init__(self, key: AuthorityKey, chain: Sequence[bytes]) -> None:
        """Take the key and its chain: the CA certificate, and what leads from it to the upstream root, if any."""
        self.key = key
        self.certificate = load_certificate(chain[0])
        self.not_after = min(load_certificate(der).not_valid_after_utc for der in chain)
        # A self-signed CA certificate is in the bundle; sending it along would prove nothing (SPIRE's rule).
        self.chain = () if has_issued(self.certificate, self.certificate) and len(chain) == 1 else tuple(chain)
        self._name = self.certificate.subject.public_bytes()
        self._algorithm = X509_ALGORITHM[key.type]
        identifier = subject_key_id(self.certificate)
        self._key_id = templates.extension(x509.AuthorityKeyIdentifier(identifier, None, None), critical=False)

    @property
    def authority_id(self) -> AuthorityId:
        """Lowercase hex of the CA certificate's subject key identifier."""
        return self.key.authority_id

    @property
    def upstream_authority_id(self) -> str:
        """Lowercase hex of the CA certificate's authority key identifier; empty if self-signed."""
        return authority_key_id(self.certificate).hex()

    def issue(self, request: SvidRequest, now: datetime) -> IssuedSvid:
        """Sign an X509-SVID, which never outlives this authority.

        Raises:
            Unavailable: if this authority has expired.
            KeyManagerUnavailable: if the key cannot sign now.
        """
        if now >= self.not_after:
            raise Unavailable("X509 CA has expired and no other is ready")
        validity = certificate_validity(now, request.ttl, self.not_after)
        template = Template.svid(
            request.spiffe_id, request.public_key, validity, dns_names=request.dns_names, subject=request.subject
        )
        issuance = Issuance(request.kind, request.spiffe_id, str(template.serial), request.entry_id, request.caller)
        content = template.to_be_signed(self._name, self._algorithm, self._key_id)
        leaf = self.key.issue(issuance, content, partial(templates.signed, content, self._algorithm))
        return IssuedSvid(request.spiffe_id, (leaf, *self.chain), template.serial, validity[1].replace(microsecond=0))

    @classmethod
    def self_signed(
        cls, key: AuthorityKey, trust_domain: TrustDomain, subject: CaSubject, ttl: timedelta, now: datetime
    ) -> Self:
        """Make the authority of a key by a CA certificate that it signs itself."""
        validity = certificate_validity(now, ttl, now + ttl)
        template = Template.ca(trust_domain, key.public, validity, subject)
        algorithm = X509_ALGORITHM[key.type]
        # No authority key identifier: Go leaves it out of self-signed certificates, and SPIRE with it.
        content = template.to_be_signed(template.subject, algorithm, b"")
        issuance = Issuance(Kind.CA_CERTIFICATE, trust_domain.id, str(template.serial))
        return cls(key, [key.issue(issuance, content, partial(templates.signed, content, algorithm))])


def certificate_request(key: AuthorityKey, trust_domain: TrustDomain, subject: CaSubject) -> bytes:
    """DER of the CSR by which an upstream authority is asked for a CA certificate of this key."""
    content = templates.ca_request(trust_domain, key.public, subject)
    algorithm = X509_ALGORITHM[key.type]
    issuance = Issuance(Kind.CA_REQUEST, trust_domain.id)
    return key.issue(issuance, content, partial(templates.signed, content, algorithm))


def x509_authority_id(key: PublicKey) -> AuthorityId:
    """The ID of the X.509 authority of a key."""
    return AuthorityId(templates.key_identifier(key).hex())
