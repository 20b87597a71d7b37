"""Bundle documents, in both directions, as the standards have them."""

import base64
import json
import re

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from spiffe_core.bundle import Bundle, JwtAuthority, X509Authority
from spiffe_core.errors import InvalidBundle, SpiffeError
from spiffe_core.ids import TrustDomain
from spiffe_core.jose import decode_base64url, encode_base64url
from spiffe_core.jwks import MAX_DOCUMENT_BYTES, dump_jwks, dump_spiffe_bundle, load_spiffe_bundle
from tests.support.certificates import Shape, ca, rsa_key
from tests.support.strategies import bundles

TD = TrustDomain("example.org")
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
KEYS = [*(ec.generate_private_key(curve) for curve in CURVES.values()), rsa_key(2048)]
CA = ca()
OTHER_CA = ca()


def shape(case):
    """A test's name for its case, without what differs from run to run."""
    return re.sub(r"[A-Za-z0-9_+/=-]{31,}", "...", str(case))


def pkix(key):
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def x5c(*certified):
    return [base64.b64encode(c.der).decode() for c in certified]


def load(document):
    return load_spiffe_bundle(TD, document if isinstance(document, str | bytes) else json.dumps(document))


def jwk_of(key, name="kid", **changes):
    """A JWT authority's JWK; a change to None takes the member away."""
    (jwk,) = json.loads(dump_spiffe_bundle(Bundle(TD, (), (JwtAuthority(name, pkix(key)),))))["keys"]
    return {member: value for member, value in {**jwk, **changes}.items() if value is not None}


def x509_jwk(*certified, **changes):
    """The JWK of the first CA certificate, with all of them in x5c."""
    (jwk,) = json.loads(dump_spiffe_bundle(Bundle(TD, (X509Authority(certified[0].der),))))["keys"]
    return {member: value for member, value in {**jwk, "x5c": x5c(*certified), **changes}.items() if value is not None}


GOOD_X509 = x509_jwk(CA)
GOOD_JWT = jwk_of(KEYS[0], "good")
GOOD = Bundle(TD, (X509Authority(CA.der),), (JwtAuthority("good", pkix(KEYS[0])),))


def without_flags(bundle):
    """What of a bundle is in its document: no taint, no expiry."""
    return Bundle(
        bundle.trust_domain,
        tuple(X509Authority(a.der) for a in bundle.x509_authorities),
        tuple(JwtAuthority(a.id, a.public_key_der) for a in bundle.jwt_authorities),
        bundle.refresh_hint,
        bundle.sequence_number,
    )


@pytest.mark.conformance("BD-1")
@settings(max_examples=30)
@given(bundles())
def test_a_bundle_survives_its_document(bundle):
    text = dump_spiffe_bundle(bundle)

    assert load_spiffe_bundle(bundle.trust_domain, text) == without_flags(bundle)
    assert load_spiffe_bundle(bundle.trust_domain, text.encode()) == without_flags(bundle)


@pytest.mark.conformance("BD-1", "J-18")
@pytest.mark.parametrize("key", KEYS, ids=[*CURVES, "RSA"])
def test_another_library_reads_the_keys(key):
    authority = JwtAuthority("kid", pkix(key))

    for text in (dump_spiffe_bundle(Bundle(TD, (), (authority,))), dump_jwks([authority]).decode()):
        read = jwt.PyJWKSet.from_json(text)["kid"].key
        assert read.public_numbers() == key.public_key().public_numbers()


@pytest.mark.conformance("X-33", "BD-9", "BD-10", "BD-11", "X-26", "X-27", "X-28")
@pytest.mark.parametrize("key", KEYS, ids=[*CURVES, "RSA"])
def test_a_ca_certificate_is_published_with_its_own_key_and_no_kid(key):
    certified = ca(shape=Shape(key=key))
    (jwk,) = json.loads(dump_spiffe_bundle(Bundle(TD, (X509Authority(certified.der),))))["keys"]

    members = {"n", "e"} if isinstance(key, rsa.RSAPrivateKey) else {"crv", "x", "y"}
    assert set(jwk) == {"use", "kty", "x5c"} | members
    assert jwk["use"] == "x509-svid"
    (encoded,) = jwk["x5c"]
    assert "\n" not in encoded
    certificate = x509.load_der_x509_certificate(base64.b64decode(encoded, validate=True))
    assert certificate == certified.certificate
    described = jwt.PyJWK(jwk, algorithm="RS256" if jwk["kty"] == "RSA" else None).key
    assert described.public_numbers() == certificate.public_key().public_numbers()


