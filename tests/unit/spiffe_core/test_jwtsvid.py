"""JWT-SVIDs: which tokens are believed, and why the others are not (JWT-SVID.md)."""

import base64
import hmac
import json
from datetime import UTC, datetime

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from spiffe_core.bundle import Bundle, X509Authority
from spiffe_core.errors import InvalidJwtSvid, SpiffeError
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.jose import decode_base64url, encode_base64url
from spiffe_core.jwks import load_spiffe_bundle
from spiffe_core.jwtsvid import ALGORITHMS, MAX_TOKEN_BYTES, algorithms_of, parse_jwt_svid, verify_jwt_svid
from tests.support.certificates import NOW, WORKLOAD, ca, rsa_key
from tests.support.tokens import AT, CLAIMS, HEADER, KEY, authority, compact, signed, token

TD = TrustDomain("example.org")
OTHER_TD = TrustDomain("example.com")
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
K256 = ec.generate_private_key(ec.SECP256K1())
RSA = rsa_key(2048)
CA = ca()


def bundle(*keys, td=TD):
    """A bundle of JWT authorities: (kid, key)."""
    return Bundle(td, (), tuple(authority(name, key) for name, key in keys))


TOKEN = token()
BUNDLES = {
    TD: bundle(("kid", KEY), ("rsa", RSA), ("p384", P384), ("p521", P521)),
    OTHER_TD: bundle(("kid", OTHER_KEY), ("theirs", OTHER_KEY), td=OTHER_TD),
}


def verify(text, audience=("reports",), now=NOW, bundles=BUNDLES):
    return verify_jwt_svid(text, bundles.get, audience, now)


def refused(why, text, **how):
    with pytest.raises(InvalidJwtSvid, match=why):
        verify(text, **how)


@pytest.mark.conformance("J-1", "J-13", "W-34")
def test_a_token_of_the_bundle_s_authority_proves_its_subject():
    text = token(jti="1")
    svid = verify(text)

    assert svid.id == SpiffeId.parse(WORKLOAD)
    assert svid.audience == ("reports",)
    assert svid.expires_at == datetime(2030, 1, 1, 0, 5, tzinfo=UTC)
    assert svid.issued_at == NOW
    assert (svid.token, svid.key_id) == (text, "kid")
    assert svid.claims == {**CLAIMS, "jti": "1"}


def test_what_pyjwt_signs_is_verified():
    text = jwt.encode(CLAIMS, KEY, algorithm="ES256", headers={"kid": "kid"})

    assert verify(text).id == SpiffeId.parse(WORKLOAD)


@pytest.mark.conformance("J-5", "J-15")
@pytest.mark.parametrize(
    ("algorithm", "kid", "key"),
    [("ES256", "kid", KEY), ("ES384", "p384", P384), ("ES512", "p521", P521)]
    + [(f"{kind}{size}", "rsa", RSA) for kind in ("RS", "PS") for size in ("256", "384", "512")],
)
def test_nine_algorithms_verify(algorithm, kid, key):
    assert verify(token(key, header={"alg": algorithm, "kid": kid})).key_id == kid


def test_the_nine_algorithms_are_those_of_the_standard():
    assert {f"{kind}{size}" for kind in ("RS", "ES", "PS") for size in ("256", "384", "512")} == ALGORITHMS


@pytest.mark.conformance("J-1")
@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        "a.b.c.d.e",
        json.dumps({"payload": "e30", "protected": "e30", "signature": ""}),
        json.dumps({"payload": "e30", "signatures": [{"protected": "e30", "signature": "x.y.z"}]}),
    ],
)
def test_what_is_no_compact_jws_is_refused(text):
    refused("no JWS in compact serialization|unable to parse JWT token", text)


@pytest.mark.conformance("J-1", "ID-22")
def test_a_token_in_json_serialization_is_refused():
    header, payload, seal = token().split(".")

    for text in (
        json.dumps({"protected": header, "payload": payload, "signature": seal}),
        json.dumps({"payload": payload, "signatures": [{"protected": header, "signature": seal}]}),
    ):
        refused("token is no JWS in compact serialization", text)


