"""What our certificates contain, field by field (X509-SVID.md §4, and SPIRE's templates)."""

from datetime import UTC, datetime, timedelta
from hashlib import sha1

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hsm_ca import templates
from hsm_ca.authority_key import Kind
from hsm_ca.policy import CaSubject
from hsm_ca.x509_authority import X509Issuer, certificate_request, x509_authority_id
from keymanagers.base import KeyType
from spiffe_core.errors import InvalidConfig
from spiffe_core.ids import SpiffeId
from spiffe_core.x509svid import id_of, parse_chain
from tests.support.authorities import LEAF_KEY, TD, WORKLOAD, authority_key, svid_request
from tests.support.certificates import rsa_key

NOW = datetime(2030, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)
DAY = timedelta(days=1)
KINDS = (Kind.WORKLOAD_X509_SVID, Kind.AGENT_X509_SVID, Kind.SERVER_X509_SVID)
DEFAULT_SUBJECT = CaSubject()
KEY_TYPES = list(KeyType)


def authority(key_type=KeyType.EC_P256, subject=DEFAULT_SUBJECT, ttl=DAY, now=NOW):
    return X509Issuer.self_signed(authority_key(key_type), TD, subject, ttl, now)


ISSUER = authority()


def leaf(issuer=ISSUER, now=NOW, **request):
    return parse_chain(issuer.issue(svid_request(**request), now).chain)[0]


def value(certificate, kind):
    """An extension and whether it is critical."""
    extension = certificate.extensions.get_extension_for_class(kind)
    return extension.value, extension.critical


def bits(usage):
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
    )
    return {name for name in names if getattr(usage, name)}


def text(name):
    return name.rfc4514_string({NameOID.SERIAL_NUMBER: "serialNumber"})


