"""SPIRE's key ids on key managers that use none twice."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymanagers.base import Key, KeyId, KeyManager, KeyType, fingerprint
from keymanagers.memory import MemoryKeyManager
from plugin.slots import KeySlots, SeriesKey
from spiffe_core.errors import FailedPrecondition, InvalidInput, KeyManagerUnavailable

A, B = "x509-CA-A", "x509-CA-B"
P256 = KeyType.EC_P256


def ids_in(manager: KeyManager) -> list[str]:
    shown = manager.keys()
    return [key.id for key in shown]


class Watched:
    """A key manager in memory that somebody else uses too, or that refuses to destroy."""

    def __init__(self) -> None:
        self._real = MemoryKeyManager()
        self.after_generating: list[str] = []
        self.refuses_to_retire = False

    def generate(self, key_id: KeyId, key_type: KeyType) -> Key:
        made = self._real.generate(key_id, key_type)
        for other in self.after_generating:
            self._real.generate(KeyId(other), key_type)
        return made

    def keys(self) -> Sequence[Key]:
        return self._real.keys()

    def retire(self, key_id: KeyId) -> None:
        if self.refuses_to_retire:
            raise KeyManagerUnavailable("the token is away")
        self._real.retire(key_id)

    def close(self) -> None:
        self._real.close()


def test_a_key_that_is_generated_again_replaces_the_one_of_its_id():
    manager = MemoryKeyManager()
    slots = KeySlots(manager)
    first = slots.generate(A, P256)
    other = slots.generate(B, P256)
    second = slots.generate(A, KeyType.EC_P384)
    assert fingerprint(first.public) != fingerprint(second.public)
    assert {name: key.type for name, key in slots.all().items()} == {A: KeyType.EC_P384, B: P256}
    assert slots.find(B) is other
    assert ids_in(manager) == ["x509-CA-A..2", "x509-CA-B..1"]


def test_what_counts_is_read_from_the_key_manager_alone():
    manager = MemoryKeyManager()
    KeySlots(manager).generate(A, P256)
    second = KeySlots(manager).generate(A, P256)
    fresh = KeySlots(manager)
    assert fresh.find(A) is second
    assert fresh.find(B) is None


def test_an_earlier_key_that_is_still_there_does_not_count():
    manager = MemoryKeyManager()
    for number in (9, 10, 2):
        manager.generate(KeyId(f"{A}..{number}"), P256)
    assert KeySlots(manager).all()[A].id == f"{A}..10"


def test_keys_that_are_in_no_series_are_neither_shown_nor_touched():
    manager = MemoryKeyManager()
    foreign = ["x509-20260101-abc", "x509-CA-A", "x509-CA-A..0", "x509-CA-A..01", "x509-CA-A..1.", ".zz..1"]
    for key_id in foreign:
        manager.generate(KeyId(key_id), P256)
    slots = KeySlots(manager)
    assert slots.all() == {}
    slots.generate(A, P256)
    slots.generate(A, P256)
    assert ids_in(manager) == sorted([*foreign, "x509-CA-A..2"])


def test_a_key_that_could_not_be_destroyed_goes_with_the_next_one():
    manager = Watched()
    slots = KeySlots(manager)
    slots.generate(A, P256)
    manager.refuses_to_retire = True
    second = slots.generate(A, P256)
    assert slots.all()[A] is second
    assert ids_in(manager) == ["x509-CA-A..1", "x509-CA-A..2"]
    manager.refuses_to_retire = False
    slots.generate(A, P256)
    assert ids_in(manager) == ["x509-CA-A..3"]


def test_nothing_is_destroyed_when_another_process_makes_keys_of_that_id_too():
    manager = Watched()
    slots = KeySlots(manager)
    slots.generate(A, P256)
    manager.after_generating = [f"{A}..3"]
    with pytest.raises(FailedPrecondition, match="authority_group"):
        slots.generate(A, P256)
    assert ids_in(manager) == [f"{A}..1", f"{A}..2", f"{A}..3"]


@pytest.mark.parametrize("spire_id", ["", "a" * 130, "ä" * 50], ids=["empty", "long", "long-escaped"])
def test_an_id_that_cannot_be_kept_is_refused(spire_id):
    with pytest.raises(InvalidInput, match="key id"):
        KeySlots(MemoryKeyManager()).generate(spire_id, P256)


@given(st.text(min_size=1, max_size=12), st.integers(1, 10**9))
def test_every_id_of_spires_is_read_back_from_ours(spire_id, number):
    place = SeriesKey(spire_id.encode(errors="replace").decode(), number)
    assert SeriesKey.parse(place.key_id) == place


@given(st.text(alphabet="aA0._-", min_size=1, max_size=12))
def test_no_two_of_our_ids_are_one_key_of_spires(key_id):
    place = SeriesKey.parse(KeyId(key_id))
    assert place is None or place.key_id == key_id
