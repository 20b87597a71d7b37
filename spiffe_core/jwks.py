"""Bundles as documents: the SPIFFE bundle format and plain JWK Sets (SPIFFE_Trust_Domain_and_Bundle.md §4).

Reading follows the standards rather than SPIRE where they differ: a JWK of unknown type, curve or use, or an
X.509 entry without a certificate, is passed over; of several certificates in one entry the first counts.
What must be used and is malformed makes the whole document invalid: the caller keeps the one it has.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from spiffe_core.bundle import Bundle, JwtAuthority, PublicKey, X509Authority, load_certificate, load_public_key
from spiffe_core.errors import InvalidBundle
from spiffe_core.ids import TrustDomain
from spiffe_core.jose import decode_base64url, encode_base64url, parse_json

MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024
"""Longest bundle document that is read."""
MAX_SEQUENCE: Final = 2**64 - 1
"""Largest sequence number that is read: the wire's and SPIRE's type is uint64."""
MAX_REFRESH_HINT: Final = 2**63 - 1
"""Largest refresh hint that is read, in seconds: its type on the wire is int64."""

X509_USE: Final = "x509-svid"
JWT_USE: Final = "jwt-svid"
MAX_RSA_BYTES: Final = 2048
"""Longest RSA modulus that is read: 16384 bits, beyond which OpenSSL verifies nothing."""
_CURVES: Final[Mapping[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_CURVE_NAMES: Final = {curve.name: name for name, curve in _CURVES.items()}


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
        parsed = parse_json(document)
    except ValueError as exc:
        raise InvalidBundle(f"bundle document is no JSON: {exc}") from exc
    if not isinstance(parsed, dict) or not isinstance(parsed.get("keys"), list):
        raise InvalidBundle('bundle document has no array "keys"')
    x509_authorities, jwt_authorities = _read_keys(parsed["keys"])
    return Bundle(
        trust_domain,
        x509_authorities,
        jwt_authorities,
        refresh_hint=_whole_number(parsed, "spiffe_refresh_hint", MAX_REFRESH_HINT),
        sequence_number=_whole_number(parsed, "spiffe_sequence", MAX_SEQUENCE),
    )


def _read_keys(jwks: Sequence[object]) -> tuple[tuple[X509Authority, ...], tuple[JwtAuthority, ...]]:
    x509_authorities: dict[bytes, X509Authority] = {}
    jwt_authorities: dict[str, JwtAuthority] = {}
    for number, jwk in enumerate(jwks):
        if not isinstance(jwk, dict):
            raise InvalidBundle(f"keys[{number}] is no object")
        if not _understood(jwk):
            continue
        if jwk.get("use") == X509_USE:
            if der := _first_x5c(jwk, number):
                x509_authorities.setdefault(der, X509Authority(der))
        elif jwk.get("use") == JWT_USE:
            jwt_authority = _load_jwt_jwk(jwk, number)
            if jwt_authorities.setdefault(jwt_authority.id, jwt_authority) != jwt_authority:
                raise InvalidBundle(f"keys[{number}] has the kid of another key")
    return tuple(x509_authorities.values()), tuple(jwt_authorities.values())


def _understood(jwk: Mapping[str, Any]) -> bool:
    """Whether the key is of a type and curve that SVIDs have; any other is ignored (§4.2.1, RFC 7517 §5)."""
    kty, crv = jwk.get("kty"), jwk.get("crv")
    return kty == "RSA" or (kty == "EC" and (crv is None or (isinstance(crv, str) and crv in _CURVES)))


def _jwk(key: PublicKey) -> dict[str, str]:
    """The members that describe the key itself, and no others (RFC 7518 §6)."""
    if isinstance(key, rsa.RSAPublicKey):
        rsa_numbers = key.public_numbers()
        return {"kty": "RSA", "n": _encode_number(rsa_numbers.n), "e": _encode_number(rsa_numbers.e)}
    numbers = key.public_numbers()
    size = _size(key.curve)
    x, y = numbers.x.to_bytes(size), numbers.y.to_bytes(size)
    return {"kty": "EC", "crv": _CURVE_NAMES[key.curve.name], "x": encode_base64url(x), "y": encode_base64url(y)}


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
    except (TypeError, ValueError) as exc:
        raise InvalidBundle(f"keys[{number}].x5c is not standard base64") from exc
    load_certificate(der)
    return der


def _load_jwt_jwk(jwk: Mapping[str, Any], number: int) -> JwtAuthority:
    key_id = jwk.get("kid")
    if not isinstance(key_id, str) or not key_id:
        raise InvalidBundle(f"keys[{number}] is a JWT authority without kid")
    try:
        key = _load_ec(jwk) if jwk["kty"] == "EC" else _load_rsa(jwk)
    except (KeyError, ValueError) as exc:
        raise InvalidBundle(f"keys[{number}] is a malformed {jwk['kty']} key") from exc
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    load_public_key(der)
    return JwtAuthority(key_id, der)


def _load_ec(jwk: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    curve = _CURVES[jwk["crv"]]
    x, y = decode_base64url(jwk["x"]), decode_base64url(jwk["y"])
    if len(x) != _size(curve) or len(y) != _size(curve):
        raise ValueError("coordinate of the wrong length")
    return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve).public_key()


def _load_rsa(jwk: Mapping[str, Any]) -> rsa.RSAPublicKey:
    n, e = decode_base64url(jwk["n"]), decode_base64url(jwk["e"])
    if len(n) > MAX_RSA_BYTES or len(e) > MAX_RSA_BYTES:
        raise ValueError("number too long")
    return rsa.RSAPublicNumbers(int.from_bytes(e), int.from_bytes(n)).public_key()


def _encode_number(number: int) -> str:
    return encode_base64url(number.to_bytes((number.bit_length() + 7) // 8))


def _size(curve: ec.EllipticCurve) -> int:
    """Bytes of one coordinate (RFC 7518 §6.2.1.2)."""
    return (curve.key_size + 7) // 8


def _whole_number(document: Mapping[str, Any], name: str, largest: int) -> int:
    value = document.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise InvalidBundle(f"{name} is no whole number from 0 to {largest}")
    return value
