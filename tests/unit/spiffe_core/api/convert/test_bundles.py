"""Trust bundles in messages."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from spiffe_core.api.convert.bundles import (
    bundle_fields,
    bundle_from_pb,
    bundle_to_pb,
    jwt_authority_from_pb,
    jwt_authority_to_pb,
    x509_authorities_from_pb,
)
from spiffe_core.api.spire.api.types import bundle_pb2
from spiffe_core.bundle import Bundle, JwtAuthority, X509Authority
from spiffe_core.errors import InvalidBundle
from spiffe_core.ids import TrustDomain
from tests.support.strategies import bundles, jwt_authorities, x509_authorities

ED25519 = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def full() -> st.SearchStrategy[Bundle]:
    """Bundles of which no part is empty."""
    return bundles(TrustDomain("home.test")).filter(
        lambda b: b.x509_authorities and b.jwt_authorities and b.refresh_hint and b.sequence_number
    )


def untainted(bundle: Bundle) -> Bundle:
    return replace(
        bundle,
        x509_authorities=tuple(replace(a, tainted=False) for a in bundle.x509_authorities),
        jwt_authorities=tuple(replace(a, tainted=False) for a in bundle.jwt_authorities),
    )


@settings(deadline=None)
@given(bundles())
def test_a_bundle_comes_back_as_it_went_where_taint_is_believed(bundle: Bundle) -> None:
    pb = bundle_pb2.Bundle.FromString(bundle_to_pb(bundle).SerializeToString())
    assert bundle_from_pb(pb, keep_taint=True) == bundle


@settings(deadline=None)
@given(bundles())
def test_taint_is_passed_over_unless_it_is_believed(bundle: Bundle) -> None:
    assert bundle_from_pb(bundle_to_pb(bundle)) == untainted(bundle)


@settings(deadline=None)
@given(jwt_authorities())
def test_a_jwt_authority_comes_back_as_it_went(authority: JwtAuthority) -> None:
    assert jwt_authority_from_pb(jwt_authority_to_pb(authority), keep_taint=True) == authority


@settings(deadline=None, max_examples=20)
@given(full(), st.sampled_from(["x509_authorities", "jwt_authorities", "refresh_hint", "sequence_number"]))
def test_each_field_of_the_mask_chooses_the_field_of_its_name(bundle: Bundle, name: str) -> None:
    mask = bundle_pb2.BundleMask(**{name: True})
    assert {field.name for field, _ in bundle_to_pb(bundle, mask).ListFields()} == {"trust_domain", name}
    assert bundle_fields(mask) == {name}


@settings(deadline=None, max_examples=5)
@given(full())
def test_an_empty_mask_leaves_the_trust_domain(bundle: Bundle) -> None:
    assert bundle_to_pb(bundle, bundle_pb2.BundleMask()) == bundle_pb2.Bundle(trust_domain="home.test")


def test_no_mask_chooses_every_field_that_a_bundle_of_ours_has() -> None:
    assert bundle_fields(None) == {"x509_authorities", "jwt_authorities", "refresh_hint", "sequence_number"}
    assert bundle_fields(bundle_pb2.BundleMask(wit_authorities=True)) == set()


@settings(deadline=None, max_examples=20)
@given(st.lists(x509_authorities(), min_size=2, max_size=3))
def test_certificates_may_be_concatenated_in_one_message(authorities: list[X509Authority]) -> None:
    pb = bundle_pb2.X509Certificate(asn1=b"".join(a.der for a in authorities), tainted=True)
    found = x509_authorities_from_pb([pb], keep_taint=True)
    assert [a.der for a in found] == [a.der for a in authorities]
    assert all(a.tainted for a in found)


def test_a_message_without_a_certificate_holds_no_authority() -> None:
    assert x509_authorities_from_pb([bundle_pb2.X509Certificate()]) == ()


def test_a_trust_domain_may_be_given_as_an_id_and_comes_back_as_a_name() -> None:
    bundle = bundle_from_pb(bundle_pb2.Bundle(trust_domain="spiffe://home.test"))
    assert bundle == Bundle(TrustDomain("home.test"))
    assert bundle_to_pb(bundle).trust_domain == "home.test"


def test_wit_authorities_are_passed_over() -> None:
    pb = bundle_pb2.Bundle(trust_domain="home.test", wit_authorities=[bundle_pb2.WITKey(key_id="k")])
    assert bundle_from_pb(pb) == Bundle(TrustDomain("home.test"))


def test_a_negative_refresh_hint_is_no_advice() -> None:
    assert bundle_from_pb(bundle_pb2.Bundle(trust_domain="home.test", refresh_hint=-5)).refresh_hint == 0


def test_a_bundle_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidBundle, match=r"^no bundle provided$"):
        bundle_from_pb(None)


@pytest.mark.parametrize("trust_domain", ["", "Home.test", "https://home.test"])
def test_a_malformed_trust_domain_is_refused(trust_domain: str) -> None:
    with pytest.raises(InvalidBundle, match=r"^invalid trust domain: "):
        bundle_from_pb(bundle_pb2.Bundle(trust_domain=trust_domain))


@settings(deadline=None, max_examples=10)
@given(x509_authorities(), st.sampled_from([b"junk", b"0\x03abc", b"0\x80", b"0"]))
def test_a_certificate_that_cannot_be_read_is_refused_beside_a_good_one(good: X509Authority, bad: bytes) -> None:
    pb = bundle_pb2.Bundle(trust_domain="home.test")
    pb.x509_authorities.add(asn1=good.der + bad)
    with pytest.raises(InvalidBundle, match=r"^unable to parse X.509 authority: "):
        bundle_from_pb(pb)


@settings(deadline=None, max_examples=10)
@given(x509_authorities())
def test_a_truncated_certificate_is_refused(authority: X509Authority) -> None:
    pb = bundle_pb2.Bundle(trust_domain="home.test")
    pb.x509_authorities.add(asn1=authority.der[:-1])
    with pytest.raises(InvalidBundle, match=r"^unable to parse X.509 authority: truncated certificate$"):
        bundle_from_pb(pb)


@pytest.mark.parametrize("public_key", [b"", b"junk", ED25519], ids=["empty", "junk", "ed25519"])
def test_a_jwt_key_that_cannot_be_read_or_used_is_refused(public_key: bytes) -> None:
    pb = bundle_pb2.Bundle(trust_domain="home.test")
    pb.jwt_authorities.add(public_key=public_key, key_id="k")
    with pytest.raises(InvalidBundle, match=r"^unable to parse JWT authority: "):
        bundle_from_pb(pb)


@settings(deadline=None, max_examples=5)
@given(jwt_authorities())
def test_a_jwt_key_without_an_id_is_refused(authority: JwtAuthority) -> None:
    pb = bundle_pb2.Bundle(trust_domain="home.test")
    pb.jwt_authorities.add(public_key=authority.public_key_der)
    with pytest.raises(InvalidBundle, match=r"^unable to parse JWT authority: missing key ID$"):
        bundle_from_pb(pb)
