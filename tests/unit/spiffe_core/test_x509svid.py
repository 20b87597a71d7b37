"""X509-SVIDs: what a leaf must and must not be (X509-SVID.md §2 to §5.2)."""

import ipaddress
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from spiffe_core.bundle import Bundle, JwtAuthority, X509Authority
from spiffe_core.errors import InvalidX509Svid
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.x509svid import (
    MAX_CHAIN,
    authority_key_id,
    check_leaf,
    id_of,
    is_ca,
    parse_chain,
    subject_key_id,
    verify_x509_svid,
)
from tests.support.certificates import (
    HOUR,
    NOW,
    WORKLOAD,
    Shape,
    basic_constraints,
    bundle_of,
    ca,
    chain_of,
    leaf,
    rsa_key,
    sans,
    usage,
)

ROOT = ca()
BUNDLE = bundle_of(ROOT)
URI = x509.UniformResourceIdentifier


def verify(*chain, bundle=BUNDLE):
    return verify_x509_svid(chain_of(*chain), bundle, NOW)


def refused(why, *chain, bundle=BUNDLE):
    with pytest.raises(InvalidX509Svid, match=why):
        verify(*chain, bundle=bundle)


def raw(oid, der):
    """An extension of any content, non-critical."""
    return x509.UnrecognizedExtension(oid, der), False


def general_names(*names):
    """DER of a subjectAltName: names as (tag, content)."""
    body = b"".join(bytes((tag, len(content))) + content for tag, content in names)
    return raw(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, bytes((0x30, len(body))) + body)


@pytest.mark.conformance("ID-15", "X-3")
@pytest.mark.parametrize("uri", [WORKLOAD, "spiffe://example.org/" + "a" * (2048 - len("spiffe://example.org/"))])
def test_a_leaf_of_the_bundle_s_authority_proves_its_id(uri):
    presented = leaf(ROOT, uri)
    svid = verify(presented)

    assert svid.id == SpiffeId.parse(uri)
    assert svid.leaf == presented.certificate
    assert svid.not_after == NOW + HOUR


@pytest.mark.conformance("X-2")
@pytest.mark.parametrize("other", ["spiffe://example.org/other", WORKLOAD, "https://example.org/", "urn:x"])
def test_two_uris_are_refused(other):
    for uris in ((WORKLOAD, other), (other, WORKLOAD)):
        refused("more than one URI SAN", leaf(ROOT, extensions=[(sans(*uris), True)]))


@pytest.mark.conformance("X-2")
def test_a_leaf_without_uri_is_refused():
    dns_only = sans(others=[x509.DNSName("example.org")])

    refused("has no URI SAN", leaf(ROOT, extensions=[(dns_only, True)]))
    refused("has no URI SAN", leaf(ROOT, subject=WORKLOAD, without=[x509.SubjectAlternativeName]))


@pytest.mark.conformance("X-3")
def test_names_of_other_types_are_allowed():
    others = [
        x509.DNSName("web.example.org"),
        x509.DNSName("*.example.org"),
        x509.DNSName("under_score.example.org"),
        x509.IPAddress(ipaddress.ip_address("::1")),
        x509.RFC822Name("a@example.org"),
        x509.DirectoryName(ROOT.certificate.subject),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),
    ]

    assert verify(leaf(ROOT, extensions=[(sans(WORKLOAD, others=others), False)])).id.path == "/workload"


@pytest.mark.conformance("X-24", "ID-1")
@pytest.mark.parametrize(
    "uri", ["sparfe://example.org/x", "https://example.org/x", "SPIFFE://example.org/x", "urn:x", ""]
)
def test_a_uri_of_another_scheme_is_refused(uri):
    refused("malformed URI SAN: .*(scheme is missing or invalid|cannot be empty)", leaf(ROOT, uri))


@pytest.mark.conformance("ID-3", "ID-5", "ID-7", "ID-11", "ID-13", "ID-18")
@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://Example.org/x",
        "spiffe://example.org/x/",
        "spiffe://example.org//x",
        "spiffe://example.org/x?a",
        "spiffe://example.org/x\n",
        "spiffe://example.org:1/x",
        "spiffe:///x",
    ],
)
def test_a_uri_that_is_no_spiffe_id_is_refused(uri):
    refused("malformed URI SAN", leaf(ROOT, uri))


@pytest.mark.conformance("X-25", "X-4", "X-10")
def test_a_leaf_without_path_is_refused():
    refused("has no path: only a signing certificate may", leaf(ROOT, "spiffe://example.org"))


@pytest.mark.conformance("X-25")
def test_a_leaf_with_an_empty_path_is_refused():
    refused("malformed URI SAN: path cannot have a trailing slash", leaf(ROOT, "spiffe://example.org/"))


