"""The authority that signs X509-SVIDs: what it hands out, what it refuses, what comes along with a leaf."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from hsm_ca.authority_key import AuthorityKey
from hsm_ca.journal import AuthorityId
from hsm_ca.policy import CaSubject
from hsm_ca.x509_authority import X509Issuer, x509_authority_id
from keymanagers.base import KeyId, KeyType
from spiffe_core.bundle import Bundle, X509Authority
from spiffe_core.errors import InvalidX509Svid, KeyManagerUnavailable, Unavailable
from spiffe_core.x509svid import parse_chain, verify_x509_svid
from tests.support.authorities import TD, WORKLOAD, BlinkingKeys, authority_key, svid_request
from tests.support.certificates import NOW, Shape, ca

DAY = timedelta(days=1)
DER = Encoding.DER


def self_signed(key=None, now=NOW):
    return X509Issuer.self_signed(key or authority_key(), TD, CaSubject(), DAY, now)


def under(*above, key=None, **shape):
    """An issuer whose certificate the first of those above signed, who come nearest first."""
    key = key or authority_key()
    made = ca(above[0], Shape(key=key._private._plain, **shape))
    return X509Issuer(key, [made.der, *(one.der for one in above[:-1])])


@pytest.mark.parametrize("key_type", list(KeyType))
def test_a_leaf_of_every_kind_of_authority_verifies_with_the_bundle(key_type):
    issuer = self_signed(authority_key(key_type))
    svid = issuer.issue(svid_request(), NOW)
    bundle = Bundle(TD, (X509Authority(issuer.certificate.public_bytes(DER)),))
    assert verify_x509_svid(parse_chain(svid.chain), bundle, NOW).id == WORKLOAD
    with pytest.raises(InvalidX509Svid, match="does not chain"):
        verify_x509_svid(parse_chain(svid.chain), Bundle(TD, (X509Authority(ca().der),)), NOW)


def test_what_is_answered_beside_the_chain_is_what_the_leaf_says():
    svid = self_signed().issue(svid_request(), NOW + timedelta(microseconds=7))
    (leaf,) = parse_chain(svid.chain)
    assert svid.serial == leaf.serial_number
    assert svid.not_after == leaf.not_valid_after_utc
    assert svid.spiffe_id == WORKLOAD


def test_a_self_signed_authority_sends_the_leaf_alone():
    assert len(self_signed().issue(svid_request(), NOW).chain) == 1


def test_an_authority_below_another_sends_what_leads_to_the_root_and_not_the_root():
    root = ca(subject="root")
    middle = ca(root, subject="middle")
    issuer = under(middle, root)
    chain = issuer.issue(svid_request(), NOW).chain
    assert chain[1:] == (issuer.certificate.public_bytes(DER), middle.der)
    bundle = Bundle(TD, (X509Authority(root.der),))
    assert verify_x509_svid(parse_chain(chain), bundle, NOW).id == WORKLOAD
    with pytest.raises(InvalidX509Svid, match="does not chain"):
        verify_x509_svid(parse_chain(chain[:1]), bundle, NOW)


def test_an_authority_below_one_of_the_same_name_is_sent_along_all_the_same():
    root = ca()  # every ca() bears one name
    issuer = under(root)
    assert issuer.certificate.subject == issuer.certificate.issuer
    chain = issuer.issue(svid_request(), NOW).chain
    assert len(chain) == 2
    assert verify_x509_svid(parse_chain(chain), Bundle(TD, (X509Authority(root.der),)), NOW).id == WORKLOAD


def test_an_authority_below_another_names_it():
    root = ca(subject="root")
    assert under(root).upstream_authority_id == x509_authority_id(root.certificate.public_key())


def test_a_leaf_outlives_no_certificate_of_its_chain():
    soon = NOW + timedelta(minutes=10)
    root = ca(subject="root")
    middle = ca(root, Shape(validity=(NOW - DAY, soon)), subject="middle")
    issuer = under(middle, root, validity=(NOW - DAY, NOW + DAY))
    assert issuer.not_after == soon
    assert issuer.issue(svid_request(), NOW).not_after == soon


@pytest.mark.parametrize("late", [timedelta(), DAY], ids=["at its end", "a day later"])
def test_an_authority_that_has_expired_signs_nothing(late):
    issuer = self_signed()
    with pytest.raises(Unavailable, match="X509 CA has expired and no other is ready"):
        issuer.issue(svid_request(), issuer.not_after + late)
    assert issuer.key.count == 1  # its own certificate


def test_each_issuance_is_told_with_its_serial_number():
    told = []

    class Watcher:
        def issued(self, authority_id, issuance, artefact):
            told.append((authority_id, issuance, artefact))

    key = authority_key()
    key._observers = (Watcher(),)
    issuer = self_signed(key)
    svid = issuer.issue(svid_request(entry_id="entry", caller="spiffe://example.org/spire/agent/one"), NOW)
    authority_id, issuance, artefact = told[-1]
    assert [one[1].kind.value for one in told] == ["ca-certificate", "workload-x509-svid"]
    assert (issuance.spiffe_id, issuance.serial, issuance.entry_id) == (WORKLOAD, str(svid.serial), "entry")
    assert (authority_id, artefact) == ("authority", svid.chain[0])


def test_a_device_that_is_away_makes_signing_unavailable_until_it_is_back():

    device = BlinkingKeys()
    issuer = self_signed(AuthorityKey(device.generate(KeyId("key"), KeyType.EC_P256), AuthorityId("id")))
    device.away = True
    with pytest.raises(KeyManagerUnavailable, match="the device is away"):
        issuer.issue(svid_request(), NOW)
    device.away = False
    assert issuer.issue(svid_request(), NOW)
