"""What our JWT-SVIDs contain, and when they end (JWT-SVID.md §2 and §3, and SPIRE's templates)."""

import base64
import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from hsm_ca.jwt_authority import JwtIssuer, JwtSvidRequest, new_jwt_authority_id
from keymanagers.base import KeyType
from spiffe_core.bundle import Bundle
from spiffe_core.errors import InvalidInput, InvalidJwtSvid, Unavailable
from spiffe_core.ids import SpiffeId
from spiffe_core.jwtsvid import ALGORITHMS, verify_jwt_svid
from tests.support.authorities import TD, WORKLOAD, authority_key

NOW = datetime(2030, 1, 1, 12, 0, 0, 700_000, tzinfo=UTC)
AT = int(datetime(2030, 1, 1, 12, tzinfo=UTC).timestamp())
DAY = timedelta(days=1)
FIVE_MINUTES = timedelta(minutes=5)
CASES = [
    (KeyType.EC_P256, "ES256"),
    (KeyType.EC_P384, "ES384"),
    (KeyType.RSA_2048, "RS256"),
    (KeyType.RSA_4096, "RS256"),
]


def issuer_of(key_type=KeyType.EC_P256, issuer="", authority_id="kid"):
    return JwtIssuer(authority_key(key_type, authority_id), NOW + DAY, issuer)


ISSUER = issuer_of()


def request(**changes):
    values = {"spiffe_id": WORKLOAD, "audience": ("reports",), "ttl": FIVE_MINUTES, **changes}
    return JwtSvidRequest(**values)


def parts(token):
    header, claims, _ = token.split(".")
    return tuple(json.loads(base64.urlsafe_b64decode(part + "==")) for part in (header, claims))


def issued(issuer=ISSUER, now=NOW, **changes):
    return parts(issuer.issue(request(**changes), now).token)


@pytest.mark.conformance("J-2", "J-4")
@pytest.mark.parametrize(("key_type", "algorithm"), CASES, ids=[kind.value for kind, _ in CASES])
def test_the_header_holds_algorithm_kid_and_typ_and_nothing_else(key_type, algorithm):
    header, _ = issued(issuer_of(key_type))
    assert header == {"alg": algorithm, "kid": "kid", "typ": "JWT"}
    assert algorithm in ALGORITHMS


@pytest.mark.conformance("J-4")
@pytest.mark.parametrize(("key_type", "algorithm"), CASES, ids=[kind.value for kind, _ in CASES])
def test_every_kind_of_key_makes_tokens_that_verify_and_fail_when_they_are_changed(key_type, algorithm):
    issuer = issuer_of(key_type)
    bundle = Bundle(TD, (), (issuer.authority,))
    token = issuer.issue(request(), NOW).token
    assert verify_jwt_svid(token, {TD: bundle}.get, ["reports"], NOW).id == WORKLOAD
    other = {TD: Bundle(TD, (), (issuer_of(key_type).authority,))}
    with pytest.raises(InvalidJwtSvid, match="signature does not verify"):
        verify_jwt_svid(token, other.get, ["reports"], NOW)


@pytest.mark.conformance("J-9")
@pytest.mark.parametrize("path", ["/workload", "/" + "p" * 2027], ids=["short", "2048 bytes"])
def test_the_subject_is_the_id(path):
    _, claims = issued(spiffe_id=SpiffeId(TD, path))
    assert claims["sub"] == f"spiffe://example.org{path}"


@pytest.mark.conformance("J-10", "J-12")
@pytest.mark.parametrize("audience", [("one",), ("b", "a", "b"), ("snowman ☃", 'with "quotes"')], ids=["1", "3", "odd"])
def test_the_audience_is_what_was_asked_for_in_a_list(audience):
    _, claims = issued(audience=audience)
    assert claims["aud"] == list(audience)


@pytest.mark.conformance("J-12")
def test_empty_audiences_are_dropped_and_none_is_added():
    assert issued(audience=("", "reports", ""))[1]["aud"] == ["reports"]


@pytest.mark.parametrize("audience", [(), ("",), ("", "")], ids=["none", "empty", "empty twice"])
def test_a_token_for_nobody_is_refused(audience):
    before = ISSUER.key.count
    with pytest.raises(InvalidInput, match="at least one audience is required"):
        ISSUER.issue(request(audience=audience), NOW)
    assert ISSUER.key.count == before


def test_the_claims_are_these_four_in_whole_seconds():
    _, claims = issued()
    assert claims == {"sub": str(WORKLOAD), "aud": ["reports"], "iat": AT, "exp": AT + 300}


def test_there_is_no_issuer_unless_one_is_configured():
    assert issued(issuer_of(issuer="https://issuer.test"))[1]["iss"] == "https://issuer.test"


def test_a_jti_is_there_when_it_is_asked_for_and_never_twice():
    identifiers = [issued(include_jti=True)[1]["jti"] for _ in range(20)]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", one) for one in identifiers)  # 16 bytes, not padded
    assert len(set(identifiers)) == 20


def test_the_jti_is_a_uuid_of_version_4():
    raw = base64.urlsafe_b64decode(issued(include_jti=True)[1]["jti"] + "==")
    assert raw[6] >> 4 == 4
    assert raw[8] >> 6 == 0b10


def test_what_is_answered_beside_the_token_is_what_it_says():
    svid = ISSUER.issue(request(), NOW)
    _, claims = parts(svid.token)
    assert (svid.issued_at.timestamp(), svid.expires_at.timestamp()) == (claims["iat"], claims["exp"])
    assert svid.spiffe_id == WORKLOAD


def test_a_token_never_outlives_its_authority():
    late = NOW + DAY - timedelta(seconds=30)
    svid = ISSUER.issue(request(), late)
    assert svid.expires_at == ISSUER.not_after.replace(microsecond=0)


@pytest.mark.parametrize("late", [timedelta(), DAY], ids=["at its end", "a day later"])
def test_an_authority_that_has_expired_signs_nothing(late):
    with pytest.raises(Unavailable, match="JWT key has expired and no other is ready"):
        ISSUER.issue(request(), ISSUER.not_after + late)


def test_a_kid_is_32_random_letters_and_digits():
    made = [new_jwt_authority_id() for _ in range(500)]
    assert all(re.fullmatch(r"[A-Za-z0-9]{32}", one) for one in made)
    assert len(set(made)) == 500
    assert len(set("".join(made))) == 62


def test_an_authority_is_in_the_bundle_under_its_kid_until_it_ends():
    authority = ISSUER.authority
    assert (authority.id, authority.expires_at) == ("kid", AT + 86400)
    assert authority.public_key == ISSUER.key.public


@pytest.mark.conformance("WIT-5", "WIT-13", "WIT-14", "WIT-15")
def test_what_is_issued_is_never_a_wit():
    header, claims = issued(issuer_of(issuer="https://issuer.test"), include_jti=True)
    assert header["typ"] == "JWT"
    assert "cnf" not in claims