@pytest.mark.conformance("X-22", "X-4", "X-10")
def test_a_signing_certificate_is_refused_as_leaf():
    refused("has no path: only a signing certificate may", ca(ROOT))
    refused("must not have CA flag set to true", ca(ROOT, uri=WORKLOAD))
    refused("must not have CA flag set to true", leaf(ROOT, extensions=[(basic_constraints(ca=True), True)]))
    refused("has no path", ROOT)


@pytest.mark.conformance("X-23")
@pytest.mark.parametrize(("bit", "name"), [("key_cert_sign", "keyCertSign"), ("crl_sign", "cRLSign")])
def test_a_leaf_that_may_sign_certificates_or_lists_is_refused(bit, name):
    signs = usage("digital_signature", bit)

    refused(f"must not have '{name}' set as key usage", leaf(ROOT, extensions=[(signs, True)]))


def test_a_leaf_that_may_not_sign_or_says_nothing_of_it_is_refused():
    refused("must have 'digitalSignature' set", leaf(ROOT, extensions=[(usage("key_agreement"), True)]))
    refused("has no key usage", leaf(ROOT, without=[x509.KeyUsage]))


@pytest.mark.conformance("X-22")
def test_a_leaf_without_basic_constraints_is_no_ca():
    assert verify(leaf(ROOT, without=[x509.BasicConstraints])).id == SpiffeId.parse(WORKLOAD)


@pytest.mark.parametrize(
    "purposes",
    [
        [ExtendedKeyUsageOID.SERVER_AUTH],
        [ExtendedKeyUsageOID.CLIENT_AUTH],
        [ExtendedKeyUsageOID.CODE_SIGNING],
        [],
    ],
)
@pytest.mark.parametrize("critical", [True, False])
def test_extended_key_usage_does_not_decide(purposes, critical):
    if purposes:
        presented = leaf(ROOT, extensions=[(x509.ExtendedKeyUsage(purposes), critical)])
    else:
        presented = leaf(ROOT, without=[x509.ExtendedKeyUsage])

    assert verify(presented).id == SpiffeId.parse(WORKLOAD)


def test_a_short_rsa_key_is_refused():
    refused("RSA key has 1024 bits, fewer than 2048", leaf(ROOT, shape=Shape(key=rsa_key(1024))))


@pytest.mark.conformance("ID-23", "BD-12", "F-7")
def test_another_trust_domain_s_authority_vouches_for_nobody_here():
    foreign = ca(uri="spiffe://example.com")
    stolen = leaf(foreign, WORKLOAD)

    refused("does not chain to an X.509 authority", stolen)
    refused('is not of trust domain "example.com"', stolen, bundle=bundle_of(foreign, trust_domain="example.com"))
    assert verify(leaf(foreign, "spiffe://example.com/x"), bundle=bundle_of(foreign, trust_domain="example.com"))


@pytest.mark.conformance("ID-23")
def test_a_trust_domain_that_only_looks_alike_is_another():
    for name in ("example.or", "example.orgg", "xexample.org", "a.example.org"):
        refused('is not of trust domain "example.org"', leaf(ROOT, f"spiffe://{name}/workload"))


@pytest.mark.conformance("BD-8", "X-32", "W-12")
def test_an_empty_bundle_vouches_for_nobody():
    refused("the bundle has no X.509 authority", leaf(ROOT), bundle=bundle_of())


@pytest.mark.conformance("X-32", "W-22")
def test_a_jwt_authority_vouches_for_no_x509_svid():
    der = ROOT.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    bundle = Bundle(TrustDomain("example.org"), (), (JwtAuthority("same-key", der),))

    refused("the bundle has no X.509 authority", leaf(ROOT), bundle=bundle)


def test_a_tainted_authority_still_vouches_until_it_is_revoked():
    tainted = Bundle(TrustDomain("example.org"), (X509Authority(ROOT.der, tainted=True),))

    assert verify(leaf(ROOT), bundle=tainted).id == SpiffeId.parse(WORKLOAD)


