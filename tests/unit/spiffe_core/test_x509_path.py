"""The path from a leaf to an authority of the bundle: RFC 5280, and what an attacker may try (X509-SVID.md §5.1)."""

from datetime import UTC, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID
from hypothesis import given, settings
from hypothesis import strategies as st

from spiffe_core.bundle import Bundle, X509Authority
from spiffe_core.errors import InvalidX509Svid, SpiffeError
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.x509svid import MAX_CHAIN, parse_chain, verify_x509_svid
from tests.support.certificates import (
    HOUR,
    NOW,
    WORKLOAD,
    Certified,
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
INTERMEDIATE = ca(ROOT, subject="intermediate")
LEAF = leaf(INTERMEDIATE)
SECOND = timedelta(seconds=1)
PAST = (NOW - 2 * HOUR, NOW - SECOND)
FUTURE = (NOW + SECOND, NOW + 2 * HOUR)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
NO_PATH = "does not chain to an X.509 authority of trust domain"


def verify(*chain, bundle=BUNDLE, now=NOW):
    return verify_x509_svid(chain_of(*chain), bundle, now)


def proves(*chain, bundle=BUNDLE):
    """Verify, and check that the path is what was presented."""
    svid = verify(*chain, bundle=bundle)
    assert svid.id == SpiffeId.parse(WORKLOAD)
    assert svid.chain == chain_of(*chain)


def refused(why, *chain, bundle=BUNDLE, now=NOW):
    with pytest.raises(InvalidX509Svid, match=why):
        verify(*chain, bundle=bundle, now=now)


def intermediates(count, root=ROOT):
    """That many intermediates, the leaf's issuer first."""
    chain = [root]
    for number in range(count):
        chain.insert(0, ca(chain[0], subject=f"intermediate {number}"))
    return chain[:-1]


def with_bad_signature(certified):
    """The certificate with one bit of its signature changed."""
    der = certified.der
    return Certified(x509.load_der_x509_certificate(der[:-1] + bytes((der[-1] ^ 1,))), certified.private_key)


@pytest.mark.conformance("X-21")
def test_a_path_leads_through_intermediates():
    proves(leaf(ROOT))
    proves(LEAF, INTERMEDIATE)


@pytest.mark.conformance("X-21")
def test_an_expired_leaf_is_refused():
    refused("certificate has expired: not after 2029-12-31T23:59:59Z", leaf(ROOT, shape=Shape(validity=PAST)))


@pytest.mark.conformance("X-21")
def test_a_leaf_from_the_future_is_refused():
    refused("certificate is not yet valid: not before 2030-01-01T00:00:01Z", leaf(ROOT, shape=Shape(validity=FUTURE)))


@pytest.mark.conformance("X-21")
@pytest.mark.parametrize(("validity", "why"), [(PAST, "certificate has expired"), (FUTURE, "is not yet valid")])
def test_an_intermediate_outside_its_validity_is_refused(validity, why):
    issuer = ca(ROOT, Shape(validity=validity), subject="intermediate")

    refused(why, leaf(issuer), issuer)


@pytest.mark.conformance("X-21")
@pytest.mark.parametrize("validity", [PAST, FUTURE])
def test_an_authority_outside_its_validity_is_refused(validity):
    root = ca(shape=Shape(validity=validity))

    refused(NO_PATH, leaf(root), bundle=bundle_of(root))


@pytest.mark.conformance("X-21")
def test_validity_ends_with_its_last_second_whatever_the_time_zone():
    presented = leaf(ROOT, shape=Shape(validity=(NOW - 5 * SECOND, NOW + 5 * SECOND)))

    for zone in (UTC, timezone(timedelta(hours=5)), timezone(timedelta(hours=-11))):
        now = NOW.astimezone(zone)
        for moment in (now - 5 * SECOND, now, now + 5 * SECOND):
            assert verify(presented, now=moment)
        refused("not yet valid", presented, now=now - 6 * SECOND)
        refused("expired", presented, now=now + 5 * SECOND + timedelta(microseconds=1))


def test_an_expired_certificate_that_is_not_on_the_path_does_no_harm():
    stray = ca(ROOT, Shape(validity=PAST), subject="stray")

    assert verify(LEAF, stray, INTERMEDIATE).chain == chain_of(LEAF, INTERMEDIATE)


@pytest.mark.conformance("X-21")
def test_a_bad_signature_is_refused():
    refused(NO_PATH, with_bad_signature(leaf(ROOT)))
    refused(NO_PATH, LEAF, with_bad_signature(INTERMEDIATE))


@pytest.mark.conformance("X-21")
def test_a_leaf_signed_by_a_key_of_the_authority_s_name_only_is_refused():
    impostor = ca()

    refused(NO_PATH, leaf(impostor))
    refused(NO_PATH, leaf(impostor), impostor)
    refused(NO_PATH, leaf(impostor), ROOT)


@pytest.mark.conformance("X-21")
def test_a_missing_intermediate_is_refused():
    refused(NO_PATH, LEAF)


@pytest.mark.conformance("X-21", "X-22", "X-23")
def test_a_leaf_issues_nothing():
    issuer = leaf(ROOT, "spiffe://example.org/issuer", subject="issuer")

    refused(NO_PATH, leaf(issuer), issuer)


@pytest.mark.conformance("X-21")
@pytest.mark.parametrize(
    "bend",
    [
        {"extensions": [(basic_constraints(ca=False), True)]},
        {"without": [x509.BasicConstraints]},
        {"extensions": [(usage("crl_sign"), True)]},
        {"extensions": [(usage("digital_signature"), True)]},
    ],
    ids=["no cA", "no basic constraints", "cRLSign only", "digitalSignature only"],
)
def test_an_intermediate_that_may_sign_no_certificates_is_refused(bend):
    issuer = ca(ROOT, subject="intermediate", **bend)

    refused(NO_PATH, leaf(issuer), issuer)


@pytest.mark.parametrize(
    ("bend", "why"),
    [
        ({"extensions": [(basic_constraints(ca=False), True)]}, "the bundle has no X.509 authority"),
        ({"without": [x509.BasicConstraints]}, "the bundle has no X.509 authority"),
        ({"extensions": [(usage("crl_sign"), True)]}, "lacks keyCertSign"),
    ],
    ids=["no cA", "no basic constraints", "cRLSign only"],
)
def test_an_authority_that_may_sign_no_certificates_is_none(bend, why):
    root = ca(**bend)

    refused(why, leaf(root), bundle=bundle_of(root))


@pytest.mark.conformance("X-21")
def test_a_certificate_authority_may_leave_key_usage_away():
    root = ca(without=[x509.KeyUsage])
    issuer = ca(root, subject="intermediate", without=[x509.KeyUsage])

    proves(leaf(issuer), issuer, bundle=bundle_of(root))


@pytest.mark.conformance("X-13", "X-21")
def test_path_lengths_are_kept():
    for allowed in (0, 1, 2):
        root = ca(path_length=allowed)
        proves(leaf(root), bundle=bundle_of(root))
        chain = intermediates(allowed, root)
        proves(leaf([*chain, root][0]), *chain, bundle=bundle_of(root))
        chain = intermediates(allowed + 1, root)
        refused("path length constraint violated", leaf(chain[0]), *chain, bundle=bundle_of(root))


@pytest.mark.conformance("X-13", "X-21")
def test_path_lengths_of_intermediates_are_kept():
    upper = ca(ROOT, subject="upper", path_length=0)
    lower = ca(upper, subject="lower")

    proves(leaf(upper), upper)
    refused(NO_PATH, leaf(lower), lower, upper)


@pytest.mark.conformance("X-21")
def test_an_unknown_critical_extension_is_refused():
    refused("unaccounted-for critical extensions", leaf(ROOT, extensions=[(UNKNOWN, True)]))
    issuer = ca(ROOT, subject="intermediate", extensions=[(UNKNOWN, True)])
    refused(NO_PATH, leaf(issuer), issuer)
    root = ca(extensions=[(UNKNOWN, True)])
    refused("unaccounted-for critical extensions", leaf(root), bundle=bundle_of(root))


@pytest.mark.conformance("X-21")
def test_an_unknown_extension_that_is_not_critical_is_ignored():
    root = ca(extensions=[(UNKNOWN, False)])
    issuer = ca(root, subject="intermediate", extensions=[(UNKNOWN, False)])

    proves(leaf(issuer, extensions=[(UNKNOWN, False)]), issuer, bundle=bundle_of(root))


@pytest.mark.conformance("X-21")
@pytest.mark.parametrize(
    "extension",
    [
        x509.PolicyConstraints(0, 0),
        x509.InhibitAnyPolicy(0),
        x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)]),
    ],
    ids=lambda extension: type(extension).__name__,
)
def test_a_critical_extension_that_is_not_processed_is_refused(extension):
    refused("unaccounted-for critical extensions", leaf(ROOT, extensions=[(extension, True)]))


