"""SVIDs in messages: what a server says of an SVID must be what the SVID says."""

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings

from spiffe_core.api.convert.svids import jwt_svid_from_pb, jwt_svid_to_pb, x509_svid_from_pb, x509_svid_to_pb
from spiffe_core.api.spire.api.types.jwtsvid_pb2 import JWTSVID
from spiffe_core.api.spire.api.types.x509svid_pb2 import X509SVID
from spiffe_core.errors import InvalidJwtSvid, InvalidSpiffeId, InvalidX509Svid
from spiffe_core.jwtsvid import JwtSvid
from spiffe_core.runtime.clock import unix
from tests.support.strategies import Holder, jwt_svids, x509_svids

few = settings(deadline=None, max_examples=20)


def x509_pb(holder: Holder) -> X509SVID:
    return x509_svid_to_pb(holder.spiffe_id, holder.chain, holder.not_after, hint="front")


def jwt_pb(svid: JwtSvid) -> JWTSVID:
    assert svid.issued_at
    return jwt_svid_to_pb(svid.id, svid.token, svid.issued_at, svid.expires_at, hint="front")


@few
@given(x509_svids())
def test_a_chain_comes_back_as_it_went(holder: Holder) -> None:
    pb = X509SVID.FromString(x509_pb(holder).SerializeToString())
    assert tuple(c.public_bytes(Encoding.DER) for c in x509_svid_from_pb(pb)) == holder.chain
    assert (pb.expires_at, pb.hint) == (unix(holder.not_after), "front")


@few
@given(jwt_svids())
def test_a_jwt_svid_comes_back_as_it_went(svid: JwtSvid) -> None:
    pb = JWTSVID.FromString(jwt_pb(svid).SerializeToString())
    assert jwt_svid_from_pb(pb) == svid
    assert pb.hint == "front"


@few
@given(x509_svids())
def test_a_chain_of_another_id_than_the_server_said_is_refused(holder: Holder) -> None:
    pb = x509_pb(holder)
    pb.id.path += "x"
    with pytest.raises(InvalidX509Svid, match=r'^X509-SVID is of "spiffe://.*", not of "spiffe://.*x" as the server'):
        x509_svid_from_pb(pb)


@few
@given(jwt_svids())
def test_a_token_of_another_id_than_the_server_said_is_refused(svid: JwtSvid) -> None:
    pb = jwt_pb(svid)
    pb.id.path += "x"
    with pytest.raises(InvalidJwtSvid, match=r'^JWT-SVID is of "spiffe://.*", not of "spiffe://.*x" as the server'):
        jwt_svid_from_pb(pb)


@few
@given(x509_svids(), jwt_svids())
def test_an_svid_without_an_id_is_refused(holder: Holder, svid: JwtSvid) -> None:
    x509, token = x509_pb(holder), jwt_pb(svid)
    x509.ClearField("id")
    token.ClearField("id")
    with pytest.raises(InvalidSpiffeId, match=r"^request must specify SPIFFE ID$"):
        x509_svid_from_pb(x509)
    with pytest.raises(InvalidSpiffeId, match=r"^request must specify SPIFFE ID$"):
        jwt_svid_from_pb(token)


def test_a_message_without_a_certificate_is_refused() -> None:
    with pytest.raises(InvalidX509Svid, match="0 certificates"):
        x509_svid_from_pb(X509SVID())


@few
@given(x509_svids())
def test_a_ca_certificate_in_front_is_refused(holder: Holder) -> None:
    if len(holder.chain) > 1:
        pb = x509_svid_to_pb(holder.spiffe_id, holder.chain[1:], holder.not_after)
        with pytest.raises(InvalidX509Svid, match=r"^leaf certificate"):
            x509_svid_from_pb(pb)


@pytest.mark.parametrize("name", ["issued_at", "expires_at"])
@few
@given(jwt_svids())
def test_a_token_with_other_times_than_the_server_said_is_refused(name: str, svid: JwtSvid) -> None:
    pb = jwt_pb(svid)
    setattr(pb, name, getattr(pb, name) + 1)
    with pytest.raises(InvalidJwtSvid, match=r"^JWT-SVID has other times than the server said$"):
        jwt_svid_from_pb(pb)


def signed(**claims: object) -> JWTSVID:
    """A message whose times are those of the token, if it has any."""
    key = ec.generate_private_key(ec.SECP256R1())
    claims = {"aud": ["a"], "sub": "spiffe://home.test/web", **claims}
    token = jwt.encode(claims, key, algorithm="ES256", headers={"kid": "k"})
    pb = JWTSVID(token=token, issued_at=claims.get("iat", 0), expires_at=claims["exp"])
    pb.id.trust_domain, pb.id.path = "home.test", "/web"
    return pb


def test_a_token_is_taken_up_to_the_moment_of_its_issue() -> None:
    assert jwt_svid_from_pb(signed(iat=100, exp=100)).id.path == "/web"


def test_a_token_without_a_time_of_issue_is_refused() -> None:
    with pytest.raises(InvalidJwtSvid, match=r"^JWT-SVID has no time of issue$"):
        jwt_svid_from_pb(signed(exp=100))


def test_a_token_that_was_issued_after_it_has_expired_is_refused() -> None:
    with pytest.raises(InvalidJwtSvid, match=r"^JWT-SVID was issued after it has expired$"):
        jwt_svid_from_pb(signed(iat=101, exp=100))


def test_a_message_without_a_token_is_refused() -> None:
    with pytest.raises(InvalidJwtSvid):
        jwt_svid_from_pb(JWTSVID())
