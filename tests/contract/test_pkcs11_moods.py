"""A token in the moods that hardware has: sessions die, handles move, calls hang, the token goes and comes back."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from keymanagers.base import Key, KeyId, KeyType
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from keymanagers.pkcs11.returns import Rv
from spiffe_core.errors import KeyManagerUnavailable
from tests.support.server_processes import wait_until
from tests.support.shim import ALWAYS, Shim

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm

A, B = KeyId("a"), KeyId("b")
ECDSA = ec.ECDSA(hashes.SHA256())
SOON = timedelta(seconds=0.2)

Open = Callable[..., Pkcs11KeyManager]


@pytest.fixture
def opened(shim: Shim, own_token) -> Iterator[Open]:
    """Opens key managers on the token behind the shim and closes them."""
    managers: list[Pkcs11KeyManager] = []

    def open_manager(**changed) -> Pkcs11KeyManager:
        managers.append(Pkcs11KeyManager(own_token.config(module=shim.path, **changed)))
        return managers[-1]

    yield open_manager
    shim.release()
    shim.heal()
    for manager in managers:
        manager.close()


def made(manager: Pkcs11KeyManager, key_id: KeyId = A) -> Key:
    return manager.generate(key_id, KeyType.EC_P256)


def signature_of(key: Key) -> bytes:
    assert isinstance(key.private, ec.EllipticCurvePrivateKey)
    return key.private.sign(b"data", ECDSA)


def sign(key: Key) -> None:
    """Sign; what leaves is a right signature."""
    assert isinstance(key.public, ec.EllipticCurvePublicKey)
    key.public.verify(signature_of(key), b"data", ECDSA)


def at_once(work: Callable[[], object], times: int) -> list[BaseException | None]:
    """What became of it in so many threads that begin together."""
    together = threading.Barrier(times)

    def run() -> None:
        together.wait(30.0)
        work()

    with ThreadPoolExecutor(times) as pool:
        return [future.exception() for future in [pool.submit(run) for _ in range(times)]]


# -- sessions and login


def test_sessions_that_died_in_the_pool_are_replaced_one_by_one_and_the_module_is_left_alone(shim, opened):
    manager = opened()
    key = made(manager)
    shim.delay("C_Sign", 0.02)
    assert at_once(lambda: sign(key), 4) == [None] * 4
    shim.delay("C_Sign", 0)
    logins, open_before = shim.logins, shim.sessions
    assert open_before > 2
    shim.steal_sessions("own", open_before - 1)
    for _ in range(open_before):
        sign(key)
    assert (shim.count("C_Initialize"), shim.logins) == (1, logins)
    assert shim.sessions <= open_before


def test_a_session_in_which_something_failed_is_never_used_again(shim, opened):
    key = made(opened())
    sign(key)
    closed = shim.count("C_CloseSession")
    shim.fail("C_Sign", Rv.DATA_LEN_RANGE)
    with pytest.raises(Exception, match="CKR_DATA_LEN_RANGE"):
        sign(key)
    assert shim.count("C_CloseSession") == closed + 1


def test_when_all_sessions_are_gone_the_login_is_renewed_and_the_module_is_left_alone(shim, opened):
    key = made(opened())
    shim.steal_sessions("own")
    sign(key)
    assert (shim.count("C_Initialize"), shim.logins) == (1, 2)


def test_a_logout_behind_our_back_is_made_good_once_for_all_threads(shim, opened):
    key = made(opened())
    assert at_once(lambda: sign(key), 4) == [None] * 4
    shim.log_out("own")
    assert at_once(lambda: sign(key), 4) == [None] * 4
    assert (shim.count("C_Initialize"), shim.logins) == (1, 2)


def test_a_token_with_a_single_session_does_with_it(shim, opened):
    shim.allow_sessions(1)
    manager = opened()
    key = made(manager)
    assert at_once(lambda: sign(key), 4) == [None] * 4
    assert manager.attributes(A)["CKA_EXTRACTABLE"] is False
    shim.fail("C_Sign", Rv.DEVICE_ERROR)
    sign(key)
    manager.retire(A)
    assert shim.sessions == 1
    assert manager.status()[0].bound == 1


def test_a_token_that_tells_its_limit_is_never_asked_for_more(shim, opened):
    shim.allow_sessions(3)
    manager = opened()
    key = made(manager)
    shim.delay("C_Sign", 0.02)
    assert at_once(lambda: sign(key), 6) == [None] * 6
    assert manager.status()[0].bound == 2
    assert (shim.sessions, shim.most_inside("C_Sign")) == (3, 2)


def test_where_other_programs_hold_the_last_sessions_those_that_are_open_must_do(shim, opened):
    shim.allow_sessions(3, told=False)
    manager = opened()
    key = made(manager)
    shim.delay("C_Sign", 0.02)
    assert at_once(lambda: sign(key), 6) == [None] * 6
    assert manager.status()[0].bound < 16
    assert shim.most_inside("C_Sign") == 2


def test_sessions_that_other_programs_gave_back_are_used_in_time(shim, own_token):
    now = [1000.0]
    shim.allow_sessions(3, told=False)
    config = own_token.config(module=shim.path, max_sessions=3)
    with closing(Pkcs11KeyManager(config, monotonic=lambda: now[0])) as manager:
        key = made(manager)
        shim.delay("C_Sign", 0.02)
        assert at_once(lambda: sign(key), 6) == [None] * 6
        assert manager.status()[0].bound == 2
        shim.heal()
        now[0] += 29.0
        sign(key)
        assert manager.status()[0].bound == 2
        now[0] += 2.0
        sign(key)
        assert at_once(lambda: sign(key), 6) == [None] * 6
        assert (manager.status()[0].bound, shim.most_inside("C_Sign")) == (3, 3)


def test_a_module_that_takes_no_threads_is_entered_by_one_at_a_time(shim, opened):
    shim.refuse_locking()
    manager = opened()
    key = made(manager)
    shim.delay("C_Sign", 0.005)
    assert at_once(lambda: sign(key), 4) == [None] * 4
    assert shim.most_inside("C_Sign") == 1


# -- keys and signatures


def test_a_handle_that_names_another_key_signs_nothing_that_leaves(shim, opened):
    manager = opened(verify_signatures=True)
    key, other = made(manager), made(manager, B)
    sign(other)
    shim.sign_as(shim.last_key)
    with pytest.raises(KeyManagerUnavailable, match="a signature is not that of the key; nothing was signed: find out"):
        sign(key)
    assert 'key "a"' in manager.status()[0].trouble
    shim.sign_as(0)
    sign(key)
    manager.check()
    assert manager.status()[0].trouble == ""


def test_a_handle_that_names_another_key_in_a_new_session_is_found_out_without_being_told_to(shim, opened):
    manager = opened(verify_signatures=False)
    key, other = made(manager), made(manager, B)
    sign(other)
    shim.sign_as(shim.last_key)
    shim.steal_sessions("own", shim.sessions - 1)
    with pytest.raises(KeyManagerUnavailable, match="a signature is not that of the key"):
        sign(key)


def test_a_wrong_signature_of_a_faulty_device_does_not_leave_and_another_is_made(shim, opened):
    key = made(opened(verify_signatures=True))
    sign(key)
    shim.corrupt_signatures(1)
    sign(key)
    shim.corrupt_signatures(ALWAYS)
    with pytest.raises(KeyManagerUnavailable, match="a signature is not that of the key"):
        sign(key)


def test_it_is_the_check_that_keeps_a_wrong_signature_back(shim, opened):
    key = made(opened(verify_signatures=False))
    sign(key)
    shim.corrupt_signatures(1)
    with pytest.raises(InvalidSignature):
        sign(key)


# -- the token


def test_a_token_that_is_taken_out_is_missed_and_works_when_it_is_back(shim, opened):
    manager = opened()
    key = made(manager)
    shim.remove("own")
    for _ in range(3):
        with pytest.raises(KeyManagerUnavailable, match=r'token "own": cannot sign .* check the device'):
            sign(key)
        with pytest.raises(KeyManagerUnavailable):
            manager.keys()
    (status,) = manager.status()
    assert 'token "own"' in status.trouble
    shim.restore()
    sign(key)
    assert manager.status()[0].trouble == ""


@pytest.mark.parametrize("rv", [Rv.GENERAL_ERROR, Rv.FUNCTION_FAILED, Rv.DEVICE_ERROR, Rv.CRYPTOKI_NOT_INITIALIZED])
def test_a_library_that_only_a_new_start_brings_back_is_started_anew(shim, opened, rv):
    manager = opened()
    key = made(manager)
    sign(key)
    shim.wedge(rv)
    assert at_once(lambda: sign(key), 4) == [None] * 4
    assert shim.count("C_Initialize") == 2


def test_a_token_that_stays_away_is_not_asked_for_all_the_time(shim, opened):
    manager = opened(reinitialize_interval=timedelta(hours=1))
    key = made(manager)
    shim.remove("own")
    for _ in range(50):
        with pytest.raises(KeyManagerUnavailable):
            sign(key)
    assert shim.count("C_Initialize") < 10
    shim.restore()
    wait_until(lambda: at_once(lambda: sign(key), 1) == [None])


def test_a_login_that_fails_is_not_tried_by_every_operation(shim, opened):
    manager = opened(reinitialize_interval=timedelta(hours=1))
    key = made(manager)
    shim.fail("C_SignInit", Rv.DEVICE_REMOVED)
    shim.fail("C_Login", Rv.DEVICE_ERROR, ALWAYS)
    for _ in range(50):
        with pytest.raises(KeyManagerUnavailable, match=r"C_Login returned CKR_DEVICE_ERROR"):
            sign(key)
    assert shim.logins < 10
    shim.heal()
    wait_until(lambda: at_once(lambda: sign(key), 1) == [None])


# -- calls that hang


def test_a_call_that_hangs_costs_one_session_and_the_others_go_on(shim, opened):
    manager = opened(timeout=SOON)
    key = made(manager)
    sign(key)
    shim.hang("C_Sign")
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(signature_of, key)
        wait_until(lambda: shim.hanging == 1)
        assert len(manager.keys()) == 1
        wait_until(lambda: manager.status()[0].hanging == 1)
        assert manager.status()[0].trouble == 'token "own": 1 operations do not return'
        # The module cannot be re-initialised now, and nobody is kept waiting for it.
        shim.fail("C_FindObjectsInit", Rv.DEVICE_REMOVED)
        with pytest.raises(KeyManagerUnavailable, match="cannot be re-initialised: 1 calls have not returned"):
            manager.keys()
        assert len(manager.keys()) == 1
        shim.release()
        assert hanging.result(30.0)
    sign(key)
    assert manager.status()[0].trouble == ""


def test_when_every_session_hangs_the_next_operation_is_refused_in_time(shim, opened):
    manager = opened(timeout=SOON, max_sessions=2)
    key = made(manager)
    shim.hang("C_Sign")
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(signature_of, key)
        wait_until(lambda: shim.hanging == 2)
        with pytest.raises(KeyManagerUnavailable, match=r"none of its 2 sessions became free in 0\.2 s"):
            sign(key)
        wait_until(lambda: manager.status()[0].hanging == 2)
        shim.release()
    sign(key)


def test_a_login_that_hangs_is_not_waited_for_by_another_key_manager_of_the_module(shim, opened):
    manager = opened(timeout=SOON)
    key = made(manager)
    shim.hang("C_Login")
    shim.log_out("own")
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(signature_of, key)
        wait_until(lambda: shim.hanging == 1)
        with pytest.raises(KeyManagerUnavailable, match="a login or an opened session does not return"):
            opened(timeout=SOON, authority_group="other.org")
        with pytest.raises(KeyManagerUnavailable, match="a login or an opened session does not return"):
            sign(key)
        shim.release()
        assert hanging.result(30.0)
    opened(timeout=SOON, authority_group="other.org")


def test_a_key_manager_can_be_closed_while_a_call_hangs(shim, own_token):
    manager = Pkcs11KeyManager(own_token.config(module=shim.path, timeout=SOON))
    key = made(manager)
    shim.hang("C_Sign")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(signature_of, key)
        wait_until(lambda: shim.hanging == 1)
        manager.close()
        with pytest.raises(KeyManagerUnavailable, match="its key manager is closed"):
            sign(key)
        assert shim.count("C_Finalize") == 0
        shim.release()
