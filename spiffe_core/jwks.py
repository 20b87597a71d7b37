"""Bundles as documents: the SPIFFE bundle format and plain JWK Sets (SPIFFE_Trust_Domain_and_Bundle.md §4).

Reading follows the standard rather than SPIRE where the two differ: a JWK of unknown type or use, or an
X.509 entry without a certificate, is passed over; of several certificates in one entry the first counts.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from spiffe_core.bundle import Bundle, JwtAuthority, PublicKey, X509Authority, load_certificate
from spiffe_core.errors import InvalidBundle
from spiffe_core.ids import TrustDomain

MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024
"""Longest bundle document that is read."""
MAX_SEQUENCE: Final = 2**64 - 1

X509_USE: Final = "x509-svid"
JWT_USE: Final = "jwt-svid"
_MEMBERS: Final = ("kty", "crv", "x", "y", "n", "e")


def dump_spiffe_bundle(bundle: Bundle) -> str:
    """The bundle in SPIFFE format, 4-space indented as SPIRE prints it, without a final newline.

    ``spiffe_sequence`` and ``spiffe_refresh_hint`` are left out when zero, as SPIRE does.
    """
    keys: list[dict[str, Any]] = [
        {
            "use": X509_USE,
            **_jwk(_key_of(a)),
            "x5c": [base64.b64encode(a.der).decode()],
        }
        for a in bundle.x509_authorities
    ]
    keys += [_jwt_jwk(a, use=JWT_USE) for a in bundle.jwt_authorities]
    document: dict[str, Any] = {"keys": keys}
    if bundle.sequence_number:
        document["spiffe_sequence"] = bundle.sequence_number
    if bundle.refresh_hint:
        document["spiffe_refresh_hint"] = bundle.refresh_hint
    return json.dumps(document, indent=4)


def dump_jwks(authorities: Iterable[JwtAuthority]) -> bytes:
    """The JWT authorities as a plain JWK Set, which is what the Workload API hands out: no ``use``, compact."""
    return json.dumps({"keys": [_jwt_jwk(a) for a in authorities]}, separators=(",", ":")).encode()


def load_spiffe_bundle(trust_domain: TrustDomain, document: str | bytes) -> Bundle:
    """Read a bundle document of ``trust_domain``.

    Raises:
        InvalidBundle: if it is no JWK Set, or an entry that must be used is malformed.
    """
    if len(document) > MAX_DOCUMENT_BYTES:
        raise InvalidBundle(f"bundle document is longer than {MAX_DOCUMENT_BYTES} bytes")
    try:
        parsed = json.loads(document)
    except (ValueError, RecursionError) as exc:
        raise InvalidBundle(f"bundle document is no JSON: {exc}") from exc
    if not isinstance(parsed, dict) or not isinstance(parsed.get("keys"), list):
        raise InvalidBundle('bundle document has no array "keys"')
    x509_authorities, jwt_authorities = _read_keys(parsed["keys"])
    return Bundle(
        trust_domain,
        x509_authorities,
        jwt_authorities,
        refresh_hint=_whole_number(parsed, "spiffe_refresh_hint"),
        sequence_number=_whole_number(parsed, "spiffe_sequence"),
    )


def _read_keys(jwks: Sequence[object]) -> tuple[tuple[X509Authority, ...], tuple[JwtAuthority, ...]]:
    x509_authorities: dict[bytes, X509Authority] = {}
    jwt_authorities: dict[str, JwtAuthority] = {}
    for number, jwk in enumerate(jwks):
        if not isinstance(jwk, dict):
            raise InvalidBundle(f"keys[{number}] is no object")
        if jwk.get("kty") not in {"EC", "RSA"}:
            continue
        if jwk.get("use") == X509_USE:
            if der := _first_x5c(jwk, number):
                x509_authorities.setdefault(der, X509Authority(der))
        elif jwk.get("use") == JWT_USE:
            jwt_authority = _load_jwt_jwk(jwk, number)
            if jwt_authorities.setdefault(jwt_authority.id, jwt_authority) != jwt_authority:
                raise InvalidBundle(f"keys[{number}] has the kid of another key")
    return tuple(x509_authorities.values()), tuple(jwt_authorities.values())


def _jwk(key: PublicKey) -> dict[str, str]:
    """The members of RFC 7517 that describe the key itself, and no others (PyJWT adds ``key_ops``)."""
    jwk: Mapping[str, Any]
    if isinstance(key, ec.EllipticCurvePublicKey):
        jwk = ECAlgorithm.to_jwk(key, as_dict=True)
    else:
        jwk = RSAAlgorithm.to_jwk(key, as_dict=True)
    return {name: jwk[name] for name in _MEMBERS if name in jwk}


def _jwt_jwk(authority: JwtAuthority, use: str = "") -> dict[str, str]:
    jwk = _jwk(authority.public_key)
    head = {"use": use} if use else {}
    return {**head, "kty": jwk.pop("kty"), "kid": authority.id, **jwk}


def _key_of(authority: X509Authority) -> PublicKey:
    key = authority.certificate.public_key()
    if not isinstance(key, PublicKey):  # load_certificate has refused it
        raise InvalidBundle("certificate's key is neither EC nor RSA")
    return key


def _first_x5c(jwk: Mapping[str, Any], number: int) -> bytes | None:
    """The certificate of an X.509 entry, or None where the standard says to ignore the entry (X509-SVID.md §6.2)."""
    chain = jwk.get("x5c")
    if not isinstance(chain, list) or not chain:
        return None
    try:
        der = base64.b64decode(chain[0], validate=True)
    except (TypeError, binascii.Error, ValueError) as exc:
        raise InvalidBundle(f"keys[{number}].x5c is not standard base64") from exc
    load_certificate(der)
    return der


def _load_jwt_jwk(jwk: Mapping[str, Any], number: int) -> JwtAuthority:
    key_id = jwk.get("kid")
    if not isinstance(key_id, str) or not key_id:
        raise InvalidBundle(f"keys[{number}] is a JWT authority without kid")
    key: object
    try:
        if jwk["kty"] == "EC":
            key = ECAlgorithm.from_jwk({name: jwk[name] for name in ("kty", "crv", "x", "y")})
        else:
            key = RSAAlgorithm.from_jwk({name: jwk[name] for name in ("kty", "n", "e")})
    except (KeyError, TypeError, ValueError, jwt.PyJWTError) as exc:
        raise InvalidBundle(f"keys[{number}] is a malformed {jwk['kty']} key") from exc
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise InvalidBundle(f"keys[{number}] is no public key")
    return JwtAuthority(key_id, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _whole_number(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEQUENCE:
        raise InvalidBundle(f"{name} is no whole number")
    return value