@pytest.mark.conformance("X-14")
@pytest.mark.parametrize(
    "constraint",
    [
        x509.NameConstraints([x509.UniformResourceIdentifier("example.com")], None),
        x509.NameConstraints(None, [x509.UniformResourceIdentifier("example.org")]),
        x509.NameConstraints([x509.UniformResourceIdentifier("example.org")], None),
    ],
    ids=["permitted elsewhere", "excluded here", "permitted here"],
)
def test_a_path_with_constraints_on_uris_is_refused(constraint):
    root = ca(extensions=[(constraint, True)])
    issuer = ca(ROOT, subject="intermediate", extensions=[(constraint, True)])

    refused("unsupported name constraint", leaf(root), bundle=bundle_of(root))
    refused("unsupported name constraint", leaf(issuer), issuer)


@pytest.mark.conformance("X-21")
def test_constraints_on_dns_names_are_kept():
    constraint = x509.NameConstraints([x509.DNSName("good.example")], None)
    root = ca(extensions=[(constraint, True)])

    def with_name(name):
        return leaf(root, extensions=[(sans(WORKLOAD, others=[x509.DNSName(name)]), False)])

    proves(with_name("a.good.example"), bundle=bundle_of(root))
    refused("no permitted name constraints matched SAN", with_name("a.bad.example"), bundle=bundle_of(root))


