"""A JWT authority that can sign: a key in the bundle under its ``kid``."""

import base64
import json
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_ca.authority_key import JWS_ALGORITHM, AuthorityKey, Issuance, Kind, jws_signature
from hsm_ca.journal import AuthorityId
from spiffe_core.bundle import JwtAuthority
from spiffe_core.errors import InvalidInput, Unavailable
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.clock import from_unix, unix

_KID_ALPHABET: Final = string.ascii_letters + string.digits
_KID_LENGTH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSvidRequest:
    """What a JWT-SVID is asked for.  The caller has decided that the ID may be granted."""

    spiffe_id: SpiffeId
    audience: Sequence[str]
    ttl: timedelta
    include_jti: bool = False
    entry_id: str = ""
    caller: str = ""


@dataclass(frozen=True, slots=True)
class IssuedJwtSvid:
    """A new JWT-SVID."""

    spiffe_id: SpiffeId
    token: str
    issued_at: datetime
    expires_at: datetime


class JwtIssuer:
    """Signs JWT-SVIDs with one authority.  Thread-safe."""

    def __init__(self, key: AuthorityKey, not_after: datetime, issuer: str = "") -> None:
        self.key = key
        self.not_after = not_after
        self._issuer = issuer
        self._header = _encode({"alg": JWS_ALGORITHM[key.type], "kid": key.authority_id, "typ": "JWT"})

    @property
    def authority_id(self) -> AuthorityId:
        """The ``kid`` of its tokens."""
        return self.key.authority_id

    @property
    def authority(self) -> JwtAuthority:
        """The public half, as it stands in the bundle."""
        public = self.key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return JwtAuthority(self.authority_id, public, unix(self.not_after))

    def issue(self, request: JwtSvidRequest, now: datetime) -> IssuedJwtSvid:
        """Sign a JWT-SVID, which never outlives this authority.  Empty audiences are dropped, as SPIRE does.

        Raises:
            InvalidInput: if no audience is left.
            Unavailable: if this authority has expired.
            KeyManagerUnavailable: if the key cannot sign now.
        """
        if now >= self.not_after:
            raise Unavailable("JWT key has expired and no other is ready")
        audience = [name for name in request.audience if name]
        if not audience:
            raise InvalidInput("at least one audience is required")
        issued_at = unix(now)
        expires_at = min(issued_at + int(request.ttl.total_seconds()), unix(self.not_after))
        claims: dict[str, Any] = {
            "aud": audience,
            "exp": expires_at,
            "iat": issued_at,
            "sub": str(request.spiffe_id),
        }
        if self._issuer:
            claims["iss"] = self._issuer
        jti = ""
        if request.include_jti:
            jti = claims["jti"] = _base64url(uuid4().bytes).decode()
        content = self._header + b"." + _encode(claims)

        def assemble(signature: bytes) -> bytes:
            return content + b"." + _base64url(jws_signature(signature, self.key.type))

        issuance = Issuance(Kind.JWT_SVID, request.spiffe_id, jti, request.entry_id, request.caller)
        token = self.key.issue(issuance, content, assemble).decode()
        return IssuedJwtSvid(request.spiffe_id, token, from_unix(issued_at), from_unix(expires_at))


def new_jwt_authority_id() -> AuthorityId:
    """A random ``kid``: 32 letters and digits."""
    return AuthorityId("".join(secrets.choice(_KID_ALPHABET) for _ in range(_KID_LENGTH)))


def _base64url(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def _encode(member: dict[str, Any]) -> bytes:
    return _base64url(json.dumps(member, separators=(",", ":")).encode())