@pytest.mark.parametrize(
    "extension",
    [
        general_names((0x86, WORKLOAD.encode()), (0xA3, b"\x30\x00")),  # x400Address
        general_names((0x86, WORKLOAD.encode()), (0xA5, b"\x30\x00")),  # ediPartyName
        general_names((0x86, WORKLOAD.encode()), (0x87, b"\1")),  # an address of one byte
        general_names((0x86, b"\xff\xfe")),
        raw(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b""),
        raw(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x05\x00"),
        raw(ExtensionOID.KEY_USAGE, b"\x30\x00"),
        raw(ExtensionOID.BASIC_CONSTRAINTS, b"\x05\x00"),
        raw(ExtensionOID.BASIC_CONSTRAINTS, b"\x30\x03\x01\x01\x00"),  # DER leaves FALSE out
        raw(ExtensionOID.BASIC_CONSTRAINTS, b"\x30\x03\x01\x01\x01"),  # DER's TRUE is 0xFF
        raw(ExtensionOID.EXTENDED_KEY_USAGE, b"\x30\x00"),
        raw(ExtensionOID.AUTHORITY_KEY_IDENTIFIER, b"\x05\x00"),
        raw(ExtensionOID.NAME_CONSTRAINTS, b"\x30\x00"),
        raw(ExtensionOID.CRL_DISTRIBUTION_POINTS, b"\x30\x02\x30\x00"),
        raw(ExtensionOID.TLS_FEATURE, b"\x30\x03\x02\x01\x63"),
        raw(ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS, b"\x04\x00"),
    ],
    ids=lambda extension: extension[0].value.hex()[:24] or "empty",
)
def test_malformed_extensions_are_refused(extension):
    presented = leaf(ROOT, extensions=[extension])

    refused("malformed certificate extensions", presented)
    for read in (id_of, check_leaf, is_ca, subject_key_id, authority_key_id):
        with pytest.raises(InvalidX509Svid, match="malformed certificate extensions"):
            read(presented.certificate)


def test_a_chain_is_read_from_concatenated_der_or_one_by_one():
    intermediate = ca(ROOT, subject="intermediate")
    presented = leaf(intermediate)
    expected = chain_of(presented, intermediate)

    assert parse_chain(presented.der + intermediate.der) == expected
    assert parse_chain([presented.der, intermediate.der]) == expected


@pytest.mark.parametrize(
    ("der", "why"),
    [
        (b"", "has 0 certificates, not 1 to 10"),
        ([], "has 0 certificates, not 1 to 10"),
        (ROOT.der * (MAX_CHAIN + 1), "more than 10 certificates"),
        ([ROOT.der] * (MAX_CHAIN + 1), "has 11 certificates, not 1 to 10"),
        (b"\x30\x00" * 10**6, "more than 10 certificates"),
        (ROOT.der[:-1], "truncated certificate"),
        (ROOT.der + b"\0", "no DER SEQUENCE"),
        ([ROOT.der + b"\0"], "malformed certificate"),
        ([b""], "malformed certificate"),
        ([b"\x30\x00"], "malformed certificate"),
        (b"-----BEGIN CERTIFICATE-----\n", "no DER SEQUENCE"),
        ([b"\x30" * 70_000], "longer than 65536 bytes"),
    ],
    ids=[
        "empty",
        "none",
        "11",
        "11 by one",
        "million",
        "short",
        "trailing",
        "trailing by one",
        "nothing",
        "sequence",
        "PEM",
        "long",
    ],
)
def test_what_is_no_chain_is_refused(der, why):
    with pytest.raises(InvalidX509Svid, match=why):
        parse_chain(der)


def test_the_longest_chain_is_read():
    assert len(parse_chain(ROOT.der * MAX_CHAIN)) == MAX_CHAIN


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.SECP224R1()])
def test_a_key_on_another_curve_is_refused(curve):
    presented = leaf(ROOT, shape=Shape(key=ec.generate_private_key(curve)))

    with pytest.raises(InvalidX509Svid, match=re.escape(f"certificate's key is on curve {curve.name}")):
        parse_chain(presented.der)


def test_a_refusal_stays_short_whatever_was_sent():
    long = "spiffe://example.org/" + "%" * 30_000
    presented = leaf(ROOT, long, subject="x" * 60)
    for one in (presented, leaf(ca(subject="ROOT"), subject="y" * 60), leaf(ROOT, "spiffe://" + "a" * 30_000)):
        with pytest.raises(InvalidX509Svid) as refusal:
            verify(one)
        assert len(str(refusal.value)) < 400


def test_key_identifiers_are_read_or_computed():
    presented = leaf(ROOT)
    bare = leaf(ROOT, without=[x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier])
    key = presented.private_key.public_key()

    assert subject_key_id(presented.certificate) == x509.SubjectKeyIdentifier.from_public_key(key).digest
    assert authority_key_id(presented.certificate) == subject_key_id(ROOT.certificate)
    assert len(subject_key_id(bare.certificate)) == 20
    assert authority_key_id(bare.certificate) == b""
    by_name = x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(ROOT.certificate.subject)], 1)
    assert authority_key_id(leaf(ROOT, extensions=[(by_name, False)]).certificate) == b""