@pytest.mark.conformance("X-28")
def test_each_ca_certificate_has_an_entry_of_its_own():
    document = json.loads(dump_spiffe_bundle(Bundle(TD, (X509Authority(CA.der), X509Authority(OTHER_CA.der)))))

    assert [jwk["x5c"] for jwk in document["keys"]] == [x5c(CA), x5c(OTHER_CA)]


@pytest.mark.conformance("J-18", "BD-9", "BD-10", "BD-11")
@pytest.mark.parametrize("key", KEYS, ids=[*CURVES, "RSA"])
def test_a_jwt_key_is_published_with_use_and_kid(key):
    jwk = jwk_of(key, "the-kid")

    members = {"n", "e"} if isinstance(key, rsa.RSAPrivateKey) else {"crv", "x", "y"}
    assert set(jwk) == {"use", "kty", "kid"} | members
    assert (jwk["use"], jwk["kid"]) == ("jwt-svid", "the-kid")


def test_a_plain_jwk_set_holds_jwt_keys_with_kid_and_without_use():
    text = dump_jwks(GOOD.jwt_authorities)

    assert json.loads(text) == {"keys": [{m: v for m, v in GOOD_JWT.items() if m != "use"}]}
    assert text.decode("utf-8").startswith('{"keys":[{"kty":"EC","kid":"good","crv":"P-256","x":')
    assert dump_jwks([]) == b'{"keys":[]}'


@pytest.mark.conformance("BD-9")
@pytest.mark.parametrize("curve", CURVES)
def test_coordinates_have_the_curve_s_full_length(curve):
    size = {"P-256": 32, "P-384": 48, "P-521": 66}[curve]
    # A point whose x begins with a zero byte shows whether leading zeros are kept.
    keys = (ec.derive_private_key(scalar, CURVES[curve]) for scalar in range(1, 10_000))
    key = next(k for k in keys if k.public_key().public_numbers().x.bit_length() <= 8 * (size - 1))
    jwk = jwk_of(key)

    assert {len(decode_base64url(jwk["x"])), len(decode_base64url(jwk["y"]))} == {size}
    assert load({"keys": [jwk]}).jwt_authorities[0].public_key_der == pkix(key)


@pytest.mark.conformance("BD-3", "BD-5", "BD-6")
def test_sequence_number_and_refresh_hint_are_whole_numbers_in_the_document():
    text = dump_spiffe_bundle(Bundle(TD, refresh_hint=300, sequence_number=2**64 - 1))

    assert json.loads(text) == {"keys": [], "spiffe_sequence": 2**64 - 1, "spiffe_refresh_hint": 300}
    assert '"spiffe_refresh_hint": 300\n' in text
    assert json.loads(dump_spiffe_bundle(Bundle(TD))) == {"keys": []}


def test_the_document_is_indented_as_spire_prints_it():
    text = dump_spiffe_bundle(Bundle(TD, (X509Authority(CA.der),), sequence_number=1))

    assert text.startswith('{\n    "keys": [\n        {\n            "use": "x509-svid",\n            "kty": "EC",\n')
    assert text.endswith('    ],\n    "spiffe_sequence": 1\n}')


@pytest.mark.conformance("F-17")
def test_a_document_is_ascii_and_read_as_utf_8_only():
    document = dump_spiffe_bundle(GOOD)

    assert document.isascii()
    assert load(document.encode()) == GOOD
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        with pytest.raises(InvalidBundle, match="no JSON"):
            load(document.encode(encoding))