def test_intermediates_come_in_any_order_and_the_path_is_in_order():
    lower, middle, upper = intermediates(3)
    presented = leaf(lower)

    svid = verify(presented, upper, lower, middle)

    assert svid.chain == chain_of(presented, lower, middle, upper)


def test_what_was_presented_and_is_not_on_the_path_is_not_in_the_answer():
    unrelated = ca(subject="unrelated")

    assert verify(LEAF, unrelated, LEAF, INTERMEDIATE, ROOT).chain == chain_of(LEAF, INTERMEDIATE)
    direct = leaf(ROOT)
    assert verify(direct, ROOT).chain == chain_of(direct)


def test_an_authority_need_not_be_self_signed():
    proves(LEAF, bundle=bundle_of(INTERMEDIATE))
    assert verify(LEAF, INTERMEDIATE, bundle=bundle_of(INTERMEDIATE)).chain == chain_of(LEAF)


@pytest.mark.conformance("X-4")
def test_a_leaf_in_the_bundle_vouches_for_nobody_itself_included():
    self_signed = leaf(None, subject="leaf")
    bare = leaf(None, subject="leaf", without=[x509.BasicConstraints])

    for one in (self_signed, bare):
        refused("the bundle has no X.509 authority", one, bundle=bundle_of(one))
        refused(NO_PATH, one, bundle=bundle_of(one, ROOT))
    issued = leaf(INTERMEDIATE)
    refused(NO_PATH, issued, bundle=bundle_of(issued, ROOT))


