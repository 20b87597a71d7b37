"""Hypothesis strategies for what a trust domain is made of; whatever they draw is valid.

Keys and CA certificates come from a pool that is made once a run, when something is first drawn from it.
Numbers and times keep to what the wire and every database can hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import strategies as st

from spiffe_core.agents import Agent, JoinToken
from spiffe_core.bundle import Bundle, JwtAuthority, X509Authority
from spiffe_core.dns import check_dns_names
from spiffe_core.entries import Entry, EntryId, Selector
from spiffe_core.errors import InvalidEntry
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.jwtsvid import JwtSvid, parse_jwt_svid

_LOWER = "abcdefghijklmnopqrstuvwxyz0123456789"
_NAME = _LOWER + "._-"
_PATH = _NAME + _LOWER.upper()

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Holder:
    """An X509-SVID as a server hands it out: an ID, DER certificates, leaf first, and when the leaf expires."""

    spiffe_id: SpiffeId
    chain: tuple[bytes, ...]
    not_after: datetime


def texts(*, min_size: int = 0, max_size: int) -> st.SearchStrategy[str]:
    """Any text that a message and every database can hold: no NUL, no half of a surrogate pair."""
    return st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=min_size, max_size=max_size)


def times() -> st.SearchStrategy[int]:
    """Unix seconds until the end of the year 9999; 0 too, which means "not set"."""
    return st.just(0) | st.integers(1, 253_402_300_799)


def trust_domains() -> st.SearchStrategy[TrustDomain]:
    """Trust domains, of one character or of the most there may be."""
    return st.text(_NAME, min_size=1, max_size=255).map(TrustDomain)


def paths(*, min_segments: int = 0) -> st.SearchStrategy[str]:
    """Paths of SPIFFE IDs; the reserved ones below ``/spire`` occur."""
    segments = st.sampled_from(["spire", "agent", "server"]) | st.text(_PATH, min_size=1, max_size=40).filter(
        lambda segment: segment not in {".", ".."}
    )
    return st.lists(segments, min_size=min_segments, max_size=8).map(lambda parts: "".join(f"/{p}" for p in parts))


def spiffe_ids(trust_domain: TrustDomain | None = None, *, min_segments: int = 0) -> st.SearchStrategy[SpiffeId]:
    """SPIFFE IDs, in that trust domain or any; with ``min_segments=1`` those that may be parents."""
    return st.builds(SpiffeId, _in(trust_domain), paths(min_segments=min_segments))


def workload_ids(trust_domain: TrustDomain | None = None) -> st.SearchStrategy[SpiffeId]:
    """IDs that a workload may have."""
    return spiffe_ids(trust_domain, min_segments=1).filter(lambda spiffe_id: not spiffe_id.is_reserved)


def agent_ids(trust_domain: TrustDomain | None = None) -> st.SearchStrategy[SpiffeId]:
    """IDs below ``/spire/agent``."""
    suffixes = paths(min_segments=1).map(lambda path: f"/spire/agent{path}")
    return st.builds(SpiffeId, _in(trust_domain), suffixes)


def selector_types() -> st.SearchStrategy[str]:
    """What attestors are called, and stranger names."""
    return st.sampled_from(["unix", "k8s", "docker", "x509pop"]) | texts(min_size=1, max_size=20).filter(
        lambda kind: ":" not in kind
    )


def selectors(kind: str | None = None) -> st.SearchStrategy[Selector]:
    """Selectors of any text, of that type or any."""
    return st.builds(Selector, selector_types() if kind is None else st.just(kind), texts(min_size=1, max_size=60))


def dns_names() -> st.SearchStrategy[tuple[str, ...]]:
    """DNS names that one entry may have together."""
    label = st.text(_LOWER + "_-", min_size=1, max_size=12)
    name = st.builds(
        lambda star, labels: star + ".".join(labels),
        st.sampled_from(["", "", "*."]),
        st.lists(label, min_size=1, max_size=4),
    )
    return st.lists(name.filter(lambda one: _acceptable([one])), max_size=4).map(tuple).filter(_acceptable)


@st.composite
def entries(draw: st.DrawFn, trust_domain: TrustDomain | None = None) -> Entry:
    """Entries that may be registered in ``trust_domain``, or in that of their own IDs."""
    domain = draw(_in(trust_domain))
    store_svid = draw(st.booleans())
    kind = draw(selector_types()) if store_svid else None
    ttls = st.integers(0, 2**31 - 1)
    return Entry(
        id=EntryId(draw(st.just("") | st.text(_PATH, min_size=1, max_size=255))),
        spiffe_id=draw(workload_ids(domain)),
        parent_id=draw(spiffe_ids(domain, min_segments=1)),
        selectors=tuple(draw(st.lists(selectors(kind), min_size=1, max_size=5))),
        x509_svid_ttl=draw(ttls),
        jwt_svid_ttl=draw(ttls),
        federates_with=tuple(draw(st.lists(trust_domains(), max_size=3))),
        dns_names=draw(dns_names()),
        hint=draw(texts(max_size=256)),
        admin=draw(st.booleans()),
        downstream=draw(st.booleans()),
        store_svid=store_svid,
        disable_x509_svid_prefetch=not store_svid and draw(st.booleans()),
        jwt_svid_include_jti=draw(st.booleans()),
        expires_at=draw(times()),
        created_at=draw(times()),
        revision_number=draw(st.integers(0, 2**63 - 1)),
    )


@st.composite
def agents(draw: st.DrawFn, trust_domain: TrustDomain | None = None) -> Agent:
    """Agents: banned ones, and ones whose renewed SVID was not used yet, among them."""
    serials = st.integers(1, 2**128 - 1).map(str)
    serial = draw(st.just("") | serials)
    renewed = draw(serials) if serial and draw(st.booleans()) else ""
    return Agent(
        id=draw(agent_ids(trust_domain)),
        attestation_type=draw(selector_types()),
        cert_serial=serial,
        cert_not_after=draw(times()),
        new_cert_serial=renewed,
        new_cert_not_after=draw(times()) if renewed else 0,
        can_reattest=draw(st.booleans()),
        agent_version=draw(texts(max_size=30)),
        selectors=tuple(draw(st.lists(selectors(), max_size=5))),
    )


def join_tokens() -> st.SearchStrategy[JoinToken]:
    """Join tokens."""
    return st.builds(JoinToken, texts(min_size=1, max_size=60), times())


def x509_authorities() -> st.SearchStrategy[X509Authority]:
    """CA certificates from the pool, tainted or not."""
    return st.builds(X509Authority, st.deferred(lambda: st.sampled_from(_ca_certificates())), st.booleans())


def jwt_authorities() -> st.SearchStrategy[JwtAuthority]:
    """Public keys from the pool, under any ID."""
    keys = st.deferred(lambda: st.sampled_from([_public_der(key) for key in _keys()]))
    return st.builds(JwtAuthority, texts(min_size=1, max_size=40), keys, times(), st.booleans())


def bundles(trust_domain: TrustDomain | None = None) -> st.SearchStrategy[Bundle]:
    """Bundles, empty ones among them; no certificate and no key ID occurs twice in one."""
    return st.builds(
        Bundle,
        _in(trust_domain),
        st.lists(x509_authorities(), max_size=4, unique_by=lambda a: a.der).map(tuple),
        st.lists(jwt_authorities(), max_size=4, unique_by=lambda a: a.id).map(tuple),
        st.integers(0, 2**31 - 1),
        st.integers(0, 2**63 - 1),
    )


@st.composite
def x509_svids(draw: st.DrawFn) -> Holder:
    """X509-SVIDs with up to two CA certificates after the leaf, which did not sign it."""
    spiffe_id = draw(workload_ids())
    not_after = datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=draw(st.integers(0, 10**8)))
    rest = draw(st.lists(st.sampled_from(_ca_certificates()), max_size=2))
    return Holder(spiffe_id, (_leaf(spiffe_id, not_after), *rest), not_after)


@st.composite
def jwt_svids(draw: st.DrawFn) -> JwtSvid:
    """JWT-SVIDs that were read and not verified."""
    issued_at = draw(st.integers(1, 10**10))
    claims = {
        "aud": draw(st.lists(texts(min_size=1, max_size=30), min_size=1, max_size=3)),
        "exp": issued_at + draw(st.integers(0, 10**6)),
        "iat": issued_at,
        "sub": str(draw(workload_ids())),
    }
    key_id = draw(st.text(_PATH, min_size=1, max_size=32))
    return parse_jwt_svid(jwt.encode(claims, _keys()[0], algorithm="ES256", headers={"kid": key_id}))


def _in(trust_domain: TrustDomain | None) -> st.SearchStrategy[TrustDomain]:
    return trust_domains() if trust_domain is None else st.just(trust_domain)


def _acceptable(names: Sequence[str]) -> bool:
    try:
        check_dns_names(names)
    except InvalidEntry:
        return False
    return True


@cache
def _keys() -> tuple[PrivateKey, ...]:
    curves = (ec.SECP256R1(), ec.SECP256R1(), ec.SECP384R1())
    return (*map(ec.generate_private_key, curves), rsa.generate_private_key(65537, 2048))


def _public_der(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@cache
def _ca_certificates() -> tuple[bytes, ...]:
    return tuple(_certificate(key, "spiffe://pool.test", datetime(2040, 1, 1, tzinfo=UTC), ca=True) for key in _keys())


def _leaf(spiffe_id: SpiffeId, not_after: datetime) -> bytes:
    return _certificate(_keys()[0], str(spiffe_id), not_after, ca=False)


def _certificate(key: PrivateKey, uri: str, not_after: datetime, *, ca: bool) -> bytes:
    """A certificate that its own key signs."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pool")] if ca else [])
    usage = x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