@pytest.mark.conformance("BD-2")
def test_nothing_but_keys_is_required_and_more_is_allowed():
    assert load({"keys": [GOOD_X509, GOOD_JWT]}) == GOOD
    extra = {**GOOD_X509, "alg": "ES256", "x": "?", "new": {"a": [1]}}
    assert load({"keys": [extra, {**GOOD_JWT, "key_ops": ["verify"], "new": None}], "new": [{}], "": 1}) == GOOD


@pytest.mark.conformance("BD-4")
@pytest.mark.parametrize("number", [0, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_sequence_numbers_of_64_bits_are_read_exactly(number):
    bundle = load({"keys": [], "spiffe_sequence": number})

    assert bundle.sequence_number == number
    assert load(dump_spiffe_bundle(bundle)).sequence_number == number


@pytest.mark.conformance("BD-4", "BD-5")
def test_refresh_hints_of_63_bits_are_read_exactly():
    assert load({"keys": [], "spiffe_refresh_hint": 2**63 - 1}).refresh_hint == 2**63 - 1
    with pytest.raises(InvalidBundle, match="spiffe_refresh_hint is no whole number"):
        load({"keys": [], "spiffe_refresh_hint": 2**63})


@pytest.mark.parametrize("name", ["spiffe_sequence", "spiffe_refresh_hint"])
@pytest.mark.parametrize(
    "value", ["-1", "true", "false", "1.0", "1e3", '"1"', "null", "[1]", "{}", str(2**64), "1e999"]
)
def test_a_number_that_is_not_whole_or_too_large_is_refused(name, value):
    with pytest.raises(InvalidBundle, match=f"{name} is no whole number"):
        load(f'{{"keys": [], "{name}": {value}}}')


@pytest.mark.conformance("BD-6")
@pytest.mark.parametrize(
    "document", ["{}", '{"keys": null}', '{"keys": {}}', '{"keys": "x"}', "[]", "null", '"keys"', "5", '{"Keys": []}']
)
def test_a_document_without_an_array_of_keys_is_refused(document):
    with pytest.raises(InvalidBundle, match='no array "keys"'):
        load(document)


@pytest.mark.parametrize("document", ["", "{", "no", '{"keys": []} x', "{'keys': []}", '{"keys": [NaN]}', b"\xff\xfe"])
def test_what_is_no_json_is_refused(document):
    with pytest.raises(InvalidBundle, match="no JSON"):
        load(document)


def test_a_member_named_twice_is_refused():
    for text in ('{"keys": [], "keys": []}', '{"keys": [{"use": "jwt-svid", "use": "x509-svid"}]}'):
        with pytest.raises(InvalidBundle, match="occurs twice"):
            load(text)


def test_a_document_that_nests_too_deep_is_refused():
    for text in ("[" * 200_000, '{"keys": ' + "[" * 200_000, '{"keys": [], "a": ' + '{"b":' * 200_000):
        with pytest.raises(InvalidBundle, match="nested too deep"):
            load(text)


def test_a_document_is_read_up_to_its_largest_size():
    document = dump_spiffe_bundle(GOOD)

    assert load(document + " " * (MAX_DOCUMENT_BYTES - len(document))) == GOOD
    for padded in (document + " " * (MAX_DOCUMENT_BYTES - len(document) + 1), b" " * (MAX_DOCUMENT_BYTES + 1)):
        with pytest.raises(InvalidBundle, match="longer than 4194304 bytes"):
            load(padded)


@pytest.mark.conformance("BD-7", "BD-10", "BD-11", "X-30", "WIT-19")
@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "AKP", "use": "jwt-svid", "kid": "new", "alg": "ML-DSA-44", "pub": "AA"},
        {"kty": "OKP", "use": "jwt-svid", "kid": "ed", "crv": "Ed25519", "x": "AA"},
        {"kty": "oct", "use": "jwt-svid", "kid": "secret", "k": "AA"},
        {**GOOD_JWT, "kty": "ec"},
        {**GOOD_JWT, "kty": None},
        {**GOOD_JWT, "kty": ["EC"]},
        {**GOOD_JWT, "kty": {}},
        jwk_of(KEYS[1], kty=None),
        jwk_of(KEYS[1], use=None),
        {**GOOD_JWT, "use": "sig"},
        {**GOOD_JWT, "use": "JWT-SVID"},
        {**GOOD_JWT, "use": "jwt-svid "},
        {**GOOD_JWT, "use": ["jwt-svid"]},
        {**GOOD_JWT, "use": 5},
        {**GOOD_X509, "use": "X509-SVID"},
        {**GOOD_JWT, "use": "wit-svid", "kid": "wit"},
        x509_jwk(OTHER_CA, kty=None),
        x509_jwk(OTHER_CA, kty="oct"),
        jwk_of(KEYS[1], "k", crv="secp256k1"),
        jwk_of(KEYS[1], "k", crv=["P-256"]),
        x509_jwk(OTHER_CA, x5c=None),
        {**x509_jwk(OTHER_CA), "x5c": []},
        {**x509_jwk(OTHER_CA), "x5c": None},
        {**x509_jwk(OTHER_CA), "x5c": x5c(OTHER_CA)[0]},
        {},
    ],
    ids=shape,
)
def test_a_key_that_is_not_understood_is_passed_over_and_the_others_count(jwk):
    assert load({"keys": [jwk, GOOD_X509, GOOD_JWT]}) == GOOD
    assert load({"keys": [GOOD_X509, GOOD_JWT, jwk]}) == GOOD


