"""A token that goes away and comes back under a real server: its keys are never replaced, only waited for."""

import os
import shutil
import signal

import pytest

from tests.support.server_processes import eventually, server_process, wait_until
from tests.support.softhsm import init_token
from tests.support.troubles import UNAVAILABLE, troubled

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm


@pytest.fixture
def away(own_token):
    """Where the token's folder is while it is away."""
    return own_token.folder.parent.with_name("away")


@pytest.fixture
def server(own_token):
    with server_process(token=own_token) as process:
        yield process


async def test_while_the_token_is_away_reads_go_on_and_signing_is_unavailable_until_it_is_back(own_token, server, away):
    server.start()
    async with troubled(server) as trouble:
        signer = await trouble.signs()
        shutil.move(own_token.folder, away)

        async def noticed():
            return None not in await trouble.sign_refusals()

        await eventually(noticed)  # a session that is open may serve from memory for a moment
        for _ in range(3):
            refusals = await trouble.sign_refusals()
            assert [refusal.code for refusal in refusals] == [UNAVAILABLE, UNAVAILABLE]
            assert all('token "own"' in refusal.text for refusal in refusals)
            await trouble.reads()
            assert not await trouble.writes()
        shutil.move(away, own_token.folder)
        await trouble.recovers(signer)
    assert server.end() == 0
    assert server.log.count("X509 CA activated") == 1


async def test_a_server_that_is_started_while_the_token_is_away_stops_and_says_what_to_do(own_token, server, away):
    server.start()
    async with troubled(server) as trouble:
        signer = await trouble.signs()
    assert server.end() == 0
    shutil.move(own_token.folder, away)
    server.begin()
    wait_until(server.has_ended)
    assert server.process.returncode == 1
    assert "which shows no token at all; check the device and its service" in server.log
    shutil.move(away, own_token.folder)
    server.start()
    async with troubled(server) as trouble:
        assert await trouble.signs() == signer


async def test_another_token_in_its_place_is_never_given_new_authorities_unless_it_is_ordered(own_token, server, away):
    server.start()
    async with troubled(server) as trouble:
        signer = await trouble.signs()
    assert server.end() == 0
    shutil.move(own_token.folder, away)
    other = init_token(own_token.folder.parent.parent / "other", "own", own_token.library)
    shutil.move(other.folder, own_token.folder)
    pin = own_token.pin_file.read_bytes()
    own_token.pin_file.chmod(0o600)
    own_token.pin_file.write_bytes(other.pin_file.read_bytes())
    server.begin()
    wait_until(server.has_ended)
    assert server.process.returncode == 1
    [line] = [line for line in server.log.splitlines() if "Server failed" in line]
    assert "the key manager does not show" in line
    assert "make sure that it is the right token or key file" in line
    assert "-goOnWithoutLostKeys" in line
    # ... and with the right one again nothing has happened.
    shutil.rmtree(own_token.folder)
    shutil.move(away, own_token.folder)
    own_token.pin_file.write_bytes(pin)
    server.start()
    async with troubled(server) as trouble:
        assert await trouble.signs() == signer


async def test_on_orders_a_server_goes_on_with_new_keys_and_the_old_authority_stays_in_the_bundle(own_token):
    with server_process(token=own_token) as server:
        server.start()
        async with troubled(server) as trouble:
            signer = await trouble.signs()
            before = {authority.der for authority in (await trouble.bundle()).x509_authorities}
        assert server.end() == 0
        for file in own_token.folder.glob("*-*.object"):
            file.unlink()
        server.begin("-goOnWithoutLostKeys")
        wait_until(lambda: server.has_ended() or server.log.count("network=tcp") == 2)
        assert not server.has_ended(), server.log
        async with troubled(server) as trouble:
            assert await trouble.signs() != signer
            after = {authority.der for authority in (await trouble.bundle()).x509_authorities}
        assert before < after
        assert "Authorities without their keys were given up" in server.log


async def test_orders_to_give_up_keys_hold_for_the_start_and_not_for_workers_that_are_started_again(own_token):
    with server_process(token=own_token, workers=2) as server:
        server.begin("-goOnWithoutLostKeys")
        wait_until(lambda: server.has_ended() or server.log.count("Worker serves") == 2)
        bundle = await server.bundle()
        hidden = own_token.folder.parent.with_name("hidden")
        hidden.mkdir()
        for file in own_token.folder.glob("*-*.object"):
            shutil.move(file, hidden)
        for pid in server.pids:
            os.kill(pid, signal.SIGKILL)
        given_up = "Authorities without their keys were given up"
        wait_until(lambda: given_up in server.log or server.log.count("Worker ended and is started again") >= 4)
        assert given_up not in server.log
        assert server.log.count("the key manager does not show") >= 2
        for file in hidden.iterdir():
            shutil.move(file, own_token.folder)
        wait_until(lambda: server.log.count("Worker serves") == 4)
        assert await server.bundle() == bundle
        assert server.end() == 0
