"""The negative test of keys in a token: what SoftHSM answers to whoever is after a key, ours or a loose one."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from keymanagers.base import Attempt, Examination, KeyId, KeyProver, KeyType, Outcome
from keymanagers.disk import DiskConfig, DiskKeyManager
from keymanagers.memory import MemoryKeyManager
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from keymanagers.pkcs11.returns import Rv
from spiffe_core.errors import KeyNotFound
from tests.support.planted_keys import LOOSE, STRICT, WRAPPABLE, plant

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm

A = KeyId("a")
REFUSED_CHANGES = {
    "C_CopyObject(CKA_EXTRACTABLE = true)": "CKR_ACTION_PROHIBITED",
    "C_CopyObject(CKA_SENSITIVE = false)": "CKR_ACTION_PROHIBITED",
    "C_SetAttributeValue(CKA_EXTRACTABLE = true)": "CKR_ACTION_PROHIBITED",
    "C_SetAttributeValue(CKA_SENSITIVE = false)": "CKR_ACTION_PROHIBITED",
}
RSA_VALUES = ("PRIVATE_EXPONENT", "PRIME_1", "PRIME_2", "EXPONENT_1", "EXPONENT_2", "COEFFICIENT")


@pytest.fixture
def manager(softhsm_token) -> Iterator[Pkcs11KeyManager]:
    with closing(Pkcs11KeyManager(softhsm_token.config())) as manager:
        yield manager


def examined(manager: KeyProver, key_id: KeyId = A) -> Examination:
    [one] = manager.examine(key_id, attempt=True)
    return one


def answers(attempts: Sequence[Attempt], outcome: Outcome) -> dict[str, str]:
    return {one.way: one.answer for one in attempts if one.outcome is outcome}


@pytest.mark.parametrize("key_type", KeyType)
def test_every_way_to_the_value_of_a_key_of_ours_is_refused_with_the_reason_that_it_must_have(manager, key_type):
    manager.generate(A, key_type)
    assert isinstance(manager, KeyProver)
    found = examined(manager)
    values = ("VALUE",) if key_type.curve else RSA_VALUES
    assert answers(found.attempts, Outcome.REFUSED) == {
        **{f"C_GetAttributeValue(CKA_{name})": "CKR_ATTRIBUTE_SENSITIVE" for name in values},
        "C_WrapKey(CKM_AES_KEY_WRAP_PAD)": "CKR_KEY_UNEXTRACTABLE",
        **REFUSED_CHANGES,
    }
    assert answers(found.attempts, Outcome.IMPOSSIBLE).keys() <= {"C_WrapKey(CKM_AES_CBC_PAD)"}
    assert found.problems == ()
    assert manager.attributes(A) == found.attributes


def test_a_token_is_named_with_its_serial_number(manager, softhsm_token):
    manager.generate(A, KeyType.EC_P256)
    found = examined(manager)
    assert (found.device, found.serial) == (softhsm_token.label, manager.status()[0].serial)
    assert found.serial


def test_without_the_attempts_the_attributes_are_read_and_nothing_else(manager):
    manager.generate(A, KeyType.EC_P256)
    [found] = manager.examine(A, attempt=False)
    assert found.attempts == ()
    assert found.attributes["CKA_LABEL"] == "example.org/a"


def test_a_key_that_gives_its_value_away_is_found_out_by_each_way(manager, softhsm_token):
    plant(softhsm_token, A, LOOSE)
    found = examined(manager)
    gave = answers(found.attempts, Outcome.GAVE_WAY)
    assert gave.pop("C_GetAttributeValue(CKA_VALUE)") in {"it gave 31 bytes", "it gave 32 bytes"}
    assert gave.pop("C_WrapKey(CKM_AES_KEY_WRAP_PAD)").startswith("it gave ")
    gave.pop("C_WrapKey(CKM_AES_CBC_PAD)", None)
    assert gave == {
        "C_CopyObject(CKA_EXTRACTABLE = true)": "it made the copy, which was destroyed",
        "C_CopyObject(CKA_SENSITIVE = false)": "it made the copy, which was destroyed",
        "C_SetAttributeValue(CKA_EXTRACTABLE = true)": "it is so already",
        "C_SetAttributeValue(CKA_SENSITIVE = false)": "it is so already",
    }
    assert found.wanting == (
        "CKA_SENSITIVE is false",
        "CKA_ALWAYS_SENSITIVE is false",
        "CKA_EXTRACTABLE is true",
        "CKA_NEVER_EXTRACTABLE is false",
    )
    assert "C_WrapKey(CKM_AES_KEY_WRAP_PAD) gave way: it gave" in " ".join(found.problems)


def test_the_attempts_leave_a_loose_key_as_it_was_and_no_copy(manager, softhsm_token):
    plant(softhsm_token, A, LOOSE)
    before = manager.examine(A, attempt=False)
    examined(manager)
    assert manager.examine(A, attempt=False) == before
    assert [key.id for key in manager.keys()] == [A]  # noqa: SIM118  no mapping


def test_a_key_that_lets_itself_be_wrapped_is_found_out_though_it_shows_its_value_to_nobody(manager, softhsm_token):
    plant(softhsm_token, A, WRAPPABLE)
    found = examined(manager)
    assert answers(found.attempts, Outcome.REFUSED)["C_GetAttributeValue(CKA_VALUE)"] == "CKR_ATTRIBUTE_SENSITIVE"
    assert answers(found.attempts, Outcome.GAVE_WAY)["C_WrapKey(CKM_AES_KEY_WRAP_PAD)"].startswith("it gave ")
    assert found.wanting == ("CKA_EXTRACTABLE is true", "CKA_NEVER_EXTRACTABLE is false")


def test_a_strict_key_that_may_be_changed_still_cannot_be_loosened(manager, softhsm_token):
    plant(softhsm_token, A, STRICT)
    found = examined(manager)
    refused = answers(found.attempts, Outcome.REFUSED)
    assert {way: refused[way] for way in REFUSED_CHANGES} == dict.fromkeys(REFUSED_CHANGES, "CKR_ATTRIBUTE_READ_ONLY")
    assert found.problems == ()


def test_a_second_private_key_under_the_id_of_a_key_is_a_problem(manager, softhsm_token):
    manager.generate(A, KeyType.EC_P256)
    plant(softhsm_token, A, LOOSE, public=False)
    first, second = manager.examine(A, attempt=True)
    more = "it holds 2 private keys under the CKA_ID of this one"
    assert first.problems[0] == second.problems[0] == more
    assert {len(first.problems), len(second.problems)} > {1}


def test_an_unknown_key_is_an_error(manager):
    with pytest.raises(KeyNotFound, match=r'no key "a" of group "example\.org"'):
        manager.examine(A, attempt=True)


def test_keys_in_memory_or_in_a_file_are_not_said_to_be_proven(tmp_path):
    with closing(MemoryKeyManager()) as memory, closing(DiskKeyManager(DiskConfig(directory=tmp_path))) as disk:
        assert not isinstance(memory, KeyProver)
        assert not isinstance(disk, KeyProver)


def test_each_of_several_tokens_is_examined_and_one_without_the_key_says_so(token_pool):
    with token_pool.borrow() as east, token_pool.borrow() as west:
        uris = tuple(f"pkcs11:token={one.label}?pin-source=file:{one.pin_file}" for one in (east, west))
        config = east.config(token="", pin_source="", tokens=uris)
        with closing(Pkcs11KeyManager(config)) as manager:
            manager.generate(A, KeyType.EC_P256)
            first, second = manager.examine(A, attempt=True)
            with pytest.raises(KeyNotFound):
                manager.examine(KeyId("b"), attempt=True)
    assert (first.device, first.problems) == (east.label, ())
    assert (second.device, second.attempts) == (west.label, ())
    assert second.problems[0].startswith("it does not hold the key: its vendor's means must copy it")
    assert first.serial != second.serial


# -- answers that prove nothing, from a module that gives them when it is told to


def test_a_refusal_for_another_reason_proves_nothing(shim, own_token):
    with closing(Pkcs11KeyManager(own_token.config(module=shim.path))) as manager:
        manager.generate(A, KeyType.EC_P256)
        shim.fail("C_WrapKey", Rv.KEY_SIZE_RANGE, 2)
        found = examined(manager)
    unclear = answers(found.attempts, Outcome.UNCLEAR)
    assert unclear["C_WrapKey(CKM_AES_KEY_WRAP_PAD)"] == "CKR_KEY_SIZE_RANGE"
    assert "C_WrapKey(CKM_AES_KEY_WRAP_PAD) unclear: CKR_KEY_SIZE_RANGE" in found.problems


@pytest.mark.parametrize("function", ["C_WrapKey", "C_CopyObject", "C_SetAttributeValue"])
def test_a_token_that_knows_no_such_function_has_no_such_way(shim, own_token, function):
    with closing(Pkcs11KeyManager(own_token.config(module=shim.path))) as manager:
        manager.generate(A, KeyType.EC_P256)
        shim.fail(function, Rv.FUNCTION_NOT_SUPPORTED, 2)
        found = examined(manager)
    impossible = answers(found.attempts, Outcome.IMPOSSIBLE)
    assert {way.partition("(")[0] for way in impossible} >= {function}
    assert found.problems == ()


def test_a_token_that_makes_no_wrapping_keys_has_no_way_to_wrap(shim, own_token):
    with closing(Pkcs11KeyManager(own_token.config(module=shim.path))) as manager:
        manager.generate(A, KeyType.EC_P256)
        shim.fail("C_GenerateKey", Rv.FUNCTION_NOT_SUPPORTED)
        found = examined(manager)
    assert answers(found.attempts, Outcome.IMPOSSIBLE) == {
        f"C_WrapKey({name})": "C_GenerateKey for a wrapping key: CKR_FUNCTION_NOT_SUPPORTED"
        for name in ("CKM_AES_KEY_WRAP_PAD", "CKM_AES_CBC_PAD")
    }


def test_a_session_that_dies_in_the_middle_is_no_refusal_and_the_test_is_made_anew(shim, own_token):
    with closing(Pkcs11KeyManager(own_token.config(module=shim.path))) as manager:
        manager.generate(A, KeyType.EC_P256)
        shim.fail("C_CopyObject", Rv.SESSION_HANDLE_INVALID)
        shim.fail("C_GetSessionInfo", Rv.SESSION_HANDLE_INVALID, after=2)
        found = examined(manager)
        assert shim.failing == 0
    assert len(answers(found.attempts, Outcome.REFUSED)) >= 6
    assert found.problems == ()


def test_a_token_that_is_away_cannot_be_examined_and_says_why(shim, own_token):
    with closing(Pkcs11KeyManager(own_token.config(module=shim.path))) as manager:
        manager.generate(A, KeyType.EC_P256)
        shim.remove(own_token.label)
        found = examined(manager)
    assert found.attempts == ()
    [why] = found.problems
    assert why.startswith('token "own": cannot examine key "a"')
