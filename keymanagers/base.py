"""What a key manager is: a place that makes private keys, signs with them and never gives them away.

A key is a ``cryptography`` private key that lives elsewhere.  ``Key.private`` goes as it is into
``CertificateBuilder.sign`` and ``jwt.encode``; only its ``sign`` and ``public_key`` work, and what would
reveal it raises.  So nothing above this package learns which backend it talks to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import NewType, Protocol, runtime_checkable

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from spiffe_core.bundle import PublicKey

KeyId = NewType("KeyId", str)
"""Names a key inside one key manager: 1 to 128 of ``[A-Za-z0-9._-]``, never used twice."""

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class KeyType(StrEnum):
    """The key types that every backend is asked for, under the names of SPIRE's configuration."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_4096 = "rsa-4096"


@dataclass(frozen=True, slots=True)
class Key:
    """One key that the manager shows."""

    id: KeyId
    type: KeyType
    private: PrivateKey

    @property
    def public(self) -> PublicKey:
        """Its public half."""
        return self.private.public_key()


class KeyManager(Protocol):
    """Holds private keys that never leave it.  Thread-safe; every method may block on hardware.

    All raise ``KeyManagerUnavailable`` when the place where the keys live does not answer.
    """

    def generate(self, key_id: KeyId, key_type: KeyType) -> Key:
        """Make a key under an id that was never used before; it is durable when this returns.

        Raises:
            AlreadyExists: if there is a key of that id: it is not overwritten.
        """

    def keys(self) -> Sequence[Key]:
        """The keys that the backend shows now.  Absent is not the same as destroyed."""

    def retire(self, key_id: KeyId) -> None:
        """Destroy the key.  Callers do this only to keys that their journal names.

        Raises:
            KeyNotFound: if there is none of that id.
        """

    def close(self) -> None:
        """Let go of the device; every key of this manager is unusable afterwards."""


@runtime_checkable
class KeyInspector(Protocol):
    """A key manager that can tell what the device says of a key: read back, never as requested."""

    def attributes(self, key_id: KeyId) -> Mapping[str, bool | str]:
        """Custody attributes by their PKCS#11 or TPM names, such as ``CKA_EXTRACTABLE``.

        Raises:
            KeyNotFound: if there is no key of that id.
        """


@runtime_checkable
class SharedKeyManager(Protocol):
    """A key manager whose keys several processes use at once."""

    @property
    def authority_group(self) -> str:
        """Servers that share the database and this name sign with the same keys."""


def fingerprint(key: PublicKey) -> str:
    """Lowercase hex SHA-256 of the PKIX public key, by which journals and logs name a key."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
