"""Tokens of every shape, right ones and forged ones, for tests of what verifies them.

``token()`` makes what an honest authority signs, with any part of it changed; ``compact()`` signs whatever it is
given, in whatever way.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from spiffe_core.bundle import JwtAuthority
from spiffe_core.jose import encode_base64url
from tests.support.certificates import NOW, WORKLOAD

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

AT: Final = int(NOW.timestamp())
"""``NOW`` in Unix seconds."""
KEY: Final = ec.generate_private_key(ec.SECP256R1())
"""Signs unless another key is given; its kid is ``kid``."""
HEADER: Final = {"alg": "ES256", "kid": "kid", "typ": "JWT"}
CLAIMS: Final = {"sub": WORKLOAD, "aud": ["reports"], "exp": AT + 300, "iat": AT}

_HASHES: Final = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_SIGNABLE: Final = {f"{kind}{size}" for kind in ("ES", "RS", "PS") for size in _HASHES} | {"ES256K"}


def authority(kid: str, key: PrivateKey) -> JwtAuthority:
    """The JWT authority that vouches for what the key signs."""
    return JwtAuthority(kid, key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def signature(data: bytes, key: PrivateKey, algorithm: str) -> bytes:
    """The signature of that JWS algorithm, whether or not the key may be used with it."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    digest = _HASHES[algorithm[2:5]]
    if isinstance(key, rsa.RSAPrivateKey):
        pss = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
        return key.sign(data, pss if algorithm.startswith("PS") else padding.PKCS1v15(), digest)
    r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(digest)))
    width = (key.curve.key_size + 7) // 8
    return r.to_bytes(width) + s.to_bytes(width)


def compact(header: object, payload: object, sign: Callable[[bytes], bytes] = lambda _: b"") -> str:
    """A JWS in compact serialization; header and payload become JSON unless they are text or bytes already."""
    signed = f"{_part(header)}.{_part(payload)}"
    return f"{signed}.{encode_base64url(sign(signed.encode()))}"


def signed(header: object, payload: object, key: PrivateKey = KEY, algorithm: str = "ES256") -> str:
    """A JWS that the key signs in that way, whatever its header says."""
    return compact(header, payload, lambda data: signature(data, key, algorithm))


def token(key: PrivateKey = KEY, *, header: Mapping[str, Any] | None = None, **claims: object) -> str:
    """A JWT-SVID of the workload; a member changed to ``...`` is left out.

    It is signed as its header says where that is possible, else as ES256.
    """
    head = _changed(HEADER, header or {})
    algorithm = head.get("alg")
    possible = isinstance(algorithm, str) and algorithm in _SIGNABLE
    return signed(head, _changed(CLAIMS, claims), key, str(algorithm) if possible else "ES256")


def _changed(members: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**members, **changes}.items() if value is not ...}


def _part(content: object) -> str:
    data = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    return encode_base64url(data)
