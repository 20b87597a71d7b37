"""The signature by which a key shows that it is there, and what it can be taken for: nothing else."""

from contextlib import closing
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from keymanagers.base import Key, KeyId, KeyType
from keymanagers.memory import MemoryKeyManager
from keymanagers.possession import CONTEXT, message_of, prove_possession
from keymanagers.sealed import SealedEcKey
from spiffe_core.errors import InvalidJwtSvid, KeyManagerUnavailable
from spiffe_core.jwtsvid import parse_jwt_svid

NONCE = bytes(range(32))


@pytest.fixture
def keys():
    with closing(MemoryKeyManager()) as manager:
        yield manager


class ForeignKey(SealedEcKey):
    """Says that it is one key and signs with another, as a handle can that names another key by now."""

    def __init__(self, said: ec.EllipticCurvePublicKey) -> None:
        super().__init__(KeyId("a"), said)
        self._other = ec.generate_private_key(ec.SECP256R1())

    def sign(self, data, signature_algorithm):
        return self._other.sign(data, signature_algorithm)


@pytest.mark.parametrize(
    ("key_type", "algorithm"),
    [
        (KeyType.EC_P256, "ECDSA with SHA-256"),
        (KeyType.EC_P384, "ECDSA with SHA-384"),
        (KeyType.RSA_2048, "RSA PKCS #1 v1.5 with SHA-256"),
    ],
)
def test_a_proof_can_be_verified_again_by_whoever_has_the_public_key(keys, key_type, algorithm):
    key = keys.generate(KeyId("a"), key_type)
    proof = prove_possession(key, NONCE)
    assert (proof.algorithm, proof.message) == (algorithm, message_of(NONCE))
    hashed = hashes.SHA384() if key_type is KeyType.EC_P384 else hashes.SHA256()
    scheme = (ec.ECDSA(hashed),) if key_type.curve else (padding.PKCS1v15(), hashed)
    key.public.verify(proof.signature, proof.message, *scheme)
    with pytest.raises(InvalidSignature):
        key.public.verify(proof.signature, message_of(bytes(32)), *scheme)


def test_a_signature_of_another_key_is_no_proof(keys):
    key = keys.generate(KeyId("a"), KeyType.EC_P256)
    foreign = replace(key, private=ForeignKey(key.public))
    assert isinstance(foreign, Key)
    with pytest.raises(KeyManagerUnavailable, match="a signature that its public key does not verify"):
        prove_possession(foreign, NONCE)


def test_a_key_that_signs_no_more_proves_nothing(keys):
    key = keys.generate(KeyId("a"), KeyType.EC_P256)
    keys.retire(key.id)
    with pytest.raises(KeyManagerUnavailable, match="signs no more: it was retired"):
        prove_possession(key, NONCE)


def test_what_is_signed_is_neither_a_certificate_nor_a_request_nor_a_token_whatever_the_nonce():
    hostile = b"\x30\x03\x02\x01\x01" + b"eyJhbGciOiJFUzI1NiJ9.e30."
    message = message_of(hostile)
    assert message == b" " * 64 + CONTEXT + b"\0" + hostile
    for load in (x509.load_der_x509_certificate, x509.load_der_x509_csr):
        with pytest.raises(ValueError):
            load(message)
    with pytest.raises(InvalidJwtSvid):
        parse_jwt_svid(message.decode(errors="replace"))