def test_authorities_of_one_name_are_told_apart():
    roots = [ca() for _ in range(30)]
    everything = bundle_of(*roots)

    for root in (roots[0], roots[15], roots[-1]):
        proves(leaf(root), bundle=everything)
        proves(leaf(root, without=[x509.AuthorityKeyIdentifier, x509.SubjectKeyIdentifier]), bundle=everything)
    refused(NO_PATH, leaf(ca()), bundle=everything)


def test_an_expired_authority_of_the_same_name_does_no_harm():
    for order in (bundle_of(ca(shape=Shape(validity=PAST)), ROOT), bundle_of(ROOT, ca(shape=Shape(validity=PAST)))):
        proves(leaf(ROOT), bundle=order)


def test_an_authority_renewed_with_its_key_vouches_for_what_either_signed():
    old = ca()
    renewed = ca(shape=Shape(key=old.private_key))

    proves(leaf(old), bundle=bundle_of(renewed))
    proves(leaf(renewed), bundle=bundle_of(old))


def test_an_authority_is_found_by_either_of_two_cross_signed_certificates():
    other = ca(subject="other root")
    key = Shape(key=ec.generate_private_key(ec.SECP256R1()))
    by_root, by_other = ca(ROOT, key, subject="intermediate"), ca(other, key, subject="intermediate")
    presented = leaf(by_root)

    assert verify(presented, by_other, by_root).chain == chain_of(presented, by_root)
    assert verify(presented, by_other, by_root, bundle=bundle_of(other)).chain == chain_of(presented, by_other)


def test_key_identifiers_are_hints_and_no_proof():
    wrong = x509.AuthorityKeyIdentifier(b"1" * 20, None, None)
    by_name = x509.AuthorityKeyIdentifier(b"1" * 20, [x509.DirectoryName(x509.Name([]))], 5)
    right = x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT.private_key.public_key())

    proves(leaf(ROOT, extensions=[(wrong, False)]))
    proves(leaf(ROOT, extensions=[(by_name, False)]))
    refused(NO_PATH, leaf(ca(), extensions=[(right, False)]))


@pytest.mark.parametrize("serial", [1, 127, 128, 2**63, 2**64 - 1, 2**159 - 1])
def test_any_positive_serial_number_will_do(serial):
    proves(leaf(ROOT, shape=Shape(serial=serial)))


def test_an_authority_needs_neither_id_nor_common_root_subject():
    plain = ca(subject="corporate root", without=[x509.SubjectAlternativeName])

    proves(leaf(plain), bundle=bundle_of(plain))


def test_an_authority_without_name_cannot_be_used():
    nameless = ca(subject="", uri="spiffe://example.org")

    refused("non-empty Issuer", leaf(nameless), bundle=bundle_of(nameless))


SIGNERS = {
    "P-256 SHA-384": (ec.SECP256R1(), hashes.SHA384()),
    "P-256 SHA-512": (ec.SECP256R1(), hashes.SHA512()),
    "P-384 SHA-384": (ec.SECP384R1(), hashes.SHA384()),
    "P-521 SHA-512": (ec.SECP521R1(), hashes.SHA512()),
    "RSA-2048 SHA-256": (2048, hashes.SHA256()),
    "RSA-4096 SHA-512": (4096, hashes.SHA512()),
}


@pytest.mark.parametrize(("kind", "algorithm"), SIGNERS.values(), ids=SIGNERS)
def test_strong_keys_and_hashes_sign(kind, algorithm):
    key = rsa_key(kind) if isinstance(kind, int) else ec.generate_private_key(kind)
    shape = Shape(key=key, algorithm=algorithm)
    root = ca(shape=shape)
    issuer = ca(root, shape, subject="intermediate")

    proves(leaf(issuer, shape=shape), issuer, bundle=bundle_of(root))


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda a: a.name)
def test_rsa_pss_signs(algorithm):
    pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH)
    shape = Shape(key=rsa_key(2048), algorithm=algorithm, rsa_padding=pss)
    root = ca(shape=shape)

    proves(leaf(root, shape=shape), bundle=bundle_of(root))


