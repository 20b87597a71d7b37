"""The authority above ours, if there is one: it signs our CA certificates.

Implementations live in ``server.upstream_authorities``, one a module.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cryptography import x509

from hsm_ca.authority_key import AuthorityKey, Kind
from hsm_ca.x509_authority import SvidRequest, X509Issuer
from spiffe_core.bundle import Bundle, X509Authority
from spiffe_core.errors import InvalidX509Svid, UpstreamUnavailable
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.x509svid import parse_chain, verify_x509_svid


@dataclass(frozen=True, slots=True)
class MintedCa:
    """What an upstream answers: our CA certificate and the intermediates above it, and its roots, DER."""

    chain: tuple[bytes, ...]
    roots: tuple[bytes, ...]


class Upstream(Protocol):
    """Signs CA certificates for this server.  Thread-safe; may block on files or the network."""

    def mint_x509_ca(self, request: bytes, ttl: timedelta, now: datetime) -> MintedCa:
        """Sign the CA certificate that a CSR (DER) asks for, to live ``ttl`` at most.

        Raises:
            UpstreamUnavailable: if it cannot be done now, saying why.
        """


def check_minted(minted: MintedCa, key: AuthorityKey, trust_domain: TrustDomain, now: datetime) -> X509Issuer:
    """Make sure that what the upstream signed can serve, by issuing and verifying an SVID that nobody gets.

    Raises:
        UpstreamUnavailable: saying what is wrong with the upstream's answer.
    """
    bundle = Bundle(trust_domain, tuple(X509Authority(der) for der in minted.roots))
    try:
        ca = parse_chain(minted.chain)[0]
        if ca.public_key() != key.public:
            raise UpstreamUnavailable("X509 CA minted by upstream authority is invalid: it is for another key")
        _check_key_usage(ca)
        issuer = X509Issuer(key, minted.chain)
        request = SvidRequest(
            kind=Kind.SERVER_X509_SVID,
            spiffe_id=SpiffeId(trust_domain, "/spire/throwaway"),
            public_key=key.public,
            ttl=timedelta(minutes=1),
        )
        verify_x509_svid(parse_chain(issuer.issue(request, now).chain), bundle, now)
    except InvalidX509Svid as exc:
        raise UpstreamUnavailable(f"X509 CA minted by upstream authority is invalid: {exc}") from exc
    return issuer


def _check_key_usage(ca: x509.Certificate) -> None:
    try:
        usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise InvalidX509Svid("CA certificate has no key usage") from None
    except (ValueError, x509.DuplicateExtension) as exc:
        raise InvalidX509Svid(f"malformed certificate extensions: {exc}") from exc
    if not usage.key_cert_sign:
        raise InvalidX509Svid("CA certificate lacks keyCertSign")
