"""How SPIRE's SignData asks for signatures."""

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from keymanagers.base import Key, KeyId, KeyType
from keymanagers.memory import MemoryKeyManager
from plugin.signing import sign_data
from spiffe_core.api.spire.plugin.agent.keymanager.v1 import keymanager_pb2 as agent_pb2
from spiffe_core.api.spire.plugin.server.keymanager.v1 import keymanager_pb2 as pb
from spiffe_core.errors import InvalidInput

HASHES = {
    "SHA224": hashes.SHA224(),
    "SHA256": hashes.SHA256(),
    "SHA384": hashes.SHA384(),
    "SHA512": hashes.SHA512(),
    "SHA3_256": hashes.SHA3_256(),
    "SHA3_384": hashes.SHA3_384(),
    "SHA3_512": hashes.SHA3_512(),
}


@pytest.fixture(scope="module")
def keys() -> dict[KeyType, Key]:
    manager = MemoryKeyManager()
    return {kind: manager.generate(KeyId(kind.value), kind) for kind in (KeyType.EC_P256, KeyType.RSA_2048)}


def digest_of(name: str, data: bytes = b"data") -> bytes:
    return hashlib.new(name.lower().replace("sha3_", "sha3-"), data).digest()


def asked(name: str, salt: int | None = None, data: bytes | None = None) -> pb.SignDataRequest:
    request = pb.SignDataRequest(key_id="x", data=digest_of(name) if data is None else data)
    if salt is None:
        request.hash_algorithm = pb.HashAlgorithm.Value(name)
    else:
        request.pss_options.hash_algorithm, request.pss_options.salt_length = pb.HashAlgorithm.Value(name), salt
    return request


@pytest.mark.parametrize("name", HASHES)
def test_a_digest_is_signed_with_an_ec_key(keys, name):
    key = keys[KeyType.EC_P256]
    assert isinstance(key.public, ec.EllipticCurvePublicKey)
    signature = sign_data(key, asked(name), pb)
    key.public.verify(signature, digest_of(name), ec.ECDSA(Prehashed(HASHES[name])))
    with pytest.raises(InvalidSignature):
        key.public.verify(signature, digest_of(name, b"other"), ec.ECDSA(Prehashed(HASHES[name])))


@pytest.mark.parametrize("name", ["SHA256", "SHA384", "SHA512"])
def test_a_digest_is_signed_with_an_rsa_key_as_pkcs1(keys, name):
    key = keys[KeyType.RSA_2048]
    assert isinstance(key.public, rsa.RSAPublicKey)
    key.public.verify(sign_data(key, asked(name), pb), digest_of(name), padding.PKCS1v15(), Prehashed(HASHES[name]))


@pytest.mark.parametrize(("asked_for", "length"), [(0, 222), (-1, 32), (20, 20)])
def test_a_pss_salt_has_the_length_that_is_asked_for(keys, asked_for, length):
    key = keys[KeyType.RSA_2048]
    assert isinstance(key.public, rsa.RSAPublicKey)
    signature = sign_data(key, asked("SHA256", asked_for), pb)
    for salt, right in ((length, True), (length - 1, False)):
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
        if right:
            key.public.verify(signature, digest_of("SHA256"), scheme, Prehashed(hashes.SHA256()))
        else:
            with pytest.raises(InvalidSignature):
                key.public.verify(signature, digest_of("SHA256"), scheme, Prehashed(hashes.SHA256()))


@pytest.mark.parametrize(
    ("kind", "request_", "text"),
    [
        (KeyType.EC_P256, pb.SignDataRequest(data=bytes(32)), "signer opts is required"),
        (KeyType.EC_P256, pb.SignDataRequest(data=bytes(32), hash_algorithm=pb.SHA384), "sha384 makes 48 bytes"),
        (KeyType.EC_P256, asked("SHA256", data=b"data"), "data must be a digest"),
        (KeyType.EC_P256, asked("SHA256", 0), "PSS options are for RSA"),
        (KeyType.RSA_2048, asked("SHA256", -2), "PSS salt length -2 is invalid"),
        (KeyType.RSA_2048, asked("SHA256", 500), "RSA_2048|rsa-2048"),
        (KeyType.EC_P256, asked("UNSPECIFIED_HASH_ALGORITHM", data=bytes(32)), "hash algorithm is required"),
        (KeyType.EC_P256, pb.SignDataRequest(data=bytes(32), hash_algorithm=99), "hash algorithm 99 is none"),
    ],
    ids=["nothing", "other-length", "no-digest", "pss-for-ec", "negative-salt", "long-salt", "no-hash", "odd-hash"],
)
def test_a_request_that_cannot_be_met_is_refused(keys, kind, request_, text):
    with pytest.raises(InvalidInput, match=text):
        sign_data(keys[kind], request_, pb)


def test_agents_ask_with_the_same_numbers():
    assert dict(agent_pb2.HashAlgorithm.items()) == dict(pb.HashAlgorithm.items())
    assert dict(agent_pb2.KeyType.items()) == dict(pb.KeyType.items())
