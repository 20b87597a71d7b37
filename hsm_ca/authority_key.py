"""The one place through which every signature of an authority passes.

Here a signature is counted, checked with the public key that the journal knows (a faulty device or a handle
that came to name another key is caught before anything leaves), and told to the observers, of which the first
that raises stops it from leaving.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from hsm_ca.journal import AuthorityId
from keymanagers.base import Key, KeyType
from spiffe_core.errors import KeyManagerUnavailable
from spiffe_core.ids import SpiffeId

_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_ECDSA_SHA384: Final = bytes.fromhex("300a06082a8648ce3d040303")
_SHA256_RSA: Final = bytes.fromhex("300d06092a864886f70d01010b0500")
X509_ALGORITHM: Final = {
    KeyType.EC_P256: _ECDSA_SHA256,
    KeyType.EC_P384: _ECDSA_SHA384,
    KeyType.RSA_2048: _SHA256_RSA,
    KeyType.RSA_4096: _SHA256_RSA,
}
"""DER AlgorithmIdentifier of an authority's certificate signatures, by key type, as Go chooses them."""
JWS_ALGORITHM: Final = {
    KeyType.EC_P256: "ES256",
    KeyType.EC_P384: "ES384",
    KeyType.RSA_2048: "RS256",
    KeyType.RSA_4096: "RS256",
}
"""JWS algorithm of an authority's tokens, by key type."""


class Kind(StrEnum):
    """What a signature of an authority is on."""

    WORKLOAD_X509_SVID = "workload-x509-svid"
    AGENT_X509_SVID = "agent-x509-svid"
    SERVER_X509_SVID = "server-x509-svid"
    JWT_SVID = "jwt-svid"
    CA_CERTIFICATE = "ca-certificate"
    CA_REQUEST = "ca-request"


@dataclass(frozen=True, slots=True)
class Issuance:
    """One signature, as observers are told of it: for whom, of which kind, under which serial number or ``jti``."""

    kind: Kind
    spiffe_id: SpiffeId
    serial: str = ""
    entry_id: str = ""
    caller: str = ""


class Observer(Protocol):
    """Sees each signed artefact before it leaves."""

    def issued(self, authority_id: AuthorityId, issuance: Issuance, artefact: bytes) -> None:
        """Take note of the artefact (certificate DER or token); raising keeps it from leaving."""


class AuthorityKey:
    """The key of one authority.  Thread-safe; signing may block on hardware."""

    def __init__(
        self, key: Key, authority_id: AuthorityId, *, verify: bool = True, observers: Sequence[Observer] = ()
    ) -> None:
        self.id = key.id
        self.type = key.type
        self.public = key.public
        self.authority_id = authority_id
        self.count = 0
        """Signatures made by this process."""
        self._private = key.private
        self._verify = verify
        self._observers = tuple(observers)
        self._hash = hashes.SHA384() if key.type is KeyType.EC_P384 else hashes.SHA256()
        self._ecdsa = ec.ECDSA(self._hash)

    def issue(self, issuance: Issuance, content: bytes, assemble: Callable[[bytes], bytes]) -> bytes:
        """Sign ``content`` and return the artefact that ``assemble`` makes with the signature.

        The signature is DER ECDSA or RSA PKCS#1 v1.5, with SHA-256, or SHA-384 for P-384.

        Raises:
            KeyManagerUnavailable: if the device does not answer, or answered with a signature that is not
                this key's.
        """
        signature = self._sign(content)
        if self._verify:
            self._check(signature, content)
        self.count += 1
        artefact = assemble(signature)
        for observer in self._observers:
            observer.issued(self.authority_id, issuance, artefact)
        return artefact

    def _sign(self, content: bytes) -> bytes:
        if isinstance(self._private, ec.EllipticCurvePrivateKey):
            return self._private.sign(content, self._ecdsa)
        return self._private.sign(content, padding.PKCS1v15(), self._hash)

    def _check(self, signature: bytes, content: bytes) -> None:
        try:
            if isinstance(self.public, ec.EllipticCurvePublicKey):
                self.public.verify(signature, content, self._ecdsa)
            else:
                self.public.verify(signature, content, padding.PKCS1v15(), self._hash)
        except InvalidSignature as exc:
            raise KeyManagerUnavailable(
                f'the key manager answered for key "{self.id}" with a signature that its public key does not verify; '
                "nothing was issued: check the device, and that no other key took this one's place"
            ) from exc


def jws_signature(signature: bytes, key_type: KeyType) -> bytes:
    """A signature as a JWS carries it: ECDSA as r and s of fixed width (RFC 7518 §3.4), RSA as it is."""
    if key_type not in {KeyType.EC_P256, KeyType.EC_P384}:
        return signature
    width = 32 if key_type is KeyType.EC_P256 else 48
    r, s = decode_dss_signature(signature)
    return r.to_bytes(width, "big") + s.to_bytes(width, "big")
