"""JWT-SVIDs: reading and verifying them (JWT-SVID.md).

The signature is PyJWT's; the header, the choice of the key and the claims are checked here, against a time
that is given.  As every implementation does, a token without ``kid`` is refused.  A token has one spelling:
any change of a character makes another token, which does not verify.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from spiffe_core.bundle import MIN_RSA_BITS, Bundle, PublicKey
from spiffe_core.errors import InvalidJwtSvid, InvalidSpiffeId
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.jose import decode_base64url, parse_json

LEEWAY: Final = timedelta(minutes=1)
"""By how much the clocks of issuer and validator may differ (go-jose's default)."""
MAX_TOKEN_BYTES: Final = 64 * 1024
"""Longest token that is read."""

_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
ALGORITHMS: Final = frozenset(_CURVES) | _RSA
"""The nine algorithms that a JWT-SVID may use (§2.1)."""
_TYPES: Final = frozenset({"JWT", "JOSE"})
_JWS: Final = jwt.PyJWS(algorithms=sorted(ALGORITHMS))


@dataclass(frozen=True, slots=True)
class _Jws:
    """A JWS taken apart, its header checked, its signature not."""

    algorithm: str
    key_id: str
    claims: Mapping[str, Any]
    signing_input: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class JwtSvid:
    """A token whose claims were read, and the ID that it claims; verified only if a verifier returned it."""

    id: SpiffeId
    audience: tuple[str, ...]
    expires_at: datetime
    issued_at: datetime | None
    token: str
    key_id: str
    claims: Mapping[str, Any]


BundleSource = Callable[[TrustDomain], Bundle | None]
"""Looks up the bundle of a trust domain."""


def parse_jwt_svid(token: str) -> JwtSvid:
    """Read a token without verifying signature, audience or time.

    Raises:
        InvalidJwtSvid: if it cannot be a JWT-SVID.
    """
    return _read(token, _decode(token))


def verify_jwt_svid(token: str, bundle_of: BundleSource, audience: Sequence[str], now: datetime) -> JwtSvid:
    """Verify a token for one of the audiences at the time ``now``, with the bundle of its subject's trust domain.

    Raises:
        InvalidJwtSvid: saying which check failed.
    """
    jws = _decode(token)
    svid = _read(token, jws)
    if now - LEEWAY > svid.expires_at:
        raise InvalidJwtSvid("token has expired")
    if "nbf" in svid.claims and now + LEEWAY < _time(svid.claims, "nbf"):
        raise InvalidJwtSvid("token is not yet valid")
    if not set(audience) & set(svid.audience):
        raise InvalidJwtSvid(f"expected audience in {_listed(audience)} (audience={_listed(svid.audience)})")
    bundle = bundle_of(svid.id.trust_domain)
    if bundle is None:
        raise InvalidJwtSvid(f'no bundle found for trust domain "{svid.id.trust_domain}"')
    authority = bundle.jwt_authority(svid.key_id)
    if authority is None:
        raise InvalidJwtSvid(f'no JWT authority {svid.key_id[:64]!r} found for trust domain "{svid.id.trust_domain}"')
    if jws.algorithm not in algorithms_of(authority.public_key):
        raise InvalidJwtSvid(f"token's algorithm {jws.algorithm} does not fit the key of its JWT authority")
    if not _JWS.get_algorithm_by_name(jws.algorithm).verify(jws.signing_input, authority.public_key, jws.signature):
        raise InvalidJwtSvid("token's signature does not verify")
    return svid


def algorithms_of(key: PublicKey) -> frozenset[str]:
    """The algorithms that a key can verify: one for an EC key, by its curve, six for an RSA key.

    None at all for an RSA key of fewer than 2048 bits (RFC 7518 §3.3) or another curve.
    """
    if isinstance(key, rsa.RSAPublicKey):
        return _RSA if key.key_size >= MIN_RSA_BITS else frozenset()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return frozenset(name for name, curve in _CURVES.items() if key.curve.name == curve)


def _read(token: str, jws: _Jws) -> JwtSvid:
    claims = jws.claims
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise InvalidJwtSvid("token missing subject claim")
    try:
        spiffe_id = SpiffeId.parse(subject)
    except InvalidSpiffeId as exc:
        raise InvalidJwtSvid(f"token has an invalid subject claim: {exc}") from exc
    if "exp" not in claims:
        raise InvalidJwtSvid("token missing exp claim")
    return JwtSvid(
        id=spiffe_id,
        audience=_audience(claims.get("aud")),
        expires_at=_time(claims, "exp"),
        issued_at=_time(claims, "iat") if "iat" in claims else None,
        token=token,
        key_id=jws.key_id,
        claims=claims,
    )


def _decode(token: str) -> _Jws:
    """Take a JWS in compact serialization apart."""
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidJwtSvid(f"token is longer than {MAX_TOKEN_BYTES} bytes")
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004  a JWE has five
        raise InvalidJwtSvid("token is no JWS in compact serialization")
    try:
        header = parse_json(decode_base64url(parts[0]))
        algorithm, key_id = _check_header(header)
        claims = parse_json(decode_base64url(parts[1]))
        signature = decode_base64url(parts[2])
    except ValueError as exc:
        raise InvalidJwtSvid(f"unable to parse JWT token: {exc}") from exc
    if not isinstance(claims, dict):
        raise InvalidJwtSvid("token's payload is no object of claims")
    return _Jws(algorithm, key_id, claims, f"{parts[0]}.{parts[1]}".encode(), signature)


def _check_header(header: object) -> tuple[str, str]:
    """Algorithm and key ID of a header that is allowed (§2); no other key material in it is looked at."""
    if not isinstance(header, dict):
        raise InvalidJwtSvid("token's header is no object")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise InvalidJwtSvid(f"token's signature algorithm {str(algorithm)[:20]!r} is not allowed")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise InvalidJwtSvid(f"token's type {str(kind)[:20]!r} is neither JWT nor JOSE")
    if "crit" in header or "b64" in header:
        raise InvalidJwtSvid("token has a critical header that is not understood")
    key_id = header.get("kid")
    if not isinstance(key_id, str) or not key_id:
        raise InvalidJwtSvid("token header missing key id")
    return algorithm, key_id


def _audience(claim: object) -> tuple[str, ...]:
    """The ``aud`` claim, one string or several (RFC 7519 §4.1.3); empty strings name nobody."""
    values = [claim] if isinstance(claim, str) else claim or []
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise InvalidJwtSvid("token has a malformed audience claim")
    found = tuple(v for v in values if v)
    if not found:
        raise InvalidJwtSvid("token missing audience claim")
    return found


def _time(claims: Mapping[str, Any], name: str) -> datetime:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidJwtSvid(f"token's {name} claim is no number")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise InvalidJwtSvid(f"token's {name} claim is out of range") from exc


def _listed(audience: Sequence[str]) -> str:
    """Audiences for an error's text, which is bounded though tokens bring many."""
    return repr([value[:80] for value in audience[:5]])