@pytest.mark.conformance("J-3", "ID-22")
def test_an_encrypted_token_is_refused():
    header = encode_base64url(b'{"alg":"RSA-OAEP","enc":"A256GCM","kid":"rsa"}')

    refused("token is no JWS in compact serialization", f"{header}.AA.AA.AA.AA")


@pytest.mark.conformance("ID-22")
@pytest.mark.parametrize(
    "text",
    [
        "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29t workload",
        CA.certificate.public_bytes(Encoding.PEM).decode(),
        base64.b64encode(CA.der).decode(),
        WORKLOAD,
    ],
    ids=["SSH certificate", "PEM", "DER", "bare ID"],
)
def test_another_document_is_refused(text):
    refused("no JWS in compact serialization|unable to parse JWT token", text)


@pytest.mark.conformance("J-5")
@pytest.mark.parametrize(
    "algorithm",
    [
        "none",
        "None",
        "NONE",
        "",
        "HS256",
        "HS384",
        "HS512",
        "EdDSA",
        "Ed25519",
        "ES256K",
        "es256",
        "RS1",
        "ES256 ",
        None,
    ],
)
def test_another_algorithm_is_refused(algorithm):
    refused("token's signature algorithm .* is not allowed", token(header={"alg": algorithm}))


@pytest.mark.conformance("J-5")
@pytest.mark.parametrize("algorithm", [..., 5, True, [], ["ES256"], {}, {"alg": "ES256"}, 1.5])
def test_an_algorithm_that_is_missing_or_no_text_is_refused(algorithm):
    refused("token's signature algorithm .* is not allowed", token(header={"alg": algorithm}))


@pytest.mark.conformance("J-5")
def test_an_unsigned_token_is_refused():
    refused("'none' is not allowed", compact({"alg": "none", "kid": "kid"}, CLAIMS))
    refused("signature does not verify", compact(HEADER, CLAIMS))


@pytest.mark.conformance("J-5", "J-15")
@pytest.mark.parametrize("kid", ["kid", "rsa"])
def test_a_public_key_is_no_secret_to_sign_with(kid):
    public = {"kid": KEY, "rsa": RSA}[kid].public_key()
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ]
    for secret in secrets:
        forged = compact({"alg": "HS256", "kid": kid}, CLAIMS, lambda data, s=secret: hmac.digest(s, data, "sha256"))
        refused("'HS256' is not allowed", forged)


@pytest.mark.conformance("J-5")
def test_the_algorithm_is_refused_before_anything_else_is_looked_at():
    refused("'none' is not allowed", compact({"alg": "none"}, "no JSON"))
    refused("'HS256' is not allowed", compact({"alg": "HS256", "typ": "x", "crit": ["x"]}, {}))


@pytest.mark.conformance("J-15", "J-5")
def test_a_valid_eddsa_or_es256k_signature_is_refused():
    refused("'EdDSA' is not allowed", token(ed25519.Ed25519PrivateKey.generate(), header={"alg": "EdDSA"}))
    refused("'ES256K' is not allowed", token(K256, header={"alg": "ES256K"}))


@pytest.mark.conformance("J-15")
@pytest.mark.parametrize(
    ("algorithm", "kid", "key"),
    [
        ("ES256", "rsa", KEY),
        ("RS256", "kid", RSA),
        ("PS256", "kid", RSA),
        ("ES384", "kid", KEY),
        ("ES512", "kid", KEY),
        ("ES256", "p384", P384),
        ("ES384", "p521", P521),
    ],
)
def test_an_algorithm_that_does_not_fit_the_key_is_refused(algorithm, kid, key):
    refused(f"algorithm {algorithm} does not fit the key", token(key, header={"alg": algorithm, "kid": kid}))


@pytest.mark.conformance("J-15")
def test_an_authority_with_a_short_rsa_key_verifies_nothing():
    short = rsa_key(1024)

    assert algorithms_of(short.public_key()) == frozenset()
    refused(
        "algorithm RS256 does not fit the key",
        token(short, header={"alg": "RS256"}),
        bundles={TD: bundle(("kid", short))},
    )