def public_bits(key):
    """The content of the subjectPublicKey BIT STRING, cut out of the DER of the key."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


# -- SVIDs


@pytest.mark.conformance("X-1", "ID-21")
@pytest.mark.parametrize("kind", KINDS)
def test_an_svid_has_one_uri_its_id_beside_the_key_that_it_is_for(kind):
    certificate = leaf(kind=kind, spiffe_id=SpiffeId(TD, "/a/b"))
    names, _ = value(certificate, x509.SubjectAlternativeName)
    assert [name.value for name in names] == ["spiffe://example.org/a/b"]
    assert certificate.public_key() == LEAF_KEY
    certificate.verify_directly_issued_by(ISSUER.certificate)  # both lie in what is signed


@pytest.mark.conformance("ID-21")
@pytest.mark.parametrize("what", ["id", "key"])
def test_an_id_or_a_key_that_is_changed_breaks_the_signature(what):
    certificate = leaf()
    der = certificate.public_bytes(Encoding.DER)
    old = b"spiffe://example.org/workload" if what == "id" else public_bits(LEAF_KEY)
    new = (
        b"spiffe://example.org/w0rkload"
        if what == "id"
        else public_bits(ec.generate_private_key(ec.SECP256R1()).public_key())
    )
    forged = x509.load_der_x509_certificate(der.replace(old, new))
    with pytest.raises(InvalidSignature):
        forged.verify_directly_issued_by(ISSUER.certificate)


def test_an_id_of_2048_bytes_is_written_whole():
    spiffe_id = SpiffeId(TD, "/" + "p" * (2048 - len("spiffe://example.org/")))
    assert id_of(leaf(spiffe_id=spiffe_id)) == spiffe_id


@pytest.mark.conformance("X-12")
@pytest.mark.parametrize("kind", KINDS)
def test_an_svid_is_no_ca_and_says_so_critically_without_path_length(kind):
    constraints, critical = value(leaf(kind=kind), x509.BasicConstraints)
    assert (constraints.ca, constraints.path_length, critical) == (False, None, True)


@pytest.mark.conformance("X-15", "X-17", "X-18", "X-19")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [LEAF_KEY, rsa_key(2048).public_key()], ids=["ec", "rsa"])
def test_an_svid_signs_enciphers_keys_and_agrees_on_them_and_nothing_else(kind, key):
    usage, critical = value(leaf(kind=kind, public_key=key), x509.KeyUsage)
    assert bits(usage) == {"digital_signature", "key_encipherment", "key_agreement"}
    assert critical


@pytest.mark.conformance("X-20")
@pytest.mark.parametrize("kind", KINDS)
def test_an_svid_is_for_servers_and_clients(kind):
    usage, critical = value(leaf(kind=kind), x509.ExtendedKeyUsage)
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not critical


@pytest.mark.parametrize("kind", KINDS)
def test_an_svid_is_of_spire_in_the_us(kind):
    assert text(leaf(kind=kind).subject) == "O=SPIRE,C=US"


def test_dns_names_come_in_their_order_before_the_id_and_the_first_is_the_common_name():
    certificate = leaf(dns_names=("b.test", "a.test", "*.c.test"))
    names, critical = value(certificate, x509.SubjectAlternativeName)
    assert [name.value for name in names] == ["b.test", "a.test", "*.c.test", str(WORKLOAD)]
    assert not critical
    assert text(certificate.subject) == "CN=b.test,O=SPIRE,C=US"


def test_a_dns_name_of_more_than_64_characters_is_a_common_name_too():
    name = "a" * 60 + ".example.test"
    der = ISSUER.issue(svid_request(dns_names=(name,)), NOW).chain[0]
    # To read it as a name is to be warned of it: what is looked for is the attribute's DER.
    assert b"\x06\x03\x55\x04\x03\x13" + bytes([len(name)]) + name.encode() in der
    x509.load_der_x509_certificate(der).verify_directly_issued_by(ISSUER.certificate)


def test_a_given_subject_replaces_ours_and_a_dns_name_its_common_name():
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "mine"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Acme")]
    )
    assert leaf(subject=subject).subject == subject
    assert text(leaf(subject=subject, dns_names=("a.test",)).subject) == "CN=a.test,O=Acme"


@pytest.mark.conformance("X-6")
def test_the_san_is_critical_exactly_when_there_is_no_subject():
    nobody = leaf(subject=x509.Name([]))
    assert not list(nobody.subject)
    assert value(nobody, x509.SubjectAlternativeName)[1]
    assert not value(leaf(), x509.SubjectAlternativeName)[1]
    assert not value(leaf(subject=x509.Name([]), dns_names=("a.test",)), x509.SubjectAlternativeName)[1]


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_leaf_names_its_issuer_by_subject_and_by_key(key_type):
    issuer = authority(key_type)
    certificate = leaf(issuer)
    identifier, critical = value(certificate, x509.AuthorityKeyIdentifier)
    assert identifier.key_identifier == sha1(public_bits(issuer.certificate.public_key())).digest()
    assert (identifier.authority_cert_issuer, identifier.authority_cert_serial_number, critical) == (None, None, False)
    assert certificate.issuer == issuer.certificate.subject
    certificate.verify_directly_issued_by(issuer.certificate)


@pytest.mark.parametrize("key", [LEAF_KEY, rsa_key(2048).public_key()], ids=["ec", "rsa"])
def test_a_key_is_identified_by_the_sha_1_of_its_bits(key):
    identifier, critical = value(leaf(public_key=key), x509.SubjectKeyIdentifier)
    assert identifier.digest == sha1(public_bits(key)).digest() == templates.key_identifier(key)
    assert not critical


@pytest.mark.parametrize("dns_names", [(), ("a.test",)], ids=["plain", "dns"])
def test_extensions_are_these_in_gos_order_and_the_version_is_3(dns_names):
    certificate = leaf(dns_names=dns_names)
    assert certificate.version is x509.Version.v3
    assert [type(extension.value) for extension in certificate.extensions] == [
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.BasicConstraints,
        x509.SubjectKeyIdentifier,
        x509.AuthorityKeyIdentifier,
        x509.SubjectAlternativeName,
    ]
    assert [type(extension.value) for extension in ISSUER.certificate.extensions] == [
        x509.KeyUsage,
        x509.BasicConstraints,
        x509.SubjectKeyIdentifier,
        x509.SubjectAlternativeName,
    ]


def test_names_are_printable_strings_where_they_can_be_as_go_writes_them():
    der = leaf().public_bytes(Encoding.DER)
    assert bytes.fromhex("301d310b3009060355040613025553310e300c060355040a13055350495245") in der
    odd = authority(subject=CaSubject(organization=("A*C & Co",), common_name="Größe")).certificate
    der = odd.public_bytes(Encoding.DER)
    assert b"\x55\x04\x0a\x0c\x08A*C & Co" in der
    assert b"\x55\x04\x03\x0c\x07" + "Größe".encode() in der
    assert b"\x55\x04\x06\x13\x02US" in der
    assert odd.subject == odd.issuer


# -- lifetimes and serial numbers


def test_an_svid_begins_ten_seconds_ago_and_ends_after_its_ttl():
    certificate = leaf(ttl=timedelta(minutes=5))
    assert certificate.not_valid_before_utc == datetime(2030, 1, 1, 11, 59, 50, tzinfo=UTC)
    assert certificate.not_valid_after_utc == datetime(2030, 1, 1, 12, 5, 0, tzinfo=UTC)


def test_an_svid_never_outlives_its_authority():
    late = NOW + DAY - timedelta(minutes=1)
    certificate = leaf(now=late, ttl=timedelta(hours=1))
    assert certificate.not_valid_after_utc == ISSUER.certificate.not_valid_after_utc


def test_dates_from_2050_on_are_written_in_four_digits():
    issuer = authority(now=datetime(2049, 12, 31, 23, 0, tzinfo=UTC))
    certificate = issuer.certificate
    assert certificate.not_valid_after_utc == datetime(2050, 1, 1, 23, 0, tzinfo=UTC)
    der = certificate.public_bytes(Encoding.DER)
    assert b"\x17\x0d491231225950Z\x18\x0f20500101230000Z" in der


def test_serial_numbers_are_random_from_1_to_2_to_the_128_minus_1():
    drawn = [templates.new_serial() for _ in range(2000)]
    assert len(set(drawn)) == 2000
    assert min(drawn) >= 1
    assert max(drawn) < 2**128
    assert max(drawn) > 2**127  # a 128th bit is used
    assert leaf().serial_number != leaf().serial_number


# -- CA certificates


@pytest.mark.conformance("ID-19", "ID-20", "X-7", "X-8", "X-9")
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_an_authority_is_an_svid_of_the_trust_domain_itself(key_type):
    issuer = authority(key_type)
    names, critical = value(issuer.certificate, x509.SubjectAlternativeName)
    assert [name.value for name in names] == ["spiffe://example.org"]
    assert not critical
    assert id_of(issuer.certificate) == TD.id
    assert id_of(leaf(issuer)).trust_domain == id_of(issuer.certificate).trust_domain


@pytest.mark.conformance("X-11", "X-15", "X-16")
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_an_authority_signs_certificates_and_revocation_lists_and_nothing_else(key_type):
    certificate = authority(key_type).certificate
    constraints, critical = value(certificate, x509.BasicConstraints)
    assert (constraints.ca, constraints.path_length, critical) == (True, None, True)
    usage, critical = value(certificate, x509.KeyUsage)
    assert bits(usage) == {"key_cert_sign", "crl_sign"}
    assert critical
    with pytest.raises(x509.ExtensionNotFound):
        value(certificate, x509.ExtendedKeyUsage)


def test_a_self_signed_authority_has_no_authority_key_identifier():
    issuer = authority()
    with pytest.raises(x509.ExtensionNotFound):
        value(issuer.certificate, x509.AuthorityKeyIdentifier)
    assert issuer.upstream_authority_id == ""
    issuer.certificate.verify_directly_issued_by(issuer.certificate)


def test_an_authority_is_named_by_its_subject_key_identifier():
    issuer = authority()
    identifier, _ = value(issuer.certificate, x509.SubjectKeyIdentifier)
    assert x509_authority_id(issuer.key.public) == identifier.digest.hex()


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (CaSubject(), "serialNumber=%d,O=SPIFFE,C=US"),
        (CaSubject(country=("DE",), organization=("Acme",), common_name="CA"), "serialNumber=%d,CN=CA,O=Acme,C=DE"),
        (CaSubject(country=(), organization=(), common_name="CA"), "serialNumber=%d,CN=CA"),
        (CaSubject(country=("US", "DE"), organization=("Acme",)), "serialNumber=%d,O=Acme,C=DE+C=US"),
        (CaSubject(country=("DE", "DE"), organization=("",)), "serialNumber=%d,C=DE"),
    ],
    ids=["default", "all", "name only", "two countries", "twice the same"],
)
def test_a_ca_subject_is_in_gos_order_and_ends_with_the_serial_number(subject, expected):
    certificate = authority(subject=subject).certificate
    assert text(certificate.subject) == expected % certificate.serial_number


@pytest.mark.parametrize(
    "parts", [{"country": ("USA",)}, {"common_name": "x" * 65}], ids=["country of three letters", "long name"]
)
def test_a_ca_subject_that_no_certificate_can_hold_is_refused_at_the_start(parts):
    with pytest.raises(InvalidConfig, match=r"^ca_subject: "):
        CaSubject(**parts)


def test_two_authorities_have_two_names():
    assert authority().certificate.subject != authority().certificate.subject


def test_an_authority_begins_ten_seconds_ago_and_lives_for_its_ttl():
    certificate = authority(ttl=timedelta(hours=2)).certificate
    assert certificate.not_valid_before_utc == datetime(2030, 1, 1, 11, 59, 50, tzinfo=UTC)
    assert certificate.not_valid_after_utc == datetime(2030, 1, 1, 14, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("key_type", "algorithm"),
    [
        (KeyType.EC_P256, "1.2.840.10045.4.3.2"),
        (KeyType.EC_P384, "1.2.840.10045.4.3.3"),
        (KeyType.RSA_2048, "1.2.840.113549.1.1.11"),
        (KeyType.RSA_4096, "1.2.840.113549.1.1.11"),
    ],
)
def test_certificates_are_signed_as_go_signs_with_such_a_key(key_type, algorithm):
    issuer = authority(key_type)
    for certificate in (issuer.certificate, leaf(issuer)):
        assert certificate.signature_algorithm_oid.dotted_string == algorithm


# -- the request to an upstream


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_an_upstream_is_asked_for_the_trust_domain_by_a_request_that_the_key_signs(key_type):
    key = authority_key(key_type)
    csr = x509.load_der_x509_csr(certificate_request(key, TD, CaSubject(common_name="CA")))
    assert csr.is_signature_valid
    assert csr.public_key() == key.public
    assert text(csr.subject) == "CN=CA,O=SPIFFE,C=US"
    (extension,) = csr.extensions
    assert [name.value for name in extension.value] == ["spiffe://example.org"]
