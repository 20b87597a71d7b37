"""Keys in this process's memory, as the ``memory`` and ``disk`` key managers hand them out.

They are sealed like those of a device, so that no code comes to depend on having the key.  One use does need
the key itself: a TLS library that knows no external signer.  That use says so by calling ``plain_key``.
"""

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
from cryptography.utils import Buffer

from keymanagers.base import Key, KeyId, KeyType, PrivateKey, key_type_of
from keymanagers.sealed import RsaHash, SealedEcKey, SealedRsaKey
from spiffe_core.errors import KeyManagerUnavailable


class SoftwareKey:
    """A private key in memory, and whether it may still be used: its manager ends it at ``retire`` and ``close``."""

    def __init__(self, key_id: KeyId, plain: PrivateKey) -> None:
        self.plain = plain
        self._ended = ""
        if isinstance(plain, ec.EllipticCurvePrivateKey):
            sealed: PrivateKey = _EcKey(key_id, plain, self)
        else:
            sealed = _RsaKey(key_id, plain, self)
        self.key = Key(key_id, key_type_of(plain.public_key()), sealed)

    @classmethod
    def generate(cls, key_id: KeyId, key_type: KeyType) -> "SoftwareKey":
        """A new key."""
        if key_type.curve is not None:
            return cls(key_id, ec.generate_private_key(key_type.curve))
        return cls(key_id, rsa.generate_private_key(public_exponent=65537, key_size=key_type.bits))

    def end(self, why: str) -> None:
        """Let the key sign nothing any more."""
        self._ended = why

    def check(self) -> None:
        """Raise unless the key may be used.

        Raises:
            KeyManagerUnavailable: if it was retired, or its manager closed.
        """
        if self._ended:
            raise KeyManagerUnavailable(f'key "{self.key.id}" signs no more: {self._ended}')


class _EcKey(SealedEcKey):
    def __init__(self, key_id: KeyId, plain: ec.EllipticCurvePrivateKey, home: SoftwareKey) -> None:
        super().__init__(key_id, plain.public_key())
        self._plain = plain
        self._home = home

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        self._home.check()
        return self._plain.sign(data, signature_algorithm)


class _RsaKey(SealedRsaKey):
    def __init__(self, key_id: KeyId, plain: rsa.RSAPrivateKey, home: SoftwareKey) -> None:
        super().__init__(key_id, plain.public_key())
        self._plain = plain
        self._home = home

    def sign(
        self,
        data: bytes,
        padding: AsymmetricPadding,
        algorithm: RsaHash,
    ) -> bytes:
        self._home.check()
        return self._plain.sign(data, padding, algorithm)


def plain_key(key: PrivateKey) -> PrivateKey | None:
    """The key itself for a TLS library that must have it, or None if it lives in a device.

    Raises:
        KeyManagerUnavailable: if it was retired, or its manager closed.
    """
    if isinstance(key, _EcKey | _RsaKey):
        key._home.check()  # noqa: SLF001  the other half of this module
        return key._home.plain  # noqa: SLF001
    return None