def test_a_key_on_another_curve_fits_no_algorithm():
    assert algorithms_of(K256.public_key()) == frozenset()


@pytest.mark.conformance("J-15")
def test_the_key_that_kid_names_verifies_and_no_other():
    both = {TD: bundle(("kid", KEY), ("other", OTHER_KEY))}

    refused("signature does not verify", token(OTHER_KEY), bundles=both)
    refused("signature does not verify", token(KEY, header={"kid": "other"}), bundles=both)
    assert verify(token(OTHER_KEY, header={"kid": "other"}), bundles=both)


@pytest.mark.conformance("J-15")
def test_rsa_padding_is_not_interchangeable():
    def claiming(algorithm, used):
        return signed({"alg": algorithm, "kid": "rsa"}, CLAIMS, RSA, used)

    assert verify(claiming("PS256", "PS256"))
    refused("signature does not verify", claiming("PS256", "RS256"))
    refused("signature does not verify", claiming("RS256", "PS256"))
    refused("signature does not verify", claiming("RS256", "RS384"))


@pytest.mark.conformance("J-15")
def test_an_ec_signature_has_one_form():
    front, _, encoded = token().rpartition(".")
    raw = decode_base64url(encoded)
    r, s = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])

    for other in (
        utils.encode_dss_signature(r, s),
        raw + b"\0",
        b"\0" + raw,
        raw[:-1],
        raw[:32],
        bytes(64),
        b"\xff" * 64,
    ):
        refused("signature does not verify", f"{front}.{encode_base64url(other)}")


@pytest.mark.conformance("J-6")
@pytest.mark.parametrize("kid", [..., "", None, 5, ["kid"], {}, True])
def test_a_token_without_kid_is_refused(kid):
    refused("token header missing key id", token(header={"kid": kid}))


@pytest.mark.conformance("J-6")
@pytest.mark.parametrize("kid", ["Kid", "KID", "kid ", "kid\n", "ki", "unknown", "x" * 30_000])
def test_a_kid_that_the_bundle_has_not_is_refused(kid):
    with pytest.raises(InvalidJwtSvid, match=r"no JWT authority .* found for trust domain") as refusal:
        verify(token(header={"kid": kid}))
    assert len(str(refusal.value)) < 300


@pytest.mark.conformance("J-7")
@pytest.mark.parametrize("typ", [..., "JWT", "JOSE"])
def test_typ_may_be_absent_jwt_or_jose(typ):
    assert verify(token(header={"typ": typ}))


@pytest.mark.conformance("J-7", "WIT-3", "ID-22")
@pytest.mark.parametrize(
    "typ", ["wit+jwt", "at+jwt", "jwt", "jose", "Jwt", "application/jwt", "", None, 5, [], ["JWT"], {}]
)
def test_another_typ_is_refused(typ):
    refused("token's type .* is neither JWT nor JOSE", token(header={"typ": typ}))


@pytest.mark.conformance("J-3")
@pytest.mark.parametrize(
    "header", [{"crit": ["x"], "x": 1}, {"crit": []}, {"crit": "x"}, {"b64": False}, {"b64": True}]
)
def test_a_critical_header_is_refused(header):
    refused("critical header that is not understood", token(header=header))


@pytest.mark.conformance("J-3")
def test_a_key_in_the_header_is_never_trusted():
    attacker = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(attacker.public_key()))
    x5c = [base64.b64encode(CA.der).decode()]
    for header in (
        {"jwk": jwk},
        {"jku": "https://attacker.example/jwks"},
        {"x5c": x5c},
        {"x5u": "https://attacker.example/cert"},
        {"x5t": "AA", "x5t#S256": "AA"},
    ):
        refused("signature does not verify", token(attacker, header=header))
        refused("no JWT authority 'attacker'", token(attacker, header={**header, "kid": "attacker"}))
        assert verify(token(KEY, header=header))


@pytest.mark.conformance("ID-23", "BD-12", "F-7", "W-34")
def test_another_trust_domain_s_key_vouches_for_nobody_here():
    refused("signature does not verify", token(OTHER_KEY))
    refused("no JWT authority 'theirs' found .* \"example.org\"", token(OTHER_KEY, header={"kid": "theirs"}))
    theirs = "spiffe://example.com/x"
    assert verify(token(OTHER_KEY, sub=theirs)).id == SpiffeId.parse(theirs)
    refused("signature does not verify", token(KEY, sub=theirs))


