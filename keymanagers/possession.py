"""Proof that a key manager signs with a key: a signature over a nonce, checked with the key's public half.

Keys of authorities sign certificates and tokens, and elsewhere only there where each signature is counted.  So what is
signed here can be taken for nothing else: it begins with blanks, so it is neither DER nor a JWS, and goes on with a
text that says what it is, a zero byte and the nonce.  TLS keeps its own signatures apart by the same means (RFC 8446
§4.4.3), with a text of its own.
"""

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from keymanagers.base import Key, KeyType
from spiffe_core.errors import KeyManagerUnavailable

NONCE_BYTES: Final = 32
CONTEXT: Final = b"Steeple key check: this is neither a certificate nor a token"
_BLANKS: Final = b" " * 64
_PKCS1: Final = padding.PKCS1v15()


@dataclass(frozen=True, slots=True)
class Possession:
    """What was signed, how, and the signature, for whoever wants to verify it again."""

    message: bytes
    algorithm: str
    signature: bytes


def message_of(nonce: bytes) -> bytes:
    """What is signed for a nonce."""
    return _BLANKS + CONTEXT + b"\0" + nonce


def prove_possession(key: Key, nonce: bytes) -> Possession:
    """Have the key sign a nonce, and verify what comes back.

    Raises:
        KeyManagerUnavailable: if the key manager does not sign, or not with this key.
    """
    message = message_of(nonce)
    hashed = hashes.SHA384() if key.type is KeyType.EC_P384 else hashes.SHA256()
    private, public = key.private, key.public
    try:
        if isinstance(private, ec.EllipticCurvePrivateKey):
            assert isinstance(public, ec.EllipticCurvePublicKey)
            signature, kind = private.sign(message, ec.ECDSA(hashed)), "ECDSA"
            public.verify(signature, message, ec.ECDSA(hashed))
        else:
            assert not isinstance(public, ec.EllipticCurvePublicKey)
            signature, kind = private.sign(message, _PKCS1, hashed), "RSA PKCS #1 v1.5"
            public.verify(signature, message, _PKCS1, hashed)
    except InvalidSignature as exc:
        raise KeyManagerUnavailable(
            f'the key manager answered for key "{key.id}" with a signature that its public key does not verify: check '
            "the device, and that no other key took this one's place"
        ) from exc
    return Possession(message, f"{kind} with {hashed.name.upper().replace('SHA', 'SHA-')}", signature)
