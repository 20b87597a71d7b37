"""What every key manager does, whatever place its keys live in."""

import copy
import pickle
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from keymanagers.base import (
    Key,
    KeyId,
    KeyInspector,
    KeyManager,
    KeyNotRevealed,
    KeyType,
    SharedKeyManager,
    fingerprint,
)
from spiffe_core.errors import AlreadyExists, InvalidInput, KeyManagerUnavailable, KeyNotFound
from tests.support.key_backends import Backend

pytest_plugins = ["tests.support.key_fixtures"]

A, B = KeyId("x509-CA-A"), KeyId("JWT-Signer-A")
P256 = KeyType.EC_P256
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
JWS = {KeyType.EC_P256: "ES256", KeyType.EC_P384: "ES384", KeyType.RSA_2048: "RS256", KeyType.RSA_4096: "RS256"}


@pytest.fixture
def manager(backend: Backend) -> KeyManager:
    return backend.open()


def shown_by(manager: KeyManager) -> dict[str, str]:
    """Id and fingerprint of its keys."""
    keys = manager.keys()
    return {key.id: fingerprint(key.public) for key in keys}


def sign(key: Key, data: bytes = b"data") -> bytes:
    if isinstance(key.private, ec.EllipticCurvePrivateKey):
        return key.private.sign(data, ec.ECDSA(hashes.SHA256()))
    return key.private.sign(data, padding.PKCS1v15(), hashes.SHA256())


def verify(key: Key, signature: bytes, data: bytes = b"data") -> None:
    if isinstance(key.public, ec.EllipticCurvePublicKey):
        key.public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    else:
        key.public.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())


