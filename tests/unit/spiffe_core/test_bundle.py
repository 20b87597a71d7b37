"""Bundles: what they gain, what they lose by expiry, and what may be in them."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from spiffe_core.bundle import (
    MAX_CERTIFICATE_BYTES,
    Bundle,
    JwtAuthority,
    X509Authority,
    load_certificate,
    load_public_key,
    split_certificates,
)
from spiffe_core.errors import InvalidBundle
from spiffe_core.ids import TrustDomain
from tests.support.certificates import HOUR, NOW, Shape, ca, leaf, rsa_key

TD = TrustDomain("example.org")
AT = int(NOW.timestamp())


def pkix(key):
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def jwt_authority(name, **changes):
    return JwtAuthority(name, pkix(ec.generate_private_key(ec.SECP256R1())), **changes)


def expiring(seconds):
    """A CA certificate that expires that many seconds from now."""
    return X509Authority(ca(shape=Shape(validity=(NOW - HOUR, NOW + timedelta(seconds=seconds)))).der)


def test_authorities_are_added_behind_those_that_are_there():
    old, new = X509Authority(ca().der), X509Authority(ca().der)
    first, second = jwt_authority("first"), jwt_authority("second")
    bundle = Bundle(TD, (old,), (first,), refresh_hint=300, sequence_number=7)

    assert bundle.with_authorities([new], [second]) == Bundle(TD, (old, new), (first, second), 300, 8)
    assert bundle.with_authorities(x509_authorities=[new]) == Bundle(TD, (old, new), (first,), 300, 8)
    assert bundle.with_authorities(jwt_authorities=[second]) == Bundle(TD, (old,), (first, second), 300, 8)


def test_nothing_new_leaves_the_bundle_and_its_sequence_number_alone():
    old, first = X509Authority(ca().der), jwt_authority("first")
    bundle = Bundle(TD, (old,), (first,), sequence_number=7)

    assert bundle.with_authorities() is bundle
    assert bundle.with_authorities([old, X509Authority(old.der)], [first]) is bundle


def test_an_authority_given_twice_is_added_once():
    new, key = X509Authority(ca().der), jwt_authority("key")

    bundle = Bundle(TD).with_authorities([new, new], [key, key])

    assert bundle == Bundle(TD, (new,), (key,), sequence_number=1)


def test_a_tainted_authority_stays_tainted_when_it_is_added_again():
    tainted = X509Authority(ca().der, tainted=True)
    key = jwt_authority("key", tainted=True)
    bundle = Bundle(TD, (tainted,), (key,))

    assert bundle.with_authorities([X509Authority(tainted.der)], [JwtAuthority("key", key.public_key_der)]) is bundle


def test_a_key_id_that_is_there_keeps_its_key():
    first, other = jwt_authority("kid"), jwt_authority("kid")

    assert Bundle(TD, (), (first,)).with_authorities(jwt_authorities=[other]).jwt_authorities == (first,)


def test_key_ids_are_looked_up_by_case():
    key = jwt_authority("Kid")
    bundle = Bundle(TD, (), (key, jwt_authority("other")))

    assert bundle.jwt_authority("Kid") is key
    assert bundle.jwt_authority("kid") is None
    assert bundle.jwt_authority("") is None


def test_expired_authorities_are_taken_away():
    gone, stays = expiring(-1), expiring(0)
    jwt_gone, jwt_stays = jwt_authority("a", expires_at=AT - 1), jwt_authority("b", expires_at=AT)
    bundle = Bundle(TD, (gone, stays), (jwt_gone, jwt_stays), 300, 7)

    assert bundle.without_expired(AT) == Bundle(TD, (stays,), (jwt_stays,), 300, 8)


def test_a_bundle_without_expired_authorities_stays_as_it_is():
    bundle = Bundle(TD, (expiring(0),), (jwt_authority("a", expires_at=AT),), sequence_number=7)

    assert bundle.without_expired(AT) is bundle
    assert Bundle(TD).without_expired(AT) == Bundle(TD)


def test_a_jwt_authority_without_expiry_stays():
    forever = jwt_authority("forever")
    bundle = Bundle(TD, (), (jwt_authority("old", expires_at=1), forever))

    assert bundle.without_expired(AT).jwt_authorities == (forever,)


def test_expiry_never_takes_the_last_authorities_of_a_kind():
    both = (expiring(-2), expiring(-1))
    bundle = Bundle(TD, both, (jwt_authority("a", expires_at=1),), sequence_number=7)

    assert bundle.without_expired(AT) is bundle


def test_the_last_authorities_of_one_kind_stay_while_the_other_kind_is_pruned():
    expired = expiring(-1)
    gone, stays = jwt_authority("a", expires_at=1), jwt_authority("b", expires_at=AT)

    pruned = Bundle(TD, (expired,), (gone, stays), sequence_number=7).without_expired(AT)

    assert pruned == Bundle(TD, (expired,), (stays,), sequence_number=8)


def test_an_expired_tainted_authority_is_taken_away_too():
    expired = X509Authority(expiring(-1).der, tainted=True)
    stays = expiring(1)

    assert Bundle(TD, (expired, stays)).without_expired(AT).x509_authorities == (stays,)


def test_bytes_that_are_no_certificate_are_refused():
    der = ca().der
    for bad in (b"", b"junk", der[:-1], der + b"\0", b"\x30\x00", der[:50] + b"\xff" + der[51:]):
        with pytest.raises(InvalidBundle, match=r"malformed certificate|neither EC nor RSA"):
            load_certificate(bad)


def test_a_certificate_that_is_too_long_is_refused_unread():
    with pytest.raises(InvalidBundle, match="longer than 65536 bytes"):
        load_certificate(b"\x30" * (MAX_CERTIFICATE_BYTES + 1))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_three_curves_are_accepted(curve):
    key = ec.generate_private_key(curve)

    assert load_certificate(ca(shape=Shape(key=key)).der).public_key() == key.public_key()
    assert load_public_key(pkix(key)) == key.public_key()


@pytest.mark.parametrize("curve", [ec.SECP224R1(), ec.SECP256K1(), ec.BrainpoolP256R1()])
def test_another_curve_is_refused(curve):
    key = ec.generate_private_key(curve)

    with pytest.raises(InvalidBundle, match=f"certificate's key is on curve {curve.name}"):
        load_certificate(ca(shape=Shape(key=key)).der)
    with pytest.raises(InvalidBundle, match=f"public key is on curve {curve.name}"):
        load_public_key(pkix(key))


@pytest.mark.parametrize("make", [ed25519.Ed25519PrivateKey.generate, x25519.X25519PrivateKey.generate])
def test_a_key_that_is_neither_ec_nor_rsa_is_refused(make):
    with pytest.raises(InvalidBundle, match="public key is neither EC nor RSA"):
        load_public_key(pkix(make()))
    with pytest.raises(InvalidBundle, match="public key is neither EC nor RSA"):
        load_public_key(pkix(dsa.generate_private_key(1024)))


def test_bytes_that_are_no_public_key_are_refused():
    der = pkix(rsa_key(2048))
    for bad in (b"", b"junk", der[:-1], der + b"\0", ca().der):
        with pytest.raises(InvalidBundle, match="malformed public key"):
            load_public_key(bad)


def test_authorities_read_their_certificate_and_key_once():
    authority, key = X509Authority(ca().der), jwt_authority("a")

    assert authority.certificate is X509Authority(authority.der).certificate
    assert key.public_key is JwtAuthority("b", key.public_key_der).public_key


def test_what_a_peer_presents_is_not_kept():
    der = leaf(None).der

    assert load_certificate(der) is not load_certificate(der)


def test_concatenated_certificates_are_taken_apart():
    ders = (ca().der, leaf(None).der, ca().der)

    assert split_certificates(b"".join(ders)) == ders
    assert split_certificates(b"") == ()


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"\0", "no DER SEQUENCE"),
        (b"-----BEGIN CERTIFICATE-----", "no DER SEQUENCE"),
        (b"\x30", "no DER SEQUENCE"),
        (b"\x30\x01", "truncated"),
        (b"\x30\x82\x01", "bad DER length"),
        (b"\x30\x80\0\0", "bad DER length"),
        (b"\x30\x84\0\0\0\x01a", "bad DER length"),
        (b"\x30\x83\xff\xff\xff", "truncated"),
    ],
)
def test_junk_between_or_behind_certificates_is_refused(bad, why):
    der = ca().der

    for data in (bad, der + bad):
        with pytest.raises(InvalidBundle, match=why):
            split_certificates(data)


def test_too_many_certificates_are_refused():
    assert len(split_certificates(b"\x30\x00" * 10_000)) == 10_000
    with pytest.raises(InvalidBundle, match="more than 10000 certificates"):
        split_certificates(b"\x30\x00" * 10_001)
    with pytest.raises(InvalidBundle, match="more than 2 certificates"):
        split_certificates(b"\x30\x00" * 3, at_most=2)
