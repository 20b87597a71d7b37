"""JWT-SVIDs, JWT bundles and the validation of tokens, as workloads get them over the socket."""

import json
from typing import Any, Final

import pytest
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode

from spiffe_core.api import workload_pb2
from spiffe_core.bundle import JwtAuthority
from spiffe_core.errors import ResourceExhausted, Unavailable
from spiffe_core.jwks import load_spiffe_bundle
from spiffe_core.jwtsvid import parse_jwt_svid
from tests.support import pki, tokens
from tests.support.fake_identities import Domain, FakeIdentities
from tests.support.workloads import ME, Caller, calling, refused, serving

PARTNER: Final = Domain(pki.Realm("partner.test"))
ID: Final = "spiffe://example.org/workload"


def no_authority(kid: str, trust_domain: str) -> str:
    """The refusal of a token whose key is not in the bundle."""
    return f'no JWT authority {kid!r} found for trust domain "{trust_domain}"'


async def fetch(caller: Caller, *audience: str, spiffe_id: str = "") -> Any:
    """Ask for JWT-SVIDs."""
    return await caller.call("FetchJWTSVID", workload_pb2.JWTSVIDRequest(audience=audience, spiffe_id=spiffe_id))


async def validate(caller: Caller, token: str, audience: str = "reports") -> Any:
    """Ask for the validation of a token."""
    return await caller.call("ValidateJWTSVID", workload_pb2.ValidateJWTSVIDRequest(audience=audience, svid=token))


@pytest.mark.conformance("W-2", "W-25", "W-28")
@pytest.mark.parametrize("audience", [("reports",), ("reports", "billing")], ids=" ".join)
async def test_a_token_is_for_exactly_the_audiences_that_were_asked_for(audience):
    async with serving() as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME, hint="internal")
        request = workload_pb2.JWTSVIDRequest(audience=audience).SerializeToString()
        raw = await caller.raw("/SpiffeWorkloadAPI/FetchJWTSVID", request)
    [svid] = workload_pb2.JWTSVIDResponse.FromString(raw).svids
    known = workload_pb2.JWTSVID(spiffe_id=ID, svid=svid.svid, hint="internal")
    assert raw == workload_pb2.JWTSVIDResponse(svids=[known]).SerializeToString()
    token = parse_jwt_svid(svid.svid)
    assert (str(token.id), token.audience) == (ID, audience)


@pytest.mark.conformance("W-26", "W-27")
async def test_there_is_a_token_for_each_identity_or_for_the_one_that_was_named():
    async with serving() as served, calling(served.socket) as caller:
        for path in ("/one", "/two", "/three"):
            served.identities.add(path, ME, hint=path[1:])
        found = (await fetch(caller, "reports")).svids
        assert [svid.spiffe_id for svid in found] == [
            f"spiffe://example.org/{name}" for name in ("one", "two", "three")
        ]
        assert [svid.hint for svid in found] == ["one", "two", "three"]
        assert [str(parse_jwt_svid(svid.svid).id) for svid in found] == [svid.spiffe_id for svid in found]
        [named] = (await fetch(caller, "reports", spiffe_id="spiffe://example.org/two")).svids
        assert named == found[1]


@pytest.mark.conformance("W-29")
@pytest.mark.parametrize("named", ["spiffe://example.org/other", "spiffe://example.org/nobody", "spiffe://b.test/x"])
async def test_a_caller_is_given_no_token_of_an_identity_that_is_not_its_own(named):
    async with serving() as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME)
        served.identities.add("/other", "unix:uid:4000000000")
        async with refused(StatusCode.PERMISSION_DENIED, "no identity issued"):
            await fetch(caller, "reports", spiffe_id=named)


@pytest.mark.conformance("WE-13")
@pytest.mark.parametrize("error", [Unavailable("the server does not answer"), ResourceExhausted("slow down")], ids=str)
async def test_a_token_that_cannot_be_had_now_is_unavailable(error):
    async with serving() as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME)
        served.identities.refuses_tokens = error
        async with refused(StatusCode.UNAVAILABLE, f"could not fetch JWT-SVID: {error}"):
            await fetch(caller, "reports")


@pytest.mark.conformance("W-30", "W-31", "W-32", "F-11")
async def test_jwt_bundles_are_plain_jwk_sets_of_jwt_keys():
    identities = FakeIdentities()
    identities.federated = {PARTNER.trust_domain: PARTNER.bundle}
    identities.add("/workload", ME, federates_with=(PARTNER.trust_domain,))
    second = tokens.authority("another", tokens.KEY)
    identities.own = identities.own.with_authorities(jwt_authorities=[second])
    async with serving(identities) as served, calling(served.socket) as caller:
        bundles = dict((await caller.first("FetchJWTBundles")).bundles)
    assert sorted(bundles) == ["spiffe://example.org", "spiffe://partner.test"]
    own = json.loads(bundles["spiffe://example.org"])
    assert list(own) == ["keys"]
    assert [sorted(key) for key in own["keys"]] == [["crv", "kid", "kty", "x", "y"]] * 2
    assert [key["kid"] for key in own["keys"]] == [identities.domain.kid, "another"]
    for domain, name in ((identities.domain, "spiffe://example.org"), (PARTNER, "spiffe://partner.test")):
        document = json.loads(bundles[name])
        labelled = json.dumps({"keys": [{**key, "use": "jwt-svid"} for key in document["keys"]]})
        read = load_spiffe_bundle(domain.trust_domain, labelled)
        assert domain.jwt_authority in read.jwt_authorities
        assert not read.x509_authorities