@pytest.mark.conformance("X-31")
def test_of_several_certificates_in_one_entry_the_first_counts():
    for rest in (x5c(OTHER_CA), [5], [None], ["?"], [""]):
        assert load({"keys": [{**GOOD_X509, "x5c": x5c(CA) + rest}]}).x509_authorities == GOOD.x509_authorities


@pytest.mark.conformance("BD-8", "X-32", "J-20")
@pytest.mark.parametrize("keys", [[], [{"kty": "AKP", "use": "jwt-svid"}], [{**GOOD_JWT, "use": "sig"}]], ids=shape)
def test_a_document_without_usable_keys_is_an_empty_bundle_and_no_error(keys):
    bundle = load({"keys": keys, "spiffe_sequence": 9})

    assert bundle == Bundle(TD, sequence_number=9)


@pytest.mark.parametrize("value", [None, 1, "x", [], True, 1.5])
def test_a_key_that_is_no_object_is_refused(value):
    with pytest.raises(InvalidBundle, match=r"keys\[1\] is no object"):
        load({"keys": [GOOD_JWT, value]})


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ("", "malformed certificate"),
        ("?", "not standard base64"),
        (5, "not standard base64"),
        (None, "not standard base64"),
        (["x"], "not standard base64"),
        ("é", "not standard base64"),
        (x5c(CA)[0] + "\n", "not standard base64"),
        (x5c(CA)[0][:64] + "\n" + x5c(CA)[0][64:], "not standard base64"),
        (" " + x5c(CA)[0], "not standard base64"),
        (base64.b64encode(b"\xfb\xff\xfe").decode().replace("+", "-").replace("/", "_"), "not standard base64"),
        (base64.b64encode(b"junk").decode(), "malformed certificate"),
        (base64.b64encode(CA.der + b"\0").decode(), "malformed certificate"),
        (base64.b64encode(b"-----BEGIN CERTIFICATE-----").decode(), "malformed certificate"),
        (base64.b64encode(b"\x30" * 70_000).decode(), "longer than 65536"),
    ],
)
@pytest.mark.conformance("X-28")
def test_a_malformed_certificate_is_refused(first, why):
    with pytest.raises(InvalidBundle, match=why):
        load({"keys": [GOOD_JWT, {**GOOD_X509, "x5c": [first]}]})


def test_an_ed25519_certificate_is_refused():
    key = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateBuilder(
        x509.Name([]),
        x509.Name([]),
        key.public_key(),
        1,
        CA.certificate.not_valid_before_utc,
        CA.certificate.not_valid_after_utc,
    )
    der = builder.sign(key, None).public_bytes(Encoding.DER)

    with pytest.raises(InvalidBundle, match="certificate's key is neither EC nor RSA"):
        load({"keys": [{**GOOD_X509, "x5c": [base64.b64encode(der).decode()]}]})


