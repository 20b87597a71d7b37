"""Short ways to say entries, agents and authorities in tests of the registry."""

from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from spiffe_core.agents import Agent
from spiffe_core.bundle import JwtAuthority, X509Authority
from spiffe_core.entries import Entry, EntryId, Selector
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.x509svid import subject_key_id
from tests.support.certificates import Shape, ca

TD: Final = TrustDomain("example.org")
OTHER_TD: Final = TrustDomain("other.test")


def spiffe_id(path: str) -> SpiffeId:
    """An ID of our trust domain."""
    return SpiffeId(TD, path)


def selectors(*texts: str) -> tuple[Selector, ...]:
    """Selectors from ``type:value``."""
    return tuple(map(Selector.parse, texts))


def entry(path: str = "/workload", parent: str = "/spire/agent/one", *wanted: str, **fields: Any) -> Entry:
    """An entry; without selectors it has ``unix:uid:1000``."""
    fields["id"] = EntryId(fields.get("id", ""))
    return Entry(
        spiffe_id=spiffe_id(path),
        parent_id=spiffe_id(parent),
        selectors=selectors(*(wanted or ("unix:uid:1000",))),
        **fields,
    )


def agent(name: str = "one", *wanted: str, **fields: Any) -> Agent:
    """An agent that attested by x509pop."""
    usual: dict[str, Any] = {"attestation_type": "x509pop", "cert_serial": "1", "cert_not_after": 2_000_000_000}
    return Agent(id=spiffe_id(f"/spire/agent/{name}"), selectors=selectors(*wanted), **{**usual, **fields})


def x509_authority(shape: Shape | None = None) -> X509Authority:
    """A new CA certificate."""
    return X509Authority(ca(shape=shape or Shape()).der)


def key_id_of(authority: X509Authority) -> str:
    """Lowercase hex of its subject key identifier."""
    return subject_key_id(authority.certificate).hex()


def jwt_authority(key_id: str, **fields: Any) -> JwtAuthority:
    """A JWT authority of that key id."""
    return JwtAuthority(key_id, _public_key(), **fields)


@cache
def _public_key() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
