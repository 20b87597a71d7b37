"""The one place where authorities sign: counted, checked, and told to those who watch."""

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

from hsm_ca.authority_key import AuthorityKey, Issuance, Kind, jws_signature
from hsm_ca.journal import AuthorityId
from keymanagers.base import Key, KeyId, KeyType
from keymanagers.memory import MemoryKeyManager
from keymanagers.sealed import SealedEcKey
from spiffe_core.errors import KeyManagerUnavailable
from tests.support.authorities import WORKLOAD, authority_key

ISSUANCE = Issuance(Kind.JWT_SVID, WORKLOAD, "serial")


class WrongKey(SealedEcKey):
    """A handle that names another key than the one whose public half is known."""

    def __init__(self):
        super().__init__(KeyId("key"), ec.generate_private_key(ec.SECP256R1()).public_key())
        self.other = ec.generate_private_key(ec.SECP256R1())

    def sign(self, data, signature_algorithm):
        return self.other.sign(data, signature_algorithm)


class Watcher:
    def __init__(self, refuses=False):
        self.seen = []
        self.refuses = refuses

    def issued(self, authority_id, issuance, artefact):
        self.seen.append((authority_id, issuance, artefact))
        if self.refuses:
            raise KeyManagerUnavailable("the log is full")


def watched(*watchers):
    key = MemoryKeyManager().generate(KeyId("key"), KeyType.EC_P256)
    return AuthorityKey(key, AuthorityId("id"), observers=watchers)


@pytest.mark.parametrize("key_type", list(KeyType))
def test_a_signature_is_made_with_the_hash_of_the_key_and_counted(key_type):
    key = authority_key(key_type)
    signature = key.issue(ISSUANCE, b"content", lambda signature: signature)
    digest = hashes.SHA384() if key_type is KeyType.EC_P384 else hashes.SHA256()
    how = (ec.ECDSA(digest),) if key_type.curve else (padding.PKCS1v15(), digest)
    key.public.verify(signature, b"content", *how)
    with pytest.raises(InvalidSignature):
        key.public.verify(signature, b"Content", *how)
    assert key.count == 1


def test_a_signature_of_another_key_never_leaves_and_is_not_counted():
    watcher = Watcher()
    key = AuthorityKey(Key(KeyId("key"), KeyType.EC_P256, WrongKey()), AuthorityId("id"), observers=[watcher])
    with pytest.raises(KeyManagerUnavailable, match=r'key "key" with a signature that its public key does not verify'):
        key.issue(ISSUANCE, b"content", lambda signature: signature)
    assert key.count == 0
    assert not watcher.seen


def test_without_verification_the_device_is_believed():
    key = AuthorityKey(Key(KeyId("key"), KeyType.EC_P256, WrongKey()), AuthorityId("id"), verify=False)
    assert key.issue(ISSUANCE, b"content", lambda signature: signature)


def test_each_watcher_sees_the_artefact_before_it_leaves():
    first, second = Watcher(), Watcher()
    artefact = watched(first, second).issue(ISSUANCE, b"content", lambda signature: b"made of " + signature)
    assert first.seen == second.seen == [("id", ISSUANCE, artefact)]
    assert artefact.startswith(b"made of ")


def test_a_watcher_that_raises_keeps_the_artefact_from_leaving():
    first, second = Watcher(refuses=True), Watcher()
    with pytest.raises(KeyManagerUnavailable, match="the log is full"):
        watched(first, second).issue(ISSUANCE, b"content", lambda signature: signature)
    assert len(first.seen) == 1
    assert not second.seen


@pytest.mark.parametrize(("key_type", "width"), [(KeyType.EC_P256, 32), (KeyType.EC_P384, 48)])
def test_a_jws_carries_r_and_s_in_their_full_width(key_type, width):
    raw = jws_signature(utils.encode_dss_signature(1, 2), key_type)
    assert raw == (1).to_bytes(width) + (2).to_bytes(width)


def test_a_jws_carries_an_rsa_signature_as_it_is():
    assert jws_signature(b"signature", KeyType.RSA_2048) == b"signature"


def test_no_private_part_is_in_a_repr():
    key = authority_key()
    assert "private" not in repr(key)
    assert repr(key._private) == '<_EcKey "key" secp256r1>'
