"""SVIDs, as a server hands them out: without private keys.

Writing takes what an authority returns, unparsed.  Reading holds the message against the SVID inside it, but
verifies nothing: that takes a bundle.
"""

from collections.abc import Iterable
from datetime import datetime

from spiffe_core.api.convert.ids import id_from_pb, id_to_pb
from spiffe_core.api.spire.api.types.jwtsvid_pb2 import JWTSVID
from spiffe_core.api.spire.api.types.x509svid_pb2 import X509SVID
from spiffe_core.errors import InvalidJwtSvid, InvalidX509Svid
from spiffe_core.ids import SpiffeId
from spiffe_core.jwtsvid import JwtSvid, parse_jwt_svid
from spiffe_core.runtime.clock import unix
from spiffe_core.x509svid import Chain, check_leaf, parse_chain


def x509_svid_from_pb(pb: X509SVID) -> Chain:
    """The chain of an X509-SVID, whose leaf is fit for one and carries the ID that the message names.

    Raises:
        InvalidX509Svid: if that is not so.
        InvalidSpiffeId: if the message names no ID.
    """
    chain = parse_chain(tuple(pb.cert_chain))
    holder, named = check_leaf(chain[0]), id_from_pb(pb.id if pb.HasField("id") else None)
    if holder != named:
        raise InvalidX509Svid(f'X509-SVID is of "{holder}", not of "{named}" as the server said')
    return chain


def x509_svid_to_pb(spiffe_id: SpiffeId, chain: Iterable[bytes], not_after: datetime, hint: str = "") -> X509SVID:
    """The X509-SVID of that ID: DER certificates, leaf first, of which the leaf expires at ``not_after``."""
    return X509SVID(cert_chain=chain, id=id_to_pb(spiffe_id), expires_at=unix(not_after), hint=hint)


def jwt_svid_from_pb(pb: JWTSVID) -> JwtSvid:
    """The JWT-SVID, whose claims agree with the message about ID and times.

    Raises:
        InvalidJwtSvid: if that is not so.
        InvalidSpiffeId: if the message names no ID.
    """
    svid = parse_jwt_svid(pb.token)
    named = id_from_pb(pb.id if pb.HasField("id") else None)
    if svid.id != named:
        raise InvalidJwtSvid(f'JWT-SVID is of "{svid.id}", not of "{named}" as the server said')
    if svid.issued_at is None:
        raise InvalidJwtSvid("JWT-SVID has no time of issue")
    if svid.issued_at > svid.expires_at:
        raise InvalidJwtSvid("JWT-SVID was issued after it has expired")
    if (unix(svid.issued_at), unix(svid.expires_at)) != (pb.issued_at, pb.expires_at):
        raise InvalidJwtSvid("JWT-SVID has other times than the server said")
    return svid


def jwt_svid_to_pb(
    spiffe_id: SpiffeId, token: str, issued_at: datetime, expires_at: datetime, hint: str = ""
) -> JWTSVID:
    """The JWT-SVID of that ID, with the times that are in the token."""
    return JWTSVID(
        token=token, id=id_to_pb(spiffe_id), expires_at=unix(expires_at), issued_at=unix(issued_at), hint=hint
    )