@pytest.mark.conformance("X-21")
def test_weak_keys_and_hashes_do_not():
    short = ca(shape=Shape(key=rsa_key(1024)))
    refused("RSA key is too weak", leaf(short), bundle=bundle_of(short))
    issuer = ca(ROOT, Shape(key=rsa_key(1024)), subject="intermediate")
    refused(NO_PATH, leaf(issuer), issuer)
    refused("Forbidden signature algorithm", leaf(ROOT, shape=Shape(algorithm=hashes.SHA224())))


def test_a_path_of_the_longest_chain_is_found_and_a_longer_one_is_not():
    chain = intermediates(MAX_CHAIN + 1)

    proves(leaf(chain[2]), *chain[2:])
    assert len(chain[2:]) == MAX_CHAIN - 1
    refused(NO_PATH, leaf(chain[0]), *chain)


def test_intermediates_that_all_sign_each_other_cost_a_bounded_search():
    key = Shape(key=ec.generate_private_key(ec.SECP256R1()))
    first = ca(shape=key, subject="maze")
    maze = [ca(first, key, subject="maze") for _ in range(MAX_CHAIN - 1)]

    # Without a bound the search would try 9^9 paths and never end.
    refused("maximum signature check limit", leaf(first), *maze)


def test_junk_in_the_bundle_does_not_spoil_its_authorities():
    malformed = x509.UnrecognizedExtension(ExtensionOID.TLS_FEATURE, b"\x30\x03\x02\x01\x63")
    junk = (X509Authority(b"junk"), X509Authority(b""), X509Authority(ca(extensions=[(malformed, False)]).der))
    td = TrustDomain("example.org")

    proves(leaf(ROOT), bundle=Bundle(td, (*junk, X509Authority(ROOT.der))))
    refused("the bundle has no X.509 authority", leaf(ROOT), bundle=Bundle(td, junk))


@pytest.mark.conformance("X-21")
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("which", [0, 1], ids=["leaf", "intermediate"])
def test_no_byte_of_a_chain_can_be_changed(which):
    chain = [LEAF.der, INTERMEDIATE.der]
    for position in range(len(chain[which])):
        changed = bytearray(chain[which])
        changed[position] ^= 1 << position % 8
        presented = [*chain[:which], bytes(changed), *chain[which + 1 :]]
        with pytest.raises(InvalidX509Svid):
            verify_x509_svid(parse_chain(presented), BUNDLE, NOW)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@settings(max_examples=200)
@given(
    st.sampled_from([ROOT.der, INTERMEDIATE.der, LEAF.der]),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4),
)
def test_whatever_becomes_of_a_certificate_it_is_verified_or_refused(der, edits):
    changed = bytearray(der)
    for position, removed, inserted in edits:
        changed[position : position + removed] = inserted
    for chain, authority in (([bytes(changed), INTERMEDIATE.der], ROOT.der), ([LEAF.der, bytes(changed)], ROOT.der)):
        try:
            verify_x509_svid(parse_chain(chain), Bundle(TrustDomain("example.org"), (X509Authority(authority),)), NOW)
        except SpiffeError:
            continue
    bundle = Bundle(TrustDomain("example.org"), (X509Authority(bytes(changed)),))
    try:
        verify_x509_svid(chain_of(LEAF, INTERMEDIATE), bundle, NOW)
    except SpiffeError:
        return


@given(st.binary(max_size=80))
def test_whatever_bytes_come_they_are_refused(data):
    with pytest.raises(SpiffeError):
        parse_chain(data)


def test_concatenated_and_separate_certificates_verify_alike():
    for der in (LEAF.der + INTERMEDIATE.der, [LEAF.der, INTERMEDIATE.der]):
        svid = verify_x509_svid(parse_chain(der), BUNDLE, NOW)
        assert [c.public_bytes(Encoding.DER) for c in svid.chain] == [LEAF.der, INTERMEDIATE.der]
