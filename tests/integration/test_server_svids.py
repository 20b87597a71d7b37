"""The SVID service: what is signed for agents' workloads, and what administrators may have minted."""

import re
from datetime import timedelta
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import StatusCode

from hsm_ca.authority_key import X509_ALGORITHM
from hsm_ca.templates import signed
from keymanagers.base import KeyType
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.jwtsvid import verify_jwt_svid
from spiffe_core.runtime.clock import unix
from spiffe_core.x509svid import parse_chain, verify_x509_svid
from tests.support.registry import entry, spiffe_id
from tests.support.servers import TD, Refusal, csr, forged, pb_id, serving

HOUR: Final = 3600
NOT_AUTHORIZED: Final = "entry not found or not authorized"
WORKLOAD: Final = f"spiffe://{TD}/workload"


@pytest.fixture
async def served():
    async with serving() as served:
        yield served


def verified(served, svid):
    """The X509-SVID of a message, which the server's bundle vouches for and whose fields agree with it."""
    chain = parse_chain(tuple(svid.cert_chain))
    found = verify_x509_svid(chain, served.parts.trust.own, served.clock.now())
    assert svid.id == pb_id(found.id.path)
    assert svid.expires_at == unix(found.not_after)
    return found


def token_of(served, token):
    """The JWT-SVID of a token for the audience "a" that the server's bundle vouches for."""
    return verify_jwt_svid(token, served.parts.trust.bundle_of, ["a"], served.clock.now())


def dns_names(certificate):
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


def subject(certificate):
    return certificate.subject.rfc4514_string()


# -- minting X509-SVIDs ----------------------------------------------------------------------------------------


async def test_an_x509_svid_is_minted_for_the_id_and_key_of_a_csr(served):
    key = ec.generate_private_key(ec.SECP384R1())
    answer = await served.local.call(svid_pb2, "MintX509SVID", csr=csr(WORKLOAD, key=key))
    svid = verified(served, answer.svid)
    assert svid.id == spiffe_id("/workload")
    assert svid.leaf.public_key() == key.public_key()
    assert subject(svid.leaf) == "O=SPIRE,C=US"
    assert answer.svid.expires_at == unix(served.clock.now()) + HOUR
    assert svid.leaf.not_valid_before_utc == served.clock.now() - timedelta(seconds=10)


async def test_the_subject_and_dns_names_of_a_minted_svid_are_the_csrs(served):
    request = csr(WORKLOAD, dns_names=["a.test", "*.b.test"], subject="mine")
    svid = verified(served, (await served.local.call(svid_pb2, "MintX509SVID", csr=request)).svid)
    assert dns_names(svid.leaf) == ["a.test", "*.b.test"]
    assert subject(svid.leaf) == "CN=a.test"


async def test_a_minted_svid_lives_as_long_as_it_was_asked_to(served):
    answer = await served.local.call(svid_pb2, "MintX509SVID", csr=csr(WORKLOAD), ttl=60)
    assert answer.svid.expires_at == unix(served.clock.now()) + 60


async def test_no_svid_outlives_the_authority(served):
    answer = await served.local.call(svid_pb2, "MintX509SVID", csr=csr(WORKLOAD), ttl=1000 * HOUR)
    assert answer.svid.expires_at == unix(served.parts.authorities.x509.not_after)


def with_subject(attribute):
    """A CSR with that attribute, in DER, as its subject."""
    key = ec.generate_private_key(ec.SECP256R1())
    usual = x509.load_der_x509_csr(csr(WORKLOAD, subject="ZZZZ", key=key)).tbs_certrequest_bytes
    content = usual.replace(bytes.fromhex("0603550403") + b"\x0c\x04ZZZZ", attribute)
    assert len(content) == len(usual)
    signature = key.sign(content, ec.ECDSA(SHA256()))
    return signed(content, X509_ALGORITHM[KeyType.EC_P256], signature)


