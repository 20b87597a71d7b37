"""What a key manager is: a place that makes private keys, signs with them and never gives them away.

A key is a ``cryptography`` private key that lives elsewhere.  ``Key.private`` goes as it is into
``CertificateBuilder.sign`` and ``jwt.encode``; only its ``sign`` and ``public_key`` work, and what would
reveal it raises ``KeyNotRevealed``.  So nothing above this package learns which backend it talks to.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Final, NewType, Protocol, runtime_checkable

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from spiffe_core.bundle import PublicKey
from spiffe_core.errors import InvalidInput, Unsupported

KeyId = NewType("KeyId", str)
"""Names a key inside one key manager: 1 to 128 of ``[A-Za-z0-9._-]``, never used twice."""

_KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class KeyType(StrEnum):
    """The key types that every backend is asked for, under the names of SPIRE's configuration."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_4096 = "rsa-4096"

    @property
    def curve(self) -> ec.EllipticCurve | None:
        """The curve of an EC key; None for RSA."""
        return _CURVES.get(self)

    @property
    def bits(self) -> int:
        """Length of the curve's field or of the RSA modulus."""
        return int(self.value.rpartition("-")[2].removeprefix("p"))


_CURVES: Final[Mapping[KeyType, ec.EllipticCurve]] = {
    KeyType.EC_P256: ec.SECP256R1(),
    KeyType.EC_P384: ec.SECP384R1(),
}


class KeyNotRevealed(Unsupported, TypeError):
    """Somebody asked a key for its private half, or for something that it is not for."""


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


class Outcome(StrEnum):
    """What came of an attempt to get at a key's value."""

    REFUSED = "refused"
    """As it must be: the device said that this key does not let itself be treated so."""
    IMPOSSIBLE = "impossible"
    """The device knows no such way."""
    UNCLEAR = "unclear"
    """It did not work, for a reason that says nothing of the key."""
    GAVE_WAY = "gave way"
    """It worked."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to get at a key's value, and what the device answered."""

    way: str
    outcome: Outcome
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What one device that holds a key says of it, and does when somebody tries to get at its value."""

    device: str
    serial: str
    attributes: Mapping[str, bool | str] = field(default_factory=dict)
    """As ``KeyInspector`` has them."""
    attempts: tuple[Attempt, ...] = ()
    """Empty if none was made."""
    wanting: tuple[str, ...] = ()
    """What its attributes say that must not be so, or why it could not be examined."""

    @property
    def problems(self) -> tuple[str, ...]:
        """All that is not as it must be, attempts included."""
        bad = {Outcome.UNCLEAR, Outcome.GAVE_WAY}
        return (
            *self.wanting,
            *(f"{one.way} {one.outcome}: {one.answer}" for one in self.attempts if one.outcome in bad),
        )


@runtime_checkable
class KeyProver(Protocol):
    """A key manager that can show of its keys that their values cannot be had."""

    def examine(self, key_id: KeyId, *, attempt: bool) -> Sequence[Examination]:
        """Read the key's attributes back in every device that holds it; with ``attempt``, try to get at its value.

        Nothing is kept of a value that is given, and nothing is left changed.

        Raises:
            KeyNotFound: if there is no key of that id.
        """


@runtime_checkable
class SharedKeyManager(Protocol):
    """A key manager whose keys several processes use at once."""

    @property
    def authority_group(self) -> str:
        """Servers that share the database and this name sign with the same keys."""


@runtime_checkable
class WatchedKeyManager(Protocol):
    """A key manager that knows when a device of its is in trouble, and can look whether that is over."""

    def troubles(self) -> Sequence[str]:
        """What is known to be wrong, a text for each device, which it names; asks no device."""

    def check(self) -> None:
        """Look again at devices in trouble; does nothing while there is none.

        Raises:
            KeyManagerUnavailable: if no device works, saying what is wrong.
        """


def check_key_id(key_id: str) -> KeyId:
    """The same text as a key id.

    Raises:
        InvalidInput: if it cannot be one.
    """
    if not _KEY_ID.fullmatch(key_id):
        raise InvalidInput(f"key id {key_id[:80]!r} is invalid: it must be 1 to 128 letters, digits, '.', '_' or '-'")
    return KeyId(key_id)


def key_type_of(key: PublicKey) -> KeyType:
    """The type of a key, by its public half.

    Raises:
        Unsupported: if it is none of ours.
    """
    name = f"rsa-{key.key_size}" if isinstance(key, rsa.RSAPublicKey) else _CURVE_TYPES.get(key.curve.name, "")
    try:
        return KeyType(name)
    except ValueError:
        kind = "RSA" if isinstance(key, rsa.RSAPublicKey) else f"EC ({key.curve.name})"
        raise Unsupported(f"keys of type {kind} with {key.key_size} bits are not supported") from None


_CURVE_TYPES: Final = {curve.name: kind for kind, curve in _CURVES.items()}


def fingerprint(key: PublicKey) -> str:
    """Lowercase hex SHA-256 of the PKIX public key, by which journals and logs name a key."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
