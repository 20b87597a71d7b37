"""JWT-SVIDs: reading and verifying them (JWT-SVID.md).

The signature is PyJWT's; the header, the choice of the key and the claims are checked here, against a time
that is given.  As every implementation does, a token without ``kid`` is refused.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from spiffe_core.bundle import Bundle, PublicKey
from spiffe_core.errors import InvalidJwtSvid, InvalidSpiffeId
from spiffe_core.ids import SpiffeId, TrustDomain

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
    header, claims = _decode(token)
    key_id = _check_header(header)
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
        key_id=key_id,
        claims=claims,
    )


def verify_jwt_svid(token: str, bundle_of: BundleSource, audience: Sequence[str], now: datetime) -> JwtSvid:
    """Verify a token for one of the audiences at the time ``now``, with the bundle of its subject's trust domain.

    Raises:
        InvalidJwtSvid: saying which check failed.
    """
    svid = parse_jwt_svid(token)
    if now > svid.expires_at + LEEWAY:
        raise InvalidJwtSvid("token has expired")
    if "nbf" in svid.claims and now < _time(svid.claims, "nbf") - LEEWAY:
        raise InvalidJwtSvid("token is not yet valid")
    if not set(audience) & set(svid.audience):
        raise InvalidJwtSvid(f"expected audience in {list(audience)!r} (audience={list(svid.audience)!r})")
    bundle = bundle_of(svid.id.trust_domain)
    if bundle is None:
        raise InvalidJwtSvid(f'no bundle found for trust domain "{svid.id.trust_domain}"')
    authority = bundle.jwt_authority(svid.key_id)
    if authority is None:
        raise InvalidJwtSvid(f'no JWT authority {svid.key_id[:64]!r} found for trust domain "{svid.id.trust_domain}"')
    algorithm = jwt.get_unverified_header(token)["alg"]
    if algorithm not in algorithms_of(authority.public_key):
        raise InvalidJwtSvid(f"token's algorithm {algorithm} does not fit the key of its JWT authority")
    try:
        _JWS.decode(token, authority.public_key, algorithms=[algorithm])
    except jwt.InvalidTokenError as exc:
        raise InvalidJwtSvid("token's signature does not verify") from exc
    return svid


def algorithms_of(key: PublicKey) -> frozenset[str]:
    """The algorithms that a key can verify: one for an EC key, by its curve, six for an RSA key."""
    if isinstance(key, rsa.RSAPublicKey):
        return _RSA
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return frozenset(name for name, curve in _CURVES.items() if key.curve.name == curve)


def _decode(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Header and claims of a JWS in compact serialization, unverified."""
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidJwtSvid(f"token is longer than {MAX_TOKEN_BYTES} bytes")
    try:
        if token.count(".") != 2:  # noqa: PLR2004  a JWE has four
            raise InvalidJwtSvid("token is no JWS in compact serialization")
        header = jwt.get_unverified_header(token)
        payload = _JWS.decode_complete(token, options={"verify_signature": False})["payload"]
        claims = json.loads(payload)
    except (jwt.PyJWTError, ValueError, RecursionError) as exc:
        raise InvalidJwtSvid(f"unable to parse JWT token: {exc}") from exc
    if not isinstance(claims, dict):
        raise InvalidJwtSvid("token's payload is no object of claims")
    return header, claims


def _check_header(header: Mapping[str, Any]) -> str:
    """The key ID that a header names, if the header is allowed (§2); no other key material in it is looked at."""
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS:
        raise InvalidJwtSvid(f"token's signature algorithm {str(algorithm)[:20]!r} is not allowed")
    if header.get("typ", "JWT") not in _TYPES:
        raise InvalidJwtSvid(f"token's type {str(header['typ'])[:20]!r} is neither JWT nor JOSE")
    if "crit" in header or "b64" in header:
        raise InvalidJwtSvid("token has a critical header that is not understood")
    key_id = header.get("kid")
    if not isinstance(key_id, str) or not key_id:
        raise InvalidJwtSvid("token header missing key id")
    return key_id


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