def tampered(signature: bytes) -> bytes:
    return signature[:-1] + bytes((signature[-1] ^ 1,))


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What each thread returned, or the exception that it raised."""
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        try:
            results[number] = work(number)
        except Exception as exc:  # noqa: BLE001  it is the test's to judge
            results[number] = exc

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_new_key_manager_shows_no_keys(manager):
    assert manager.keys() == []


def test_a_generated_key_is_shown_with_its_id_type_and_public_half(manager):
    made = manager.generate(A, P256)
    (shown,) = manager.keys()
    assert (shown.id, shown.type) == (A, P256) == (made.id, made.type)
    assert fingerprint(shown.public) == fingerprint(made.public)


def test_keys_are_shown_by_id(manager):
    for key_id in ("b", "c", "a"):
        manager.generate(KeyId(key_id), P256)
    assert list(shown_by(manager)) == ["a", "b", "c"]


def test_an_id_is_never_overwritten(manager):
    made = manager.generate(A, P256)
    with pytest.raises(AlreadyExists, match="x509-CA-A"):
        manager.generate(A, KeyType.EC_P384)
    (shown,) = manager.keys()
    assert fingerprint(shown.public) == fingerprint(made.public)
    verify(made, sign(made))


@pytest.mark.parametrize("key_id", ["", "a/b", "a b", "ä", "a" * 129, "a\n"])
def test_an_id_that_is_none_is_refused(manager, key_id):
    with pytest.raises(InvalidInput, match="key id"):
        manager.generate(KeyId(key_id), P256)
    assert manager.keys() == []


def test_a_retired_key_is_gone_and_signs_no_more(manager):
    retired, kept = manager.generate(A, P256), manager.generate(B, P256)
    sign(retired)
    manager.retire(A)
    assert list(shown_by(manager)) == [B]
    with pytest.raises(KeyManagerUnavailable, match="x509-CA-A"):
        sign(retired)
    verify(kept, sign(kept))


def test_retiring_an_unknown_id_says_so(manager):
    with pytest.raises(KeyNotFound, match="x509-CA-A"):
        manager.retire(A)


def test_a_closed_key_manager_and_its_keys_are_of_no_use(manager):
    key = manager.generate(A, P256)
    sign(key)
    manager.close()
    manager.close()
    with pytest.raises(KeyManagerUnavailable, match="closed"):
        sign(key)
    with pytest.raises(KeyManagerUnavailable, match="closed"):
        manager.keys()
    with pytest.raises(KeyManagerUnavailable, match="closed"):
        manager.generate(B, P256)


@pytest.mark.parametrize("key_type", KeyType)
def test_a_key_of_each_type_signs_certificates_requests_and_tokens(manager, key_type):
    key = manager.generate(A, key_type)
    assert key.type is key_type
    assert key.private.key_size == key_type.bits

    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(NAME, NAME, key.public, 1, now, now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key.private, hashes.SHA256())
    )
    certificate.verify_directly_issued_by(certificate)

    request = x509.CertificateSigningRequestBuilder(NAME).sign(key.private, hashes.SHA256())
    assert request.is_signature_valid

    token = jwt.encode({"sub": "spiffe://example.org/a"}, key.private, algorithm=JWS[key_type])
    assert jwt.decode(token, key.public, algorithms=[JWS[key_type]])["sub"] == "spiffe://example.org/a"
    other = jwt.encode({"sub": "spiffe://example.org/b"}, key.private, algorithm=JWS[key_type])
    forged = f"{other.rpartition('.')[0]}.{token.rpartition('.')[2]}"
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(forged, key.public, algorithms=[JWS[key_type]])


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384])
@pytest.mark.parametrize("hashed", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda one: one.name)
def test_an_ec_key_signs_with_each_hash_whether_the_data_are_hashed_already_or_not(manager, key_type, hashed):
    key = manager.generate(A, key_type)
    assert isinstance(key.private, ec.EllipticCurvePrivateKey)
    assert isinstance(key.public, ec.EllipticCurvePublicKey)
    digest = hashes.Hash(hashed)
    digest.update(b"data")
    signatures = [
        key.private.sign(b"data", ec.ECDSA(hashed)),
        key.private.sign(digest.finalize(), ec.ECDSA(Prehashed(hashed))),
    ]
    for signature in signatures:
        key.public.verify(signature, b"data", ec.ECDSA(hashed))
        with pytest.raises(InvalidSignature):
            key.public.verify(tampered(signature), b"data", ec.ECDSA(hashed))


@pytest.mark.parametrize("hashed", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda one: one.name)
def test_an_rsa_key_signs_with_each_padding_and_hash(manager, hashed):
    key = manager.generate(A, KeyType.RSA_2048)
    assert isinstance(key.private, rsa.RSAPrivateKey)
    assert isinstance(key.public, rsa.RSAPublicKey)
    mgf = padding.MGF1(hashed)
    for scheme in (
        padding.PKCS1v15(),
        padding.PSS(mgf, padding.PSS.MAX_LENGTH),
        padding.PSS(mgf, padding.PSS.DIGEST_LENGTH),
        padding.PSS(mgf, 20),
    ):
        signature = key.private.sign(b"data", scheme, hashed)
        key.public.verify(signature, b"data", scheme, hashed)
        with pytest.raises(InvalidSignature):
            key.public.verify(tampered(signature), b"data", scheme, hashed)
    digest = hashes.Hash(hashed)
    digest.update(b"data")
    signature = key.private.sign(digest.finalize(), padding.PKCS1v15(), Prehashed(hashed))
    key.public.verify(signature, b"data", padding.PKCS1v15(), hashed)


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.RSA_2048])
def test_the_private_half_cannot_be_had(manager, key_type):
    key = manager.generate(A, key_type)
    attempts: list[Callable[[], object]] = [
        lambda: key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.private.private_numbers,
        lambda: pickle.dumps(key.private),
        lambda: pickle.dumps(key),
    ]
    if isinstance(key.private, ec.EllipticCurvePrivateKey):
        peer = ec.generate_private_key(ec.SECP256R1()).public_key()
        attempts.append(lambda: key.private.exchange(ec.ECDH(), peer))
    else:
        secret = key.public.encrypt(b"secret", padding.PKCS1v15())
        attempts.append(lambda: key.private.decrypt(secret, padding.PKCS1v15()))
    for attempt in attempts:
        with pytest.raises(KeyNotRevealed, match="x509-CA-A"):
            attempt()
        with pytest.raises(TypeError):
            attempt()
    assert copy.copy(key.private) is copy.deepcopy(key.private) is key.private
    assert "x509-CA-A" in repr(key.private)


def test_eight_threads_sign_generate_and_list_at_once(manager):
    shared = manager.generate(A, P256)

    def work(number: int) -> None:
        for turn in range(12):
            data = f"{number} {turn}".encode()
            verify(shared, sign(shared, data), data)
        own = manager.generate(KeyId(f"own-{number}"), P256)
        assert {A, own.id} <= set(shown_by(manager))
        verify(own, sign(own))
        manager.retire(own.id)

    assert in_threads(8, work) == [None] * 8
    assert list(shown_by(manager)) == [A]


def test_of_several_threads_that_generate_one_id_one_makes_the_key(manager):
    results = in_threads(4, lambda _: manager.generate(A, P256))
    made = [one for one in results if isinstance(one, Key)]
    assert len(made) == 1
    assert all(isinstance(one, Key | AlreadyExists) for one in results)
    assert shown_by(manager) == {A: fingerprint(made[0].public)}


@pytest.mark.parametrize("key_type", KeyType)
def test_a_key_is_the_same_after_reopening(lasting, key_type):
    first = lasting.open()
    made = first.generate(A, key_type)
    first.close()
    (found,) = lasting.open().keys()
    assert (found.id, found.type, fingerprint(found.public)) == (A, key_type, fingerprint(made.public))
    verify(made, sign(found))


def test_two_key_managers_share_their_keys(lasting):
    one, other = lasting.open(), lasting.open()
    made = one.generate(A, P256)
    (seen,) = other.keys()
    verify(made, sign(seen))
    with pytest.raises(AlreadyExists):
        other.generate(A, P256)
    other.retire(A)
    assert one.keys() == []
    with pytest.raises(KeyManagerUnavailable):
        sign(made)


def test_two_processes_share_their_keys(lasting):
    here = lasting.open()
    made = here.generate(A, P256)
    there = lasting.other_process()
    assert there.ask("keys") == {A: fingerprint(made.public)}
    verify(made, bytes.fromhex(there.ask("sign", A, "data")))
    theirs = there.ask("generate", B, "ec-p256")
    assert shown_by(here) == {A: fingerprint(made.public), B: theirs}
    assert there.ask("generate", A, "ec-p256")["error"] == "AlreadyExists"
    assert there.end() == 0


def test_two_processes_that_generate_at_once_lose_no_key(lasting):
    others = [lasting.other_process(), lasting.other_process()]
    for number in range(10):
        for who, other in enumerate(others):
            other.tell("generate", f"key-{who}-{number}", "ec-p256")
    made = {f"key-{who}-{number}": other.answer() for who, other in enumerate(others) for number in range(10)}
    assert shown_by(lasting.open()) == made
    assert [other.end() for other in others] == [0, 0]


def test_a_process_killed_after_generating_leaves_its_key(lasting):
    killed = lasting.other_process()
    made = killed.ask("generate", A, "ec-p256")
    killed.kill()
    (key,) = lasting.open().keys()
    assert fingerprint(key.public) == made
    verify(key, sign(key))
    assert killed.end() < 0


def test_a_process_killed_while_generating_loses_no_key_that_it_told_of(lasting):
    killed = lasting.other_process()
    killed.tell("generate-many", "key")
    told = [killed.answer() for _ in range(8)]
    killed.kill()
    told += killed.answers()
    assert killed.end() < 0
    manager = lasting.open()
    keys = manager.keys()
    assert shown_by(manager).items() >= {one["id"]: one["fingerprint"] for one in told}.items()
    for key in keys:
        verify(key, sign(key))


def test_only_a_device_is_asked_for_attributes(backend, manager):
    assert isinstance(manager, KeyInspector) == isinstance(manager, SharedKeyManager) == (backend.name == "pkcs11")
