"""What every key of a key manager is: a ``cryptography`` private key of which only signing and the public half work.

A backend derives its keys from ``SealedEcKey`` and ``SealedRsaKey`` and writes ``sign``.  Everything else that
``cryptography`` asks of a private key is settled here: what would reveal the key, or use it for anything but
signing, raises ``KeyNotRevealed``, copying included.
"""

from abc import abstractmethod
from typing import NoReturn, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from cryptography.utils import Buffer

from keymanagers.base import KeyId, KeyNotRevealed

RsaHash = Prehashed | hashes.HashAlgorithm | NoDigestInfo
"""What says of an RSA signature's data how they are hashed, or were."""


class SealedEcKey(ec.EllipticCurvePrivateKey):
    """An EC key that signs."""

    def __init__(self, key_id: KeyId, public: ec.EllipticCurvePublicKey) -> None:
        self.key_id = key_id
        self._public = public

    def __repr__(self) -> str:
        return f'<{type(self).__name__} "{self.key_id}" {self.curve.name}>'

    @property
    def curve(self) -> ec.EllipticCurve:
        """Its curve."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Bits of the curve's field."""
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Its public half."""
        return self._public

    @abstractmethod
    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign; the signature is DER (RFC 3279 §2.2.3)."""

    def exchange(self, *_args: object) -> bytes:
        """Refused."""
        _refuse(self.key_id, "key agreement")

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """Refused."""
        _refuse(self.key_id, "private_numbers")

    def private_bytes(self, *_args: object, **_kwargs: object) -> bytes:
        """Refused."""
        _refuse(self.key_id, "private_bytes")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        _refuse(self.key_id, "pickling")


class SealedRsaKey(rsa.RSAPrivateKey):
    """An RSA key that signs."""

    def __init__(self, key_id: KeyId, public: rsa.RSAPublicKey) -> None:
        self.key_id = key_id
        self._public = public

    def __repr__(self) -> str:
        return f'<{type(self).__name__} "{self.key_id}" {self.key_size} bits>'

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return self._public.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        """Its public half."""
        return self._public

    @abstractmethod
    def sign(
        self,
        data: bytes,
        padding: AsymmetricPadding,
        algorithm: RsaHash,
    ) -> bytes:
        """Sign with PKCS #1 v1.5 or PSS (RFC 8017 §8)."""

    def decrypt(self, *_args: object) -> bytes:
        """Refused."""
        _refuse(self.key_id, "decryption")

    def private_numbers(self) -> rsa.RSAPrivateNumbers:
        """Refused."""
        _refuse(self.key_id, "private_numbers")

    def private_bytes(self, *_args: object, **_kwargs: object) -> bytes:
        """Refused."""
        _refuse(self.key_id, "private_bytes")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        _refuse(self.key_id, "pickling")


def _refuse(key_id: KeyId, what: str) -> NoReturn:
    raise KeyNotRevealed(f'key "{key_id}" only signs: its key manager refuses {what}')
