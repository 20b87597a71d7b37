"""Keys in the places of a key manager that replaces keys and destroys none."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from keymanagers.base import Key, KeyId, KeyType
from keymanagers.external import ExternalKeyManager
from spiffe_core.bundle import PublicKey
from spiffe_core.errors import InvalidConfig, KeyManagerUnavailable, KeyNotFound

A, B, C = KeyId("a"), KeyId("b"), KeyId("c")
P256 = KeyType.EC_P256


@dataclass(frozen=True)
class Shown:
    public: PublicKey
    fingerprint: str


class FakePlaces:
    """A key manager of SPIRE's kind, in memory."""

    def __init__(self) -> None:
        self.keys: dict[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey] = {}
        self.generated: list[str] = []
        self.closed = False
        self.empty_signature = False

    def generate(self, place: str, key_type: KeyType) -> Shown:
        self.generated.append(place)
        if key_type.curve is None:
            self.keys[place] = rsa.generate_private_key(65537, key_type.bits)
        else:
            self.keys[place] = ec.generate_private_key(key_type.curve)
        return self.shown()[place]

    def shown(self) -> Mapping[str, Shown]:
        return {place: Shown(key.public_key(), name_of(key.public_key())) for place, key in self.keys.items()}

    def sign(self, place: str, digest: bytes, hash_name: str, pss_salt: int | None) -> tuple[bytes, str]:
        key = self.keys[place]
        if self.empty_signature:
            return b"", name_of(key.public_key())
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert (hash_name, pss_salt) == ("sha256", None)
        return key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))), name_of(key.public_key())

    def close(self) -> None:
        self.closed = True


def name_of(key: PublicKey) -> str:
    """How this key manager calls a key."""
    return f"a key of {key.key_size} bits, {hash(key.public_numbers())}"


@pytest.fixture
def places():
    return FakePlaces()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def manager(places, file):
    return ExternalKeyManager(places, file)


def ids(manager):
    shown = manager.keys()
    return [key.id for key in shown]


def sign(key: Key) -> None:
    assert isinstance(key.private, ec.EllipticCurvePrivateKey)
    assert isinstance(key.public, ec.EllipticCurvePublicKey)
    signature = key.private.sign(b"data", ec.ECDSA(hashes.SHA256()))
    key.public.verify(signature, b"data", ec.ECDSA(hashes.SHA256()))


def test_each_key_has_a_place_of_its_own(manager, places):
    for key_id in (A, B):
        sign(manager.generate(key_id, P256))
    assert sorted(places.keys) == ["steeple-0", "steeple-1"]
    assert ids(manager) == [A, B]


def test_a_retired_key_is_replaced_by_one_that_nobody_uses_and_its_place_is_used_again(manager, places):
    retired = manager.generate(A, P256)
    manager.generate(B, P256)
    manager.retire(A)
    assert places.keys["steeple-0"].public_key() != retired.public
    assert ids(manager) == [B]
    with pytest.raises(KeyManagerUnavailable, match='"a" signs no more: it was retired'):
        sign(retired)
    sign(manager.generate(C, P256))
    assert sorted(places.keys) == ["steeple-0", "steeple-1"]
    with pytest.raises(KeyNotFound, match='"a"'):
        manager.retire(A)


def test_a_key_that_another_process_retired_signs_nothing(places, file):
    ours, theirs = ExternalKeyManager(places, file), ExternalKeyManager(places, file)
    key = ours.generate(A, P256)
    theirs.retire(A)
    theirs.generate(B, P256)
    with pytest.raises(KeyManagerUnavailable, match=r'"a" signs no more: fingerprint .* does not match'):
        sign(key)


def test_an_old_file_costs_no_key(manager, places, file):
    manager.generate(A, P256)
    old = file.read_bytes()
    later = manager.generate(B, P256)
    file.write_bytes(old)
    restored = ExternalKeyManager(places, file)
    restored.generate(C, P256)
    assert places.keys["steeple-1"].public_key() == later.public
    assert places.generated == ["steeple-0", "steeple-1", "steeple-2"]


def test_a_place_that_was_freed_and_holds_another_key_since_is_not_used(manager, places):
    manager.generate(A, P256)
    manager.retire(A)
    foreign = places.generate("steeple-0", P256)
    manager.generate(B, P256)
    assert places.shown()["steeple-0"].public == foreign.public
    assert "steeple-1" in places.keys


def test_keys_of_others_are_neither_shown_nor_touched(manager, places):
    places.generate("x509-CA-A", P256)
    manager.generate(A, P256)
    manager.retire(A)
    assert ids(manager) == []
    assert places.generated.count("x509-CA-A") == 1


def test_a_key_that_is_not_in_its_place_is_not_shown(manager, places):
    manager.generate(A, P256)
    manager.generate(B, P256)
    places.generate("steeple-0", P256)
    del places.keys["steeple-1"]
    assert ids(manager) == []


@pytest.mark.parametrize(("change", "state"), [("other", "another one"), ("gone", "missing")])
def test_a_key_manager_that_came_back_without_a_key_is_not_used(manager, places, change, state):
    manager.generate(A, P256)
    manager.generate(B, P256)
    manager.compare(places.shown())
    if change == "gone":
        del places.keys["steeple-1"]
    else:
        places.generate("steeple-1", P256)
    with pytest.raises(KeyManagerUnavailable, match=rf'key "b" \(place "steeple-1"\) is {state} since'):
        manager.compare(places.shown())
    manager.retire(B)
    manager.compare(places.shown())


def test_an_empty_signature_is_none(manager, places):
    key = manager.generate(A, P256)
    places.empty_signature = True
    with pytest.raises(KeyManagerUnavailable, match="empty signature"):
        sign(key)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"keys": {}}', b'{"keys": {"a": {}}, "free": {}}', b'{"keys": {"a/b": 1}, "free": {}}', b"\xff"],
)
def test_a_damaged_file_stops_the_start_and_stays(places, file, content):
    file.write_bytes(content)
    with pytest.raises(InvalidConfig, match="is damaged: it does not say which key is where; restore it"):
        ExternalKeyManager(places, file)
    assert file.read_bytes() == content


def test_the_file_holds_no_secret_and_is_private(manager, file):
    manager.generate(A, P256)
    document = json.loads(file.read_bytes())
    assert document["keys"]["a"].keys() == {"place", "fingerprint"}
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("scheme", "hashed"),
    [
        (padding.PSS(padding.MGF1(hashes.SHA512()), 20), hashes.SHA256()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 0), hashes.SHA256()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO), hashes.SHA256()),
        (padding.PKCS1v15(), hashes.SHA224()),
    ],
    ids=["two-hashes", "no-salt", "auto", "hash"],
)
def test_what_the_interface_cannot_ask_for_is_refused(manager, scheme, hashed):
    key = manager.generate(A, KeyType.RSA_2048)
    assert isinstance(key.private, rsa.RSAPrivateKey)
    with pytest.raises(UnsupportedAlgorithm):
        key.private.sign(b"data", scheme, hashed)


def test_closing_closes_the_other_side_once(manager, places):
    key = manager.generate(A, P256)
    manager.close()
    assert places.closed
    places.closed = False
    manager.close()
    assert not places.closed
    with pytest.raises(KeyManagerUnavailable, match="closed"):
        sign(key)