ANOTHER: Final = f"spiffe://{TD}/another"
NOT_MINTED: Final = {
    "no CSR": (b"", "missing CSR"),
    "no DER": (b"x", r"malformed CSR: .+"),
    "a CSR with something behind it": (csr(WORKLOAD) + b"x", r"malformed CSR: .+"),
    "a CSR that its key has not signed": (forged(csr(WORKLOAD)), r"invalid CSR signature: .+"),
    "a subject that is no text": (
        with_subject(bytes.fromhex("0603550403") + b"\x0c\x04\xff\xfe\xff\xfe"),
        r"malformed CSR: its subject cannot be read: .+",
    ),
    "a subject of bits": (
        with_subject(bytes.fromhex("0603550403") + b"\x03\x04\0ZZZ"),
        r"malformed CSR: its subject cannot be read: .+",
    ),
    "no URI": (csr(), "CSR URI SAN is required"),
    "two URIs": (csr(WORKLOAD, ANOTHER), "only one URI SAN is expected"),
    "a URI of another scheme": (csr(f"https://{TD}/workload"), r"CSR URI SAN is invalid: .+"),
    "a foreign ID": (
        csr("spiffe://other.test/workload"),
        r'CSR URI SAN is invalid: "spiffe://other.test/workload" is not a member of trust domain "example.org"',
    ),
    "the ID of the trust domain": (
        csr(f"spiffe://{TD}"),
        r'CSR URI SAN is invalid: "spiffe://example\.org" is not a workload in trust domain .+; path is empty',
    ),
    "a reserved ID": (csr(f"spiffe://{TD}/spire/server"), r"CSR URI SAN is invalid: .+ is in the reserved namespace"),
    "a bad DNS name": (csr(WORKLOAD, dns_names=["a..b"]), r"CSR DNS name is invalid: invalid DNS name 'a\.\.b': .+"),
    "the server's DNS name": (
        csr(WORKLOAD, dns_names=["server.steeple.internal"]),
        r"CSR DNS name is invalid: .+ is reserved for the server's own certificate",
    ),
    "DNS names of which one covers another": (
        csr(WORKLOAD, dns_names=["*.a.test", "b.a.test"]),
        r'CSR DNS name is invalid: name "b\.a\.test" overlaps with an existing wildcard name in the list',
    ),
}


@pytest.mark.parametrize("what", NOT_MINTED)
async def test_a_csr_that_breaks_a_rule_gets_no_svid(served, what):
    request, text = NOT_MINTED[what]
    refusal = await served.local.refusal(svid_pb2, "MintX509SVID", csr=request)
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert re.fullmatch(text, refusal.text)


def _csr_of(key, algorithm=None):
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(WORKLOAD)])
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, critical=False)
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


KEYS: Final = {
    "Ed25519": (lambda: _csr_of(ed25519.Ed25519PrivateKey.generate()), "CSR's key is neither EC nor RSA"),
    "P-224": (lambda: csr(WORKLOAD, key=ec.generate_private_key(ec.SECP224R1())), r"CSR's key is on curve .+"),
    "RSA-1024": (
        lambda: _csr_of(rsa.generate_private_key(65537, 1024), SHA256()),
        "CSR's RSA key has 1024 bits, fewer than 2048",
    ),
}


@pytest.mark.parametrize("kind", KEYS)
async def test_a_key_that_no_svid_may_have_gets_none(served, kind):
    make, text = KEYS[kind]
    refusal = await served.local.refusal(svid_pb2, "MintX509SVID", csr=make())
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert re.fullmatch(text, refusal.text)


# -- minting JWT-SVIDs -----------------------------------------------------------------------------------------


async def test_a_jwt_svid_is_minted_for_any_workload_id(served):
    answer = await served.local.call(svid_pb2, "MintJWTSVID", id=pb_id("/workload"), audience=["a", "", "b"])
    token = answer.svid
    svid = token_of(served, token.token)
    assert svid.id == spiffe_id("/workload")
    assert token.id == pb_id("/workload")
    now = unix(served.clock.now())
    assert (token.issued_at, token.expires_at) == (now, now + 300)
    assert svid.claims == {"aud": ["a", "b"], "exp": now + 300, "iat": now, "sub": WORKLOAD}


async def test_a_minted_jwt_svid_lives_as_long_as_it_was_asked_to(served):
    answer = await served.local.call(svid_pb2, "MintJWTSVID", id=pb_id("/workload"), audience=["a"], ttl=60)
    assert answer.svid.expires_at == unix(served.clock.now()) + 60


async def test_no_jwt_svid_outlives_its_authority(served):
    answer = await served.local.call(svid_pb2, "MintJWTSVID", id=pb_id("/workload"), audience=["a"], ttl=1000 * HOUR)
    assert answer.svid.expires_at == unix(served.parts.authorities.jwt.not_after)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"audience": ["a"]}, "invalid SPIFFE ID: request must specify SPIFFE ID"),
        (
            {"audience": ["a"], "id": pb_id("/spire/x")},
            'invalid SPIFFE ID: "spiffe://example.org/spire/x" is not a workload in trust domain "example.org"; path is'
            " in the reserved namespace",
        ),
        (
            {"audience": ["a"], "id": pb_id("/x", "other.test")},
            'invalid SPIFFE ID: "spiffe://other.test/x" is not a member of trust domain "example.org"',
        ),
        ({"id": pb_id("/x")}, "at least one audience is required"),
        ({"id": pb_id("/x"), "audience": [""]}, "at least one audience is required"),
    ],
    ids=["no ID", "reserved", "foreign", "no audience", "an empty audience"],
)
async def test_a_malformed_request_gets_no_jwt_svid(served, fields, text):
    refusal = await served.local.refusal(svid_pb2, "MintJWTSVID", **fields)
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, text)


