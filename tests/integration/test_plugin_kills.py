"""A key manager's plugin that is killed, hangs, or comes back with other keys, while others sign with it."""

import os
import signal
import threading

import pytest
import structlog
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from keymanagers.base import KeyId, KeyType
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from spiffe_core.errors import KeyManagerUnavailable
from tests.support.plugins import keymanager_program, open_keys, plugin_of
from tests.support.server_processes import is_alive, wait_until

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm

A, B = KeyId("a"), KeyId("b")


@pytest.fixture
def plugin(softhsm_token, tmp_path):
    return plugin_of(keymanager_program(tmp_path), softhsm_token.plugin_data("places"))


def sign(key):
    signature = key.private.sign(b"data", ec.ECDSA(hashes.SHA256()))
    key.public.verify(signature, b"data", ec.ECDSA(hashes.SHA256()))


def signs(key):
    try:
        sign(key)
    except KeyManagerUnavailable:
        return False
    return True


def the_plugin(manager):
    return manager._places._plugin.running.pid


def test_while_a_plugin_is_killed_again_and_again_every_call_ends_in_a_signature_or_a_refusal(plugin, tmp_path):
    manager = open_keys(plugin, tmp_path / "keys.json")
    key = manager.generate(A, KeyType.EC_P256)
    stop, odd, signed = threading.Event(), [], []

    def work():
        while not stop.is_set():
            try:
                signed.append(signs(key))
            except Exception as exc:  # noqa: BLE001  it is what the test looks for
                odd.append(exc)
            stop.wait(0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        wait_until(lambda: signs(key))
        killed = the_plugin(manager)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda killed=killed: not is_alive(killed))
    wait_until(lambda: signs(key))
    stop.set()
    for thread in threads:
        thread.join()
    assert odd == []
    assert {True, False} == set(signed)
    last = the_plugin(manager)
    manager.close()
    assert not is_alive(last)


def test_a_plugin_that_hangs_is_killed_and_started_again(plugin, tmp_path):
    manager = open_keys(plugin, tmp_path / "keys.json", timeout=2.0)
    key = manager.generate(A, KeyType.EC_P256)
    hung = the_plugin(manager)
    os.kill(hung, signal.SIGSTOP)
    with pytest.raises(KeyManagerUnavailable, match=r"keymanager\(test\): Deadline Exceeded"):
        sign(key)
    wait_until(lambda: not is_alive(hung))
    wait_until(lambda: signs(key))
    manager.close()


def test_nothing_is_signed_while_a_key_is_another_one(plugin, tmp_path, softhsm_token):
    manager = open_keys(plugin, tmp_path / "keys.json")
    lost, kept = manager.generate(A, KeyType.EC_P256), manager.generate(B, KeyType.EC_P256)
    token = Pkcs11KeyManager(softhsm_token.config(authority_group="places"))
    token.retire(KeyId("steeple-0..1"))
    token.generate(KeyId("steeple-0..2"), KeyType.EC_P256)
    token.close()
    killed = the_plugin(manager)

    def refusals():
        return [line["error"] for line in logs if line["event"] == "Failed to start the plugin again"]

    with structlog.testing.capture_logs() as logs:
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(refusals()) > 1)
        assert not signs(kept)
        assert not signs(lost)
    assert 'key "a" (place "steeple-0") is another one since the key manager was started again' in refusals()[0]
    manager.close()
