"""The claims of JWT-SVIDs: subject, audience, times, and whatever else (JWT-SVID.md §3)."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from spiffe_core.bundle import Bundle
from spiffe_core.errors import InvalidJwtSvid
from spiffe_core.ids import TrustDomain
from spiffe_core.jwtsvid import LEEWAY, verify_jwt_svid
from tests.support.certificates import NOW
from tests.support.tokens import AT, CLAIMS, HEADER, KEY, authority, signed, token

TD = TrustDomain("example.org")
BUNDLES = {TD: Bundle(TD, (), (authority("kid", KEY),))}


def verify(text, audience=("reports",), now=NOW):
    return verify_jwt_svid(text, BUNDLES.get, audience, now)


def refused(why, text, **how):
    with pytest.raises(InvalidJwtSvid, match=why):
        verify(text, **how)


@pytest.mark.conformance("J-8")
def test_other_claims_are_allowed_and_kept():
    svid = verify(token(iss="https://issuer.example", jti="1", groups=["a", {"b": None}], sub_jwk={}))

    assert svid.claims["groups"] == ["a", {"b": None}]


@pytest.mark.parametrize("sub", [..., "", None, 5, ["spiffe://example.org/x"], {}, True])
def test_a_token_without_subject_is_refused(sub):
    refused("token missing subject claim", token(sub=sub))


@pytest.mark.conformance("ID-1", "ID-3", "ID-7", "ID-13", "ID-16")
@pytest.mark.parametrize(
    "sub",
    [
        "https://example.org/workload",
        "workload",
        "spiffe://Example.org/workload",
        "SPIFFE://example.org/workload",
        "spiffe://example.org/workload/",
        "spiffe://example.org/workload?x",
        "spiffe://example.org/workload\n",
        " spiffe://example.org/workload",
        "spiffe://example.org/" + "a" * 2048,
    ],
)
def test_a_subject_that_is_no_spiffe_id_is_refused(sub):
    refused("invalid subject claim", token(sub=sub))


@pytest.mark.conformance("ID-15")
def test_a_subject_of_2048_bytes_is_verified():
    sub = "spiffe://example.org/" + "a" * (2048 - len("spiffe://example.org/"))

    assert str(verify(token(sub=sub)).id) == sub


@pytest.mark.conformance("J-11", "J-14")
@pytest.mark.parametrize("aud", [["reports"], "reports", ["other", "reports"], ["reports", ""]])
def test_a_token_for_this_audience_is_verified(aud):
    assert "reports" in verify(token(aud=aud)).audience


@pytest.mark.conformance("J-11")
@pytest.mark.parametrize(
    "aud",
    [["other"], "other", ["Reports"], ["report"], ["reports "], ["reports/x"], ["xreports"], "r", ["reports,other"]],
)
def test_a_token_for_another_audience_is_refused(aud):
    refused(r"expected audience in \['reports'\] \(audience=", token(aud=aud))


@pytest.mark.conformance("J-11")
@pytest.mark.parametrize("aud", [..., [], "", [""], None, {}, 0, False])
def test_a_token_for_nobody_is_refused(aud):
    refused("token missing audience claim", token(aud=aud), audience=("reports", ""))


@pytest.mark.conformance("J-11", "J-14")
@pytest.mark.parametrize("aud", [5, True, {"reports": 1}, ["reports", 5], [["reports"]], ["reports", None]])
def test_a_malformed_audience_is_refused(aud):
    refused("token has a malformed audience claim", token(aud=aud))


@pytest.mark.conformance("J-11")
def test_one_of_several_acceptable_audiences_will_do():
    assert verify(token(aud=["a", "b"]), audience=["b", "c"])
    refused("expected audience", token(aud=["a", "b"]), audience=["c"])
    refused("expected audience", token(), audience=[])


def test_a_refused_audience_is_told_in_short():
    with pytest.raises(InvalidJwtSvid) as refusal:
        verify(token(aud=["x" * 500] * 100))
    assert len(str(refusal.value)) < 600


@pytest.mark.conformance("J-13")
def test_a_token_without_exp_is_refused():
    refused("token missing exp claim", token(exp=...))


@pytest.mark.conformance("J-13", "J-14")
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", [None, "1893456300", True, [], {}, [AT + 300]])
def test_a_time_that_is_no_number_is_refused(name, value):
    refused(f"token's {name} claim is no number", token(**{name: value}))


@pytest.mark.conformance("J-14")
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", [10**12, -(10**12), 10**30, -(10**30), 1e300, "1e999", "-1e999"])
def test_a_time_out_of_range_is_refused(name, value):
    claims = json.dumps({**CLAIMS, name: 0 if isinstance(value, str) else value})
    if isinstance(value, str):
        claims = json.dumps({**CLAIMS, name: "?"}).replace('"?"', value)
    text = signed(HEADER, claims)

    refused(f"token's {name} claim is out of range", text)


@pytest.mark.conformance("J-14")
def test_the_last_second_of_all_time_does_not_overflow():
    last = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
    first = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())

    assert verify(token(exp=last, nbf=first, iat=first))
    refused("not yet valid", token(exp=last, nbf=last))
    refused("has expired", token(exp=first))


@pytest.mark.conformance("J-14")
def test_an_expired_token_is_refused_after_a_minute_of_leeway():
    assert timedelta(minutes=1) == LEEWAY
    for late in (0, 1, 59, 60):
        assert verify(token(exp=AT - late))
    refused("token has expired", token(exp=AT - 61))
    refused("token has expired", token(exp=AT - 60.5))
    refused("token has expired", token(exp=AT - 120))
    refused("token has expired", token(exp=AT), now=NOW + LEEWAY + timedelta(microseconds=1))
    refused("token has expired", token(exp=0))


@pytest.mark.conformance("J-14")
def test_a_token_from_the_future_is_refused_before_a_minute_of_leeway():
    for early in (-300, 0, 59, 60):
        assert verify(token(nbf=AT + early))
    refused("token is not yet valid", token(nbf=AT + 61))
    refused("token is not yet valid", token(nbf=AT + 60.5))
    refused("token is not yet valid", token(nbf=AT + 300))


@pytest.mark.conformance("WIT-12")
def test_iat_limits_nothing():
    assert verify(token(iat=AT + 3600))
    assert verify(token(iat=0))
    assert verify(token(iat=...)).issued_at is None
    assert verify(token(iat=AT + 0.25)).issued_at == NOW + timedelta(seconds=0.25)


@pytest.mark.conformance("J-21")
def test_a_token_may_be_presented_twice():
    text = token(jti="once")

    assert verify(text) == verify(text)