# -- X509-SVIDs for agents -------------------------------------------------------------------------------------


@pytest.fixture
async def agent(served):
    return await served.agent()


async def register(served, path="/workload", parent="/spire/agent/x509pop/one", **fields):
    [registered] = served.register(entry(path, parent, **fields))
    await served.refresh()
    return registered.id


async def batch(agent, *params):
    answer = await agent.call(
        svid_pb2, "BatchNewX509SVID", params=[{"entry_id": entry_id, "csr": request} for entry_id, request in params]
    )
    return answer.results


async def test_an_agent_gets_an_svid_of_what_the_entry_says(served, agent):
    entry_id = await register(served, dns_names=("a.test", "b.test"), x509_svid_ttl=60)
    key = ec.generate_private_key(ec.SECP256R1())
    wish = csr("spiffe://other.test/me", dns_names=["c.test"], subject="me", key=key)
    [result] = await batch(agent, (entry_id, wish))
    assert (result.status.code, result.status.message) == (0, "OK")
    svid = verified(served, result.svid)
    assert svid.id == spiffe_id("/workload")
    assert svid.leaf.public_key() == key.public_key()
    assert dns_names(svid.leaf) == ["a.test", "b.test"]
    assert subject(svid.leaf) == "CN=a.test,O=SPIRE,C=US"
    assert result.svid.expires_at == unix(served.clock.now()) + 60


async def test_an_entry_without_a_lifetime_has_the_default(served, agent):
    [result] = await batch(agent, (await register(served), csr()))
    assert result.svid.expires_at == unix(served.clock.now()) + HOUR


async def test_each_item_of_a_batch_has_its_own_outcome_in_their_order(served, agent):
    mine = await register(served)
    foreign = await register(served, "/foreign", "/spire/agent/x509pop/two")
    results = await batch(
        agent,
        (mine, csr()),
        ("", csr()),
        (mine, b""),
        ("unknown", csr()),
        (foreign, csr()),
        (mine, b"x"),
        (mine, forged(csr())),
        (mine, csr()),
    )
    invalid, missing = StatusCode.INVALID_ARGUMENT.value[0], StatusCode.NOT_FOUND.value[0]
    assert [(result.status.code, result.status.message.partition(":")[0]) for result in results] == [
        (0, "OK"),
        (invalid, "missing entry ID"),
        (invalid, "missing CSR"),
        (missing, NOT_AUTHORIZED),
        (missing, NOT_AUTHORIZED),
        (invalid, "malformed CSR"),
        (invalid, "invalid CSR signature"),
        (0, "OK"),
    ]
    assert [bool(result.svid.cert_chain) for result in results] == [True, *[False] * 6, True]
    assert verified(served, results[0].svid).leaf.serial_number != verified(served, results[7].svid).leaf.serial_number


async def test_an_entry_that_an_agent_lost_gives_no_more_svids(served, agent):
    entry_id = await register(served)
    served.datastore.entries.delete_batch([entry_id])
    await served.refresh()
    [result] = await batch(agent, (entry_id, csr()))
    assert result.status.message == NOT_AUTHORIZED


async def test_a_node_alias_is_no_workload(served, agent):
    entry_id = await register(served, "/fleet", "/spire/server")
    [result] = await batch(agent, (entry_id, csr()))
    assert result.status.message == NOT_AUTHORIZED


async def test_a_batch_that_asks_for_more_than_a_second_allows_is_refused(served, agent):
    entry_id = await register(served)
    request = csr()
    refusal = await agent.refusal(svid_pb2, "BatchNewX509SVID", params=[{"entry_id": entry_id, "csr": request}] * 501)
    text = "rejecting request due to certificate signing rate limiting: rate (501) exceeds burst size (500)"
    assert refusal == Refusal(StatusCode.RESOURCE_EXHAUSTED, text)
    results = await batch(agent, *[(entry_id, request)] * 500)
    assert {result.status.code for result in results} == {0}
    assert len({result.svid.cert_chain[0] for result in results}) == 500


async def test_signing_is_not_limited_where_that_is_configured():
    async with serving("ratelimit { signing = false }") as served:
        agent = await served.agent()
        results = await batch(agent, *[("unknown", b"x")] * 501)
        assert len(results) == 501


# -- JWT-SVIDs for agents --------------------------------------------------------------------------------------


async def test_an_agent_gets_a_jwt_svid_of_what_the_entry_says(served, agent):
    entry_id = await register(served, jwt_svid_ttl=60, x509_svid_ttl=90)
    token = (await agent.call(svid_pb2, "NewJWTSVID", entry_id=entry_id, audience=["a"])).svid
    svid = token_of(served, token.token)
    now = unix(served.clock.now())
    assert svid.claims == {"aud": ["a"], "exp": now + 60, "iat": now, "sub": WORKLOAD}