@pytest.mark.conformance("J-18")
@pytest.mark.parametrize("kid", [None, "", 5, ["kid"], True])
def test_a_jwt_key_without_kid_is_refused(kid):
    with pytest.raises(InvalidBundle, match=r"keys\[1\] is a JWT authority without kid"):
        load({"keys": [GOOD_X509, jwk_of(KEYS[0], kid=kid)]})


@pytest.mark.conformance("J-18")
def test_two_jwt_keys_of_one_kid_are_refused():
    with pytest.raises(InvalidBundle, match=r"keys\[1\] has the kid of another key"):
        load({"keys": [GOOD_JWT, jwk_of(KEYS[1], "good")]})


def test_an_entry_that_stands_twice_counts_once():
    assert load({"keys": [GOOD_X509, GOOD_JWT, GOOD_JWT, GOOD_X509]}) == GOOD


def test_kids_differ_by_case():
    keys = [GOOD_JWT, jwk_of(KEYS[1], "Good")]

    assert [a.id for a in load({"keys": keys}).jwt_authorities] == ["good", "Good"]


@pytest.mark.parametrize(
    "changes",
    [
        {"x": None},
        {"y": None},
        {"crv": None},
        {"x": 5},
        {"x": ""},
        {"x": "?"},
        {"x": GOOD_JWT["x"] + "="},
        {"x": GOOD_JWT["y"]},
        {"x": encode_base64url(b"\0" + decode_base64url(GOOD_JWT["x"]))},
        {"y": GOOD_JWT["y"][:-4]},
        {"crv": "P-384"},
        {"x": encode_base64url(bytes(32)), "y": encode_base64url(bytes(32))},
        {"kty": "RSA"},
    ],
    ids=shape,
)
def test_a_malformed_ec_key_is_refused(changes):
    with pytest.raises(InvalidBundle, match=r"keys\[0\] is a malformed (EC|RSA) key"):
        load({"keys": [jwk_of(KEYS[0], **changes)]})


@pytest.mark.parametrize(
    "changes",
    [
        {"n": None},
        {"e": None},
        {"n": 5},
        {"n": "AQ"},
        {"n": ""},
        {"e": ""},
        {"e": "AA"},
        {"e": "Ag"},
        {"n": "A" * 10**6},
        {"e": "A" * 10**6},
        {"kty": "EC"},
    ],
    ids=shape,
)
def test_a_malformed_rsa_key_is_refused(changes):
    with pytest.raises(InvalidBundle, match=r"keys\[0\] is a malformed (EC|RSA) key"):
        load({"keys": [jwk_of(rsa_key(2048), **changes)]})


def test_private_members_are_neither_read_nor_kept():
    private = KEYS[0].private_numbers().private_value.to_bytes(32)
    bundle = load({"keys": [{**GOOD_JWT, "d": encode_base64url(private)}]})

    assert bundle.jwt_authorities == GOOD.jwt_authorities
    assert '"d"' not in dump_spiffe_bundle(bundle)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
members = st.sampled_from(["kty", "use", "kid", "crv", "x", "y", "n", "e", "x5c", "alg"])
almost = st.sampled_from(["EC", "RSA", "jwt-svid", "x509-svid", "P-256", "AQAB", GOOD_JWT["x"], x5c(CA), x5c(CA)[0]])


@settings(max_examples=150)
@given(st.lists(st.dictionaries(members, almost | json_values, max_size=8) | json_values, max_size=3), json_values)
def test_whatever_a_document_holds_it_is_read_or_refused(keys, number):
    try:
        bundle = load({"keys": keys, "spiffe_sequence": number})
    except SpiffeError:
        return
    assert load(dump_spiffe_bundle(bundle)) == bundle


@settings(max_examples=150)
@given(st.sampled_from([GOOD_X509, GOOD_JWT, jwk_of(rsa_key(2048))]), members, almost | json_values)
def test_whatever_becomes_of_one_member_the_key_is_read_or_refused(jwk, member, value):
    try:
        load({"keys": [{**jwk, member: value}]})
    except SpiffeError:
        return


@given(st.binary(max_size=60))
def test_whatever_bytes_come_they_are_read_or_refused(data):
    with pytest.raises(InvalidBundle):
        load(data)