@pytest.mark.conformance("W-12", "W-34")
def test_a_trust_domain_without_bundle_is_not_trusted():
    refused('no bundle found for trust domain "example.net"', token(sub="spiffe://example.net/x"))
    refused('no bundle found for trust domain "example.org"', token(), bundles={})


@pytest.mark.conformance("J-20", "BD-8")
def test_a_bundle_without_jwt_keys_vouches_for_nobody():
    refused("no JWT authority 'kid' found", token(), bundles={TD: Bundle(TD, (X509Authority(CA.der),))})


@pytest.mark.conformance("J-19", "WIT-19", "W-22")
@pytest.mark.parametrize("use", ["x509-svid", "wit-svid", "sig", "JWT-SVID"])
def test_a_key_of_another_use_verifies_no_token(use):
    (numbers,) = [KEY.public_key().public_numbers()]
    jwk = {
        "kty": "EC",
        "use": use,
        "kid": "kid",
        "crv": "P-256",
        "x": encode_base64url(numbers.x.to_bytes(32)),
        "y": encode_base64url(numbers.y.to_bytes(32)),
        "x5c": [base64.b64encode(CA.der).decode()],
    }
    read = load_spiffe_bundle(TD, json.dumps({"keys": [jwk]}))

    assert len(read.x509_authorities) == (use == "x509-svid")
    refused("no JWT authority 'kid' found", token(), bundles={TD: read})
    assert verify(token(), bundles={TD: load_spiffe_bundle(TD, json.dumps({"keys": [{**jwk, "use": "jwt-svid"}]}))})


@pytest.mark.conformance("J-19")
def test_the_key_of_a_ca_certificate_verifies_no_token():
    everything = Bundle(TD, (X509Authority(CA.der),), (authority("kid", KEY),))

    refused("signature does not verify", token(CA.private_key), bundles={TD: everything})


@pytest.mark.conformance("WIT-1", "WIT-2", "WIT-3", "WIT-4", "WIT-6", "WIT-7", "WIT-8", "WIT-16", "WIT-17", "ID-22")
@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_a_wit_svid_is_no_bearer_token_here(algorithm):
    kid, key = ("kid", KEY) if algorithm == "ES256" else ("rsa", RSA)
    holder = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(OTHER_KEY.public_key()))
    wit = token(
        key, header={"alg": algorithm, "kid": kid, "typ": "wit+jwt"}, aud=..., cnf={"jwk": {**holder, "alg": "ES256"}}
    )

    refused("token's type 'wit\\+jwt' is neither JWT nor JOSE", wit)


@pytest.mark.conformance("WIT-9", "WIT-10", "WIT-11", "WIT-16")
@pytest.mark.parametrize(
    "claims",
    [{"jti": "1"}, {"exp": AT - 3600}, {"exp": ...}, {"nbf": AT + 3600}, {"aud": ["reports"]}, {"cnf": ...}],
    ids=str,
)
def test_a_wit_svid_is_refused_whatever_it_claims(claims):
    cnf = {"jwk": {"kty": "EC", "alg": "ES256"}}
    wit = token(header={"typ": "wit+jwt"}, **{"aud": ..., "cnf": cnf, **claims})

    for _ in range(2):
        refused("token's type 'wit\\+jwt' is neither JWT nor JOSE", wit)


@pytest.mark.conformance("WIT-16")
def test_a_wit_svid_that_calls_itself_a_jwt_is_for_nobody():
    refused("token missing audience claim", token(aud=..., cnf={"jwk": {}}))


@pytest.mark.conformance("J-15")
def test_no_character_of_a_token_can_be_changed():
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    text = token()
    for position, character in enumerate(text):
        if character == ".":
            continue
        # The neighbour in the alphabet differs in the lowest bit: in a last character, a bit that no byte needs.
        for other in {alphabet[alphabet.index(character) ^ 1], alphabet[alphabet.index(character) ^ 32], "=", "."}:
            refused(".", text[:position] + other + text[position + 1 :])