async def test_an_entry_may_ask_for_token_ids(served, agent):
    entry_id = await register(served, jwt_svid_include_jti=True)
    tokens = [(await agent.call(svid_pb2, "NewJWTSVID", entry_id=entry_id, audience=["a"])).svid for _ in range(2)]
    ids = {token_of(served, t.token).claims["jti"] for t in tokens}
    assert len(ids) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", token_id) for token_id in ids)


async def test_a_jwt_svid_of_an_entry_of_others_is_refused(served, agent):
    entry_id = await register(served, "/foreign", "/spire/agent/x509pop/two")
    for asked in (entry_id, "unknown", ""):
        refusal = await agent.refusal(svid_pb2, "NewJWTSVID", entry_id=asked, audience=["a"])
        assert refusal == Refusal(StatusCode.NOT_FOUND, NOT_AUTHORIZED)


async def test_a_jwt_svid_for_nobody_is_refused(served, agent):
    entry_id = await register(served)
    refusal = await agent.refusal(svid_pb2, "NewJWTSVID", entry_id=entry_id)
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, "at least one audience is required")


# -- configuration ---------------------------------------------------------------------------------------------


async def test_without_jwt_svids_none_are_signed_and_no_key_is_made():
    async with serving("disable_jwt_svids = true") as served:
        agent = await served.agent()
        entry_id = await register(served)
        disabled = Refusal(StatusCode.UNIMPLEMENTED, "JWT functionality is disabled")
        assert await agent.refusal(svid_pb2, "NewJWTSVID", entry_id=entry_id, audience=["a"]) == disabled
        mint = await served.local.refusal(svid_pb2, "MintJWTSVID", id=pb_id("/x"), audience=["a"])
        assert mint == disabled
        assert not served.parts.trust.own.jwt_authorities
        [result] = await batch(agent, (entry_id, csr()))
        assert result.status.code == 0


async def test_configured_lifetimes_and_issuer_hold():
    block = 'default_x509_svid_ttl = "10m" default_jwt_svid_ttl = "2m" jwt_issuer = "https://issuer.test"'
    async with serving(block) as served:
        now = unix(served.clock.now())
        minted = await served.local.call(svid_pb2, "MintX509SVID", csr=csr(WORKLOAD))
        assert minted.svid.expires_at == now + 600
        token = (await served.local.call(svid_pb2, "MintJWTSVID", id=pb_id("/x"), audience=["a"])).svid.token
        claims = token_of(served, token).claims
        assert (claims["exp"], claims["iss"]) == (now + 120, "https://issuer.test")


async def test_an_expired_authority_signs_nothing_and_says_so(served):
    agent = await served.agent(ttl=timedelta(hours=24))
    entry_id = await register(served)
    assert len(await batch(agent, (entry_id, csr()))) == 1  # it is connected
    served.clock.advance(24 * HOUR)
    refusal = await served.local.refusal(svid_pb2, "MintX509SVID", csr=csr(WORKLOAD))
    assert refusal == Refusal(StatusCode.UNAVAILABLE, "X509 CA has expired and no other is ready")
    refusal = await served.local.refusal(svid_pb2, "MintJWTSVID", id=pb_id("/x"), audience=["a"])
    assert refusal == Refusal(StatusCode.UNAVAILABLE, "JWT key has expired and no other is ready")
    results = await batch(agent, (entry_id, csr()), ("", csr()))
    unavailable = StatusCode.UNAVAILABLE.value[0]
    text = "failed to sign X509-SVID: X509 CA has expired and no other is ready"
    assert [(one.status.code, one.status.message) for one in results] == [(unavailable, text)] * 2


async def test_before_there_is_an_authority_signing_is_unavailable_and_the_registry_is_not():
    async with serving(ready=False) as served:
        refusal = await served.local.refusal(svid_pb2, "MintX509SVID", csr=csr(WORKLOAD))
        assert refusal.code is StatusCode.UNAVAILABLE
        refusal = await served.local.refusal(svid_pb2, "MintJWTSVID", id=pb_id("/x"), audience=["a"])
        assert refusal.code is StatusCode.UNAVAILABLE


async def test_a_batch_has_an_end_also_where_signing_is_not_limited():
    async with serving("ratelimit { signing = false }") as served:
        agent = await served.agent()
        text = "too many parameters: 10000 are the most at once"
        refusal = await agent.refusal(svid_pb2, "BatchNewX509SVID", params=[{}] * 10_001)
        assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, text)
        answer = await agent.call(svid_pb2, "BatchNewX509SVID", params=[{}] * 10_000)
        assert {result.status.message for result in answer.results} == {"missing entry ID"}
