"""The authority above ours, if there is one: it signs our CA certificates.

Implementations live in ``server.upstream_authorities``, one a module.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cryptography import x509

from hsm_ca.authority_key import AuthorityKey, Kind
from hsm_ca.x509_authority import SvidRequest, X509Issuer
from spiffe_core.bundle import Bundle, X509Authority, load_certificate
from spiffe_core.errors import InvalidBundle, InvalidX509Svid, UpstreamUnavailable
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.x509svid import is_ca, parse_chain, verify_x509_svid


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
        _check_ca(ca, key)
        _check_roots(minted.roots)
        issuer = X509Issuer(key, minted.chain)
        _serve_once(issuer, bundle, now)
    except InvalidX509Svid as exc:
        raise UpstreamUnavailable(f"X509 CA minted by upstream authority is invalid: {exc}") from exc
    return issuer


def _check_roots(roots: tuple[bytes, ...]) -> None:
    """Raise unless each is a CA certificate: one that is not would stand in the bundle all the same."""
    for root in roots:
        try:
            vouches = is_ca(load_certificate(root))
        except InvalidBundle as exc:
            raise InvalidX509Svid(f"of its roots, one is a {exc}") from exc
        if not vouches:
            raise InvalidX509Svid("of its roots, one is no CA certificate")


def _serve_once(issuer: X509Issuer, bundle: Bundle, now: datetime) -> None:
    if now >= issuer.not_after:
        raise InvalidX509Svid(f"certificate has expired: not after {issuer.not_after:%FT%TZ}")
    request = SvidRequest(
        kind=Kind.SERVER_X509_SVID,
        spiffe_id=SpiffeId(bundle.trust_domain, "/spire/throwaway"),
        public_key=issuer.key.public,
        ttl=timedelta(minutes=1),
    )
    verify_x509_svid(parse_chain(issuer.issue(request, now).chain), bundle, now)


def _check_ca(ca: x509.Certificate, key: AuthorityKey) -> None:
    if ca.public_key() != key.public:
        raise InvalidX509Svid("it is for another key")
    try:
        usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise InvalidX509Svid("CA certificate has no key usage") from None
    except (ValueError, x509.DuplicateExtension) as exc:
        raise InvalidX509Svid(f"malformed certificate extensions: {exc}") from exc
    if not usage.key_cert_sign:
        raise InvalidX509Svid("CA certificate lacks keyCertSign")
