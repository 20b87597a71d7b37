"""Every return value that a token can answer with, from every function that is called: what the caller sees of it.

A fault either is cured unseen or is told by its kind; never does a wrong signature leave, nor a PIN that was refused
go out again; and when the fault is over, the next operation works.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from keymanagers.base import Key, KeyId, KeyType
from keymanagers.pkcs11.faults import FAULTS, Rung
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from keymanagers.pkcs11.returns import Rv, name_of
from spiffe_core.errors import (
    InvalidConfig,
    KeyManagerUnavailable,
    ResourceExhausted,
    SpiffeError,
    Unsupported,
)
from tests.support.shim import ALWAYS, Shim

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm

ECDSA = ec.ECDSA(hashes.SHA256())
VENDOR_DEFINED = 0x80000123


def values(names: str) -> frozenset[int]:
    return frozenset(Rv[name] for name in names.split())


CURED_BY_A_SESSION: Final = values(
    """GENERAL_ERROR FUNCTION_FAILED DEVICE_ERROR OPERATION_NOT_INITIALIZED SESSION_CLOSED SESSION_HANDLE_INVALID
    ARGUMENTS_BAD OPERATION_ACTIVE BUFFER_TOO_SMALL
    KEY_HANDLE_INVALID KEY_TYPE_INCONSISTENT KEY_FUNCTION_NOT_PERMITTED OBJECT_HANDLE_INVALID"""
)
CURED_BY_A_LOGIN: Final = values("USER_NOT_LOGGED_IN")
CURED_BY_THE_MODULE: Final = values(
    "SLOT_ID_INVALID DEVICE_REMOVED TOKEN_NOT_PRESENT TOKEN_NOT_RECOGNIZED CRYPTOKI_NOT_INITIALIZED"
)
THEN_BY_THE_MODULE: Final = CURED_BY_THE_MODULE | values(
    "GENERAL_ERROR FUNCTION_FAILED DEVICE_ERROR OPERATION_NOT_INITIALIZED SESSION_CLOSED SESSION_HANDLE_INVALID"
)
"""What re-initialising the module cures where a new session did not."""
CURED: Final = CURED_BY_A_SESSION | CURED_BY_A_LOGIN | CURED_BY_THE_MODULE
REFUSED_PIN: Final = values("PIN_INCORRECT PIN_INVALID PIN_LEN_RANGE")
TOLD: Final[dict[type[SpiffeError], frozenset[int]]] = {
    ResourceExhausted: values("HOST_MEMORY DEVICE_MEMORY"),
    Unsupported: values(
        """ATTRIBUTE_READ_ONLY ATTRIBUTE_SENSITIVE ATTRIBUTE_TYPE_INVALID ATTRIBUTE_VALUE_INVALID ACTION_PROHIBITED
        DATA_INVALID DATA_LEN_RANGE FUNCTION_NOT_SUPPORTED KEY_SIZE_RANGE MECHANISM_INVALID MECHANISM_PARAM_INVALID
        SESSION_READ_ONLY TEMPLATE_INCOMPLETE TEMPLATE_INCONSISTENT TOKEN_WRITE_PROTECTED DOMAIN_PARAMS_INVALID
        CURVE_NOT_SUPPORTED"""
    ),
    KeyManagerUnavailable: REFUSED_PIN
    | values(
        """PIN_EXPIRED PIN_LOCKED SESSION_COUNT SESSION_READ_WRITE_SO_EXISTS USER_PIN_NOT_INITIALIZED
        USER_ANOTHER_ALREADY_LOGGED_IN"""
    ),
}
PARTIAL: Final = values("ATTRIBUTE_SENSITIVE ATTRIBUTE_TYPE_INVALID BUFFER_TOO_SMALL")
"""From C_GetAttributeValue they are no faults: a value is not told, and then it is another key that shows."""

IN_A_PROVEN_SESSION: Final = ("C_SignInit", "C_Sign")
IN_A_NEW_SESSION: Final = (
    "C_OpenSession",
    "C_FindObjectsInit",
    "C_FindObjects",
    "C_FindObjectsFinal",
    "C_GetAttributeValue",
)
IN_A_NEW_LIFE: Final = ("C_Initialize", "C_Finalize", "C_GetSlotList", "C_GetTokenInfo", "C_GetSessionInfo", "C_Login")
"""Called when the module is re-initialised."""


class Bench:
    """One key in a token behind the shim."""

    def __init__(self, shim: Shim, manager: Pkcs11KeyManager) -> None:
        self.shim = shim
        self.manager = manager
        self.key: Key = manager.generate(KeyId("a"), KeyType.EC_P256)
        self.sign()

    def sign(self) -> None:
        """Sign; a signature that leaves is a right one."""
        assert isinstance(self.key.private, ec.EllipticCurvePrivateKey)
        signature = self.key.private.sign(b"data", ECDSA)
        self.key.private.public_key().verify(signature, b"data", ECDSA)

    def shown(self) -> list[str]:
        """The ids of the keys that show."""
        keys = self.manager.keys()
        return [key.id for key in keys]

    def outcome(self) -> type[SpiffeError] | None:
        """What a caller sees of one signature: None if all is well."""
        try:
            self.sign()
        except SpiffeError as exc:
            return type(exc)
        return None

    def in_a_new_session(self) -> None:
        """Let the next signature find its session closed, and the login alive."""
        self.shim.steal_sessions("own", self.shim.sessions - 1)

    def in_a_new_life(self) -> None:
        """Let the next signature re-initialise the module."""
        self.shim.fail("C_SignInit", Rv.DEVICE_REMOVED)

    def counts(self) -> tuple[int, int]:
        """The logins and the initialisations so far."""
        return self.shim.logins, self.shim.count("C_Initialize")

    def spent(self, before: tuple[int, int]) -> tuple[int, int]:
        """The logins and the initialisations since then."""
        logins, lives = self.counts()
        return logins - before[0], lives - before[1]


@pytest.fixture
def bench(shim: Shim, own_token) -> Iterator[Bench]:
    manager = Pkcs11KeyManager(own_token.config(module=shim.path))
    yield Bench(shim, manager)
    shim.heal()
    manager.close()


def told_by(rv: int) -> type[SpiffeError]:
    """What a caller sees of a fault that nothing cures."""
    return next((error for error, which in TOLD.items() if rv in which), KeyManagerUnavailable)


def differences(
    bench: Bench, function: str, seen: Callable[[int], object], prepare: Callable[[], None], times: int
) -> dict[str, object]:
    """What was seen by return value, where it is not what was to be seen."""
    found: dict[str, object] = {}
    for rv in FAULTS:
        if (function == "C_Login" and rv in REFUSED_PIN) or (function == "C_OpenSession" and rv == Rv.SESSION_COUNT):
            continue  # these leave their mark: they have tests of their own
        prepare()
        bench.shim.fail(function, rv, times)
        outcome = bench.outcome()
        if outcome is not seen(rv):
            found[name_of(rv)] = outcome
        bench.shim.heal()
        if bench.outcome() is not None:
            found[name_of(rv)] = "no recovery"
        prepare()  # the fault is over, and all its calls were made
        bench.sign()
    return found


def test_these_tables_and_the_table_of_faults_have_the_same_values():
    told = [rv for which in TOLD.values() for rv in which]
    assert len(told) + len(CURED) == len(FAULTS)
    assert {*told, *CURED} == set(FAULTS)
    assert all(fault.source.startswith("§5.1.") for fault in FAULTS.values())
    assert {rv for rv, fault in FAULTS.items() if fault.meaning.ladder} == CURED


@pytest.mark.parametrize("function", IN_A_PROVEN_SESSION)
def test_what_happens_once_to_a_signature_is_cured_unseen_by_the_cheapest_means_or_told(bench, function):
    found = {}
    for rv in FAULTS:
        before = bench.counts()
        bench.shim.fail(function, rv)
        seen = bench.outcome()
        wanted = None if rv in CURED else told_by(rv)
        # A login that the token says is there is not made again: a new session is all that is to be had.
        cost = (rv in CURED_BY_THE_MODULE, rv in CURED_BY_THE_MODULE)
        if (seen, bench.spent(before)) != (wanted, cost):
            found[name_of(rv)] = seen, bench.spent(before)
        bench.sign()
    assert found == {}


@pytest.mark.parametrize("function", IN_A_NEW_SESSION)
def test_what_happens_once_while_a_session_is_replaced_is_cured_by_the_module(bench, function):
    def seen(rv: int) -> object:
        return None if rv in THEN_BY_THE_MODULE | CURED_BY_A_LOGIN else told(function, rv)

    assert differences(bench, function, seen, bench.in_a_new_session, 1) == {}


@pytest.mark.parametrize("function", IN_A_NEW_LIFE)
def test_what_happens_once_while_the_module_is_re_initialised_is_told_and_over_with_the_next_operation(bench, function):
    def seen(rv: int) -> object:
        if function == "C_Initialize":  # some take threads without being told so
            return None if rv in values("ARGUMENTS_BAD FUNCTION_NOT_SUPPORTED") else KeyManagerUnavailable
        if function == "C_GetTokenInfo" and rv in values("TOKEN_NOT_PRESENT TOKEN_NOT_RECOGNIZED SLOT_ID_INVALID"):
            return KeyManagerUnavailable
        return told(function, rv)

    assert differences(bench, function, seen, bench.in_a_new_life, 1) == {}


@pytest.mark.parametrize("function", [*IN_A_PROVEN_SESSION, *IN_A_NEW_SESSION, *IN_A_NEW_LIFE])
def test_what_does_not_end_is_told_by_its_kind_and_over_with_the_next_operation(bench, function):
    prepare = bench.in_a_new_session if function in IN_A_NEW_SESSION else bench.in_a_new_life
    assert differences(bench, function, partial(told, function), prepare, ALWAYS) == {}


def told(function: str, rv: int) -> type[SpiffeError]:
    """What a caller sees of a fault from that function, if nothing cures it."""
    if function in {"C_Initialize", "C_Finalize"}:
        return KeyManagerUnavailable
    if function == "C_GetAttributeValue" and rv in PARTIAL:
        return KeyManagerUnavailable
    return told_by(rv)


@pytest.mark.parametrize("function", ["C_CloseSession"])
def test_that_a_session_cannot_be_closed_is_no_trouble(bench, function):
    assert differences(bench, function, lambda _rv: None, bench.in_a_new_session, ALWAYS) == {}


@pytest.mark.parametrize("times", [1, ALWAYS], ids=["once", "always"])
def test_a_value_of_a_vendors_own_is_taken_for_a_lost_device(bench, times):
    before = bench.counts()
    bench.shim.fail("C_Sign", VENDOR_DEFINED, times)
    assert bench.outcome() is (None if times == 1 else KeyManagerUnavailable)
    assert bench.spent(before) == ((0, 0) if times == 1 else (1, 1))
    bench.shim.heal()
    bench.sign()


@pytest.mark.parametrize("rv", sorted(REFUSED_PIN), ids=name_of)
def test_a_pin_that_was_refused_is_never_sent_again(bench, rv):
    bench.in_a_new_life()
    bench.shim.fail("C_Login", rv, ALWAYS)
    before = bench.counts()
    with pytest.raises(KeyManagerUnavailable, match=f"C_Login returned {name_of(rv)}; correct the PIN"):
        bench.sign()
    bench.shim.heal()
    for _ in range(3):
        with pytest.raises(KeyManagerUnavailable, match="has refused this PIN before; it is not tried again"):
            bench.sign()
    assert bench.spent(before)[0] == 1


@pytest.mark.parametrize("rv", sorted(REFUSED_PIN), ids=name_of)
def test_a_pin_that_is_refused_at_the_start_is_an_error_of_the_configuration(shim, own_token, rv):
    shim.fail("C_Login", rv)
    with pytest.raises(InvalidConfig, match=f'token "own": cannot be opened: C_Login returned {name_of(rv)}'):
        Pkcs11KeyManager(own_token.config(module=shim.path))


@pytest.mark.parametrize(
    ("function", "after"), [("C_GenerateKeyPair", 0), ("C_FindObjectsInit", 2), ("C_GetAttributeValue", 1)]
)
def test_a_key_is_never_made_twice_for_one_order(bench, function, after):
    lost = values("DEVICE_ERROR SESSION_HANDLE_INVALID GENERAL_ERROR")
    for number, rv in enumerate(sorted(lost)):
        made = bench.shim.count("C_GenerateKeyPair")
        # Searches before the key is made may be repeated; what is asked of the key that was made may not.
        bench.shim.fail(function, rv, after=after, late=not after)
        with pytest.raises(KeyManagerUnavailable, match=f"{function} returned {name_of(rv)}"):
            bench.manager.generate(KeyId(f"key-{number}"), KeyType.EC_P256)
        assert bench.shim.count("C_GenerateKeyPair") - made == 1
        bench.shim.heal()
        assert bench.shown() == ["a", f"key-{number}"]
        bench.manager.retire(KeyId(f"key-{number}"))


def test_destroying_is_repeated_until_nothing_of_the_key_is_left(bench):
    for rv in values("DEVICE_ERROR SESSION_HANDLE_INVALID USER_NOT_LOGGED_IN TOKEN_NOT_PRESENT"):
        bench.manager.generate(KeyId("b"), KeyType.EC_P256)
        bench.shim.fail("C_DestroyObject", rv, after=1)
        bench.manager.retire(KeyId("b"))
        assert bench.shown() == ["a"]


def test_the_rungs_are_climbed_from_the_cheapest_to_the_one_that_disturbs_all():
    assert list(Rung) == [Rung.SESSION, Rung.LOGIN, Rung.MODULE]
    assert all(list(fault.meaning.ladder) == sorted(fault.meaning.ladder) for fault in FAULTS.values())