@pytest.mark.conformance("J-1", "J-15")
@pytest.mark.parametrize("junk", ["=", "\n", " ", "\0", "é", "!", "+", "/", "A"])
def test_nothing_can_be_put_into_a_token(junk):
    header, payload, seal = token().split(".")
    for parts in ((header + junk, payload, seal), (header, payload + junk, seal), (header, payload, seal + junk)):
        refused("unable to parse JWT token|signature does not verify", ".".join(parts))
    refused("unable to parse JWT token", f"{junk}{header}.{payload}.{seal}")


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ("", "unable to parse"),
        ("{", "unable to parse"),
        ("[]", "no object of claims"),
        ("null", "no object of claims"),
        ('"text"', "no object of claims"),
        ("5", "no object of claims"),
        (json.dumps(CLAIMS)[:-1] + ', "sub": "spiffe://example.org/admin"}', "occurs twice"),
        (json.dumps(CLAIMS)[:-1] + ', "x": NaN}', "no JSON number"),
        (json.dumps(CLAIMS)[:-1] + ', "x": "\\ud800"}', "unable to parse"),
        (json.dumps(CLAIMS)[:-1] + ', "x": ' + "[" * 20_000 + "}", "nested too deep"),
        (json.dumps(CLAIMS)[:-1] + ', "x": ' + "9" * 5_000 + "}", "unable to parse"),
        (json.dumps(CLAIMS).encode("utf-16"), "unable to parse"),
        (b"\xff" + json.dumps(CLAIMS).encode(), "unable to parse"),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_a_payload_that_is_no_object_or_has_two_readings_is_refused(payload, why):
    refused(why, signed(HEADER, payload))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("", "unable to parse"),
        ("[]", "header is no object"),
        ("null", "header is no object"),
        ('"ES256"', "header is no object"),
        ('{"alg": "none", "alg": "ES256", "kid": "kid"}', "occurs twice"),
        ('{"alg": "ES256", "kid": "kid", "kid": "other"}', "occurs twice"),
        ("[" * 20_000, "nested too deep"),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_a_header_that_is_no_object_or_has_two_readings_is_refused(header, why):
    refused(why, signed(header, CLAIMS))


def test_a_token_that_is_too_long_is_refused_unread():
    refused("longer than 65536 bytes", "x" * (MAX_TOKEN_BYTES + 1))
    assert verify(token(x="y" * 40_000))


def test_reading_checks_no_signature_audience_or_time():
    text = compact(HEADER, {**CLAIMS, "exp": 1})
    svid = parse_jwt_svid(text)

    assert svid.id == SpiffeId.parse(WORKLOAD)
    assert svid.expires_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    with pytest.raises(InvalidJwtSvid, match="token missing exp claim"):
        parse_jwt_svid(compact(HEADER, {"sub": WORKLOAD, "aud": "x"}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
headers = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "cty"]), json_values, max_size=3)
claims = st.dictionaries(st.sampled_from(["sub", "aud", "exp", "nbf", "iat", "jti"]), json_values, max_size=3)


@settings(max_examples=200)
@given(headers, claims)
def test_whatever_a_signed_token_holds_it_is_verified_or_refused(header, changes):
    text = signed({**HEADER, **header}, {**CLAIMS, **changes})
    try:
        svid = verify(text)
    except SpiffeError:
        return
    assert svid.id == SpiffeId.parse(svid.claims["sub"])
    assert "reports" in svid.audience


@settings(max_examples=200)
@given(st.text(max_size=60) | st.builds(".".join, st.lists(st.binary(max_size=30).map(encode_base64url), max_size=5)))
def test_whatever_text_comes_it_is_refused(text):
    refused(".", text)


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 3), st.text("AZaz09-_.=", max_size=4)), min_size=1, max_size=3
    )
)
def test_whatever_becomes_of_a_token_it_is_refused(edits):
    changed = TOKEN
    for position, removed, inserted in edits:
        changed = changed[:position] + inserted + changed[position + removed :]
    if changed != TOKEN:
        refused(".", changed)
