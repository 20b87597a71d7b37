"""A key in a place of another key manager, as ``cryptography`` sees it.

Data are hashed here; the other side gets the digest and says with which key it has signed.  A signature of another
key is not handed out.
"""

import hashlib
from typing import Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.utils import Buffer

from keymanagers.base import KeyId, PrivateKey
from keymanagers.sealed import RsaHash, SealedEcKey, SealedRsaKey
from spiffe_core.bundle import PublicKey
from spiffe_core.errors import KeyManagerUnavailable

_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})
_LONGEST: Final = 0
_AS_DIGEST: Final = -1


class Signing(Protocol):
    """What signs digests."""

    def sign(self, place: str, digest: bytes, hash_name: str, pss_salt: int | None) -> tuple[bytes, str]:
        """See ``keymanagers.external.Places``."""


class PlaceSigner:
    """Signs with the key of one place, as long as it is that key."""

    def __init__(self, places: Signing, key_id: KeyId, place: str, fingerprint: str) -> None:
        self.key_id = key_id
        self._places = places
        self._place = place
        self._fingerprint = fingerprint
        self._ended = ""

    def end(self, why: str) -> None:
        """Let the key sign nothing any more."""
        self._ended = why

    def sign(self, digest: bytes, hash_name: str, pss_salt: int | None = None) -> bytes:
        """One signature.

        Raises:
            KeyManagerUnavailable: if there is none, or another key made it.
        """
        if self._ended:
            raise KeyManagerUnavailable(f'key "{self.key_id}" signs no more: {self._ended}')
        signature, by = self._places.sign(self._place, digest, hash_name, pss_salt)
        if by != self._fingerprint:
            raise KeyManagerUnavailable(
                f'key "{self.key_id}" signs no more: fingerprint "{self._fingerprint}" does not match "{by}", which is '
                f'that of the key in its place, "{self._place}"'
            )
        if not signature:
            raise KeyManagerUnavailable(f'key "{self.key_id}": the key manager returned an empty signature')
        return signature


class _EcKey(SealedEcKey):
    def __init__(self, signer: PlaceSigner, public: ec.EllipticCurvePublicKey) -> None:
        super().__init__(signer.key_id, public)
        self._signer = signer

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        if not isinstance(signature_algorithm, ec.ECDSA) or signature_algorithm.deterministic_signing:
            raise UnsupportedAlgorithm("a key in another key manager signs with plain ECDSA only")
        hashed, digest = _hashed(data, signature_algorithm.algorithm)
        return self._signer.sign(digest, hashed.name)


class _RsaKey(SealedRsaKey):
    def __init__(self, signer: PlaceSigner, public: rsa.RSAPublicKey) -> None:
        super().__init__(signer.key_id, public)
        self._signer = signer

    def sign(self, data: bytes, padding: AsymmetricPadding, algorithm: RsaHash) -> bytes:
        hashed, digest = _hashed(data, algorithm)
        return self._signer.sign(digest, hashed.name, _salt(padding, hashed))


def external_key(signer: PlaceSigner, public: PublicKey) -> PrivateKey:
    """A key as it is handed out."""
    return _EcKey(signer, public) if isinstance(public, ec.EllipticCurvePublicKey) else _RsaKey(signer, public)


def _salt(scheme: AsymmetricPadding, hashed: hashes.HashAlgorithm) -> int | None:
    if isinstance(scheme, padding.PKCS1v15):
        return None
    if not isinstance(scheme, padding.PSS):
        raise UnsupportedAlgorithm(f"RSA padding {scheme.name} for a signature")
    if scheme.mgf._algorithm.name != hashed.name:  # noqa: SLF001  cryptography has no other way to ask
        raise UnsupportedAlgorithm("PSS with two different hashes")
    length = scheme._salt_length  # noqa: SLF001  cryptography has no other way to ask
    if length is padding.PSS.MAX_LENGTH:
        return _LONGEST
    if length is padding.PSS.DIGEST_LENGTH:
        return _AS_DIGEST
    if not isinstance(length, int) or length == _LONGEST:
        raise UnsupportedAlgorithm("PSS with a salt whose length cannot be asked of another key manager")
    return length


def _hashed(data: Buffer, algorithm: RsaHash) -> tuple[hashes.HashAlgorithm, bytes]:
    """Which hash, and the digest, made now unless it was already."""
    prehashed = isinstance(algorithm, Prehashed)
    hashed = algorithm._algorithm if isinstance(algorithm, Prehashed) else algorithm  # noqa: SLF001  as above
    if not isinstance(hashed, hashes.HashAlgorithm) or hashed.name not in _HASHES:
        raise UnsupportedAlgorithm("a key in another key manager signs with SHA-256, SHA-384 and SHA-512 only")
    if not prehashed:
        return hashed, hashlib.new(hashed.name, data).digest()
    if len(data) != hashed.digest_size:
        raise ValueError("the digest has another length than its hash")
    return hashed, bytes(data)
