"""The claims of a verified JWT-SVID, as the Workload API answers them."""

from collections.abc import Collection
from typing import Any, Final

from google.protobuf.struct_pb2 import Struct

from spiffe_core.errors import InvalidJwtSvid
from spiffe_core.ids import TrustDomain
from spiffe_core.jwtsvid import JwtSvid

ALWAYS: Final = frozenset({"sub", "exp", "aud"})
"""Claims that are answered whoever issued the token."""
MAX_DEPTH: Final = 32
"""Deepest nesting of claims; clients' protobuf libraries stop at 100 messages, and each level is three."""


def claims_struct(svid: JwtSvid, own: TrustDomain, allowed_foreign: Collection[str]) -> Struct:
    """The claims; of a foreign trust domain's token, only those that its issuer may tell us.

    ``aud`` is always a list, as SPIRE has it; numbers become doubles.

    Raises:
        InvalidJwtSvid: if the message cannot hold them.
    """
    claims: dict[str, Any] = dict(svid.claims)
    if svid.id.trust_domain != own:
        claims = {name: value for name, value in claims.items() if name in ALWAYS or name in allowed_foreign}
    if isinstance(claims["aud"], str):
        claims["aud"] = [claims["aud"]]
    if not _is_shallow(claims, MAX_DEPTH):
        raise InvalidJwtSvid(f"token's claims are nested deeper than {MAX_DEPTH} levels")
    struct = Struct()
    try:
        struct.update(claims)
    except (OverflowError, ValueError) as exc:
        raise InvalidJwtSvid("token's claims have a number beyond those of a double") from exc
    return struct


def _is_shallow(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        return levels > 0 and all(_is_shallow(member, levels - 1) for member in value.values())
    if isinstance(value, list):
        return levels > 0 and all(_is_shallow(member, levels - 1) for member in value)
    return True