@pytest.mark.conformance("W-35", "W-36")
async def test_a_valid_token_is_answered_with_its_id_and_all_its_claims():
    async with serving() as served, calling(served.socket) as caller:
        domain = served.identities.domain
        more = {"jti": "7", "list": [1, "two", None, [True, []], {}], "object": {"deep": {"er": 1.5}}, "null": None}
        token = domain.token(ID, ["reports", "billing"], **more)
        answer = await validate(caller, token)
        sent = parse_jwt_svid(token).claims
    assert answer.spiffe_id == ID
    assert MessageToDict(answer.claims) == sent


@pytest.mark.conformance("W-35")
async def test_an_audience_that_is_one_string_is_answered_as_a_list():
    async with serving() as served, calling(served.socket) as caller:
        answer = await validate(caller, served.identities.domain.token(ID, [], aud="reports"))
    assert list(answer.claims["aud"]) == ["reports"]


@pytest.mark.conformance("W-34", "W-35")
async def test_of_a_foreign_token_only_the_claims_that_are_allowed_are_answered():
    identities = FakeIdentities()
    identities.federated = {PARTNER.trust_domain: PARTNER.bundle}
    identities.add("/workload", ME, federates_with=(PARTNER.trust_domain,))
    token = PARTNER.token("spiffe://partner.test/peer", ["reports"], role="admin", team="blue", iss="them")
    async with (
        serving(identities, allowed_foreign_jwt_claims=("team", "absent")) as served,
        calling(served.socket) as caller,
    ):
        answer = await validate(caller, token)
        own = await validate(caller, identities.domain.token(ID, ["reports"], role="admin"))
    assert answer.spiffe_id == "spiffe://partner.test/peer"
    assert sorted(answer.claims) == ["aud", "exp", "sub", "team"]
    assert sorted(own.claims) == ["aud", "exp", "iat", "role", "sub"]


@pytest.mark.conformance("W-34")
async def test_a_token_is_validated_with_the_bundle_of_its_subject_and_no_other():
    identities = FakeIdentities()
    identities.federated = {PARTNER.trust_domain: PARTNER.bundle}
    identities.add("/workload", ME, federates_with=(PARTNER.trust_domain,))
    own = identities.domain
    async with serving(identities) as served, calling(served.socket) as caller:
        async with refused(StatusCode.INVALID_ARGUMENT, no_authority(PARTNER.kid, "example.org")):
            await validate(caller, PARTNER.token(ID, ["reports"]))
        async with refused(StatusCode.INVALID_ARGUMENT, no_authority(own.kid, "partner.test")):
            await validate(caller, own.token("spiffe://partner.test/peer", ["reports"]))


@pytest.mark.conformance("W-34")
async def test_a_caller_without_an_identity_validates_tokens_of_its_own_trust_domain_alone():
    identities = FakeIdentities()
    identities.federated = {PARTNER.trust_domain: PARTNER.bundle}
    async with serving(identities) as served, calling(served.socket) as caller:
        assert (await validate(caller, identities.domain.token(ID, ["reports"]))).spiffe_id == ID
        async with refused(StatusCode.INVALID_ARGUMENT, 'no bundle found for trust domain "partner.test"'):
            await validate(caller, PARTNER.token("spiffe://partner.test/peer", ["reports"]))


def deep(levels: int) -> list[Any]:
    """A list in a list in a list."""
    found: list[Any] = []
    for _ in range(levels - 1):
        found = [found]
    return found


BAD_TOKENS: Final = {
    "another audience": (
        lambda own: own.token(ID, ["billing"]),
        "expected audience in ['reports'] (audience=['billing'])",
    ),
    "expired": (lambda own: own.token(ID, ["reports"], exp=1), "token has expired"),
    "no token": (lambda own: "nonsense", "token is no JWS in compact serialization"),
    "an unknown key": (
        lambda own: Domain(own.realm, own.jwt_key, "stranger").token(ID, ["reports"]),
        no_authority("stranger", "example.org"),
    ),
    "another key": (
        lambda own: Domain(own.realm, kid=own.kid).token(ID, ["reports"]),
        "token's signature does not verify",
    ),
    "a number beyond doubles": (
        lambda own: own.token(ID, ["reports"], big=10**400),
        "token's claims have a number beyond those of a double",
    ),
    "deep claims": (
        lambda own: own.token(ID, ["reports"], deep=deep(33)),
        "token's claims are nested deeper than 32 levels",
    ),
}


@pytest.mark.conformance("W-34")
@pytest.mark.parametrize("case", BAD_TOKENS)
async def test_a_token_that_does_not_verify_is_an_invalid_argument_with_the_reason(case):
    make, text = BAD_TOKENS[case]
    async with serving() as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME)
        async with refused(StatusCode.INVALID_ARGUMENT, text):
            await validate(caller, make(served.identities.domain))


async def test_the_deepest_claims_that_are_answered_can_be_read():
    async with serving() as served, calling(served.socket) as caller:
        answer = await validate(caller, served.identities.domain.token(ID, ["reports"], deep=deep(31)))
    assert MessageToDict(answer.claims)["deep"] == deep(31)


async def test_a_key_that_was_withdrawn_validates_nothing():
    async with serving() as served, calling(served.socket) as caller:
        identities = served.identities
        token = identities.domain.token(ID, ["reports"])
        await validate(caller, token)
        other: JwtAuthority = tokens.authority("other", tokens.KEY)
        identities.own = pki.Realm().bundle.with_authorities(jwt_authorities=[other])
        await identities.change()
        async with refused(
            StatusCode.INVALID_ARGUMENT,
            no_authority(identities.domain.kid, "example.org"),
        ):
            await validate(caller, token)
