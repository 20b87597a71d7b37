"""A PIN that became wrong under a server of workers: it is not tried again and again, and the rest goes on."""

import os
import signal

import pytest

from tests.support.server_processes import server_process, wait_until

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm


async def test_a_worker_whose_pin_is_refused_stays_down_until_the_operator_says_that_it_is_corrected(own_token):
    pin = own_token.pin_file.read_bytes()
    with server_process(token=own_token, workers=2) as server:
        server.start()
        bundle = await server.bundle()
        victim, survivor = server.pids
        own_token.pin_file.chmod(0o600)
        own_token.pin_file.write_text("0000-wrong\n")
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: "Worker stays down until" in server.log)
        assert server.pids == [survivor]
        assert await server.bundle() == bundle
        wait_until(lambda: "1 of 2 workers serve" in server.log)
        own_token.pin_file.write_bytes(pin)
        server.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: server.log.count("Worker serves") == 3)
        assert server.log.count("C_Login returned") == 1
        assert await server.bundle() == bundle
        assert server.end() == 0


def test_a_server_whose_pin_is_refused_ends_with_the_exit_code_of_what_does_not_mend(own_token):
    own_token.pin_file.chmod(0o600)
    own_token.pin_file.write_text("0000-wrong\n")
    for workers in (1, 2):
        with server_process(token=own_token, workers=workers) as server:
            server.begin()
            wait_until(server.has_ended)
            assert server.process.returncode == os.EX_CONFIG
            assert server.log.count("C_Login returned") == 1
