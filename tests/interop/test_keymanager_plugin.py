"""SPIRE's own server and agent with ``steeple-keymanager``: their keys are in a token, through rotation and restart."""

import json
import signal
import subprocess

import pytest

from keymanagers.pkcs11.manager import Pkcs11KeyManager
from scripts import plugin_file
from spiffe_core.bundle import split_certificates
from tests.support.plugins import checksum
from tests.support.server_processes import STEEPLE_SERVER, server_process, wait_until
from tests.support.spire import spire_program
from tests.support.world import a_world, patiently

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = [pytest.mark.interop, pytest.mark.softhsm, pytest.mark.timeout(240)]

SERVER_KEYS = {"x509-CA-A", "JWT-Signer-A"}


@pytest.fixture(scope="module")
def plugin_program(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "steeple-keymanager"
    plugin_file.make(path)
    return path


def declaration(program, token, group):
    return f"""
        KeyManager "pkcs11" {{
            plugin_cmd = "{program}"
            plugin_checksum = "{checksum(program)}"
            plugin_data {{ {token.plugin_data(group)} }}
        }}
    """


def keys_in(token, group):
    """Ids of a group's keys in the token."""
    manager = Pkcs11KeyManager(token.config(authority_group=group))
    try:
        shown = manager.keys()
        return {key.id for key in shown}
    finally:
        manager.close()


def authority(world, act, *arguments):
    """What SPIRE's command ``localauthority x509`` or ``jwt`` answers."""
    command = [spire_program("spire-server"), "localauthority", *act, "-output", "json", *arguments]
    ran = subprocess.run(
        [*command, "-socketPath", str(world.server.socket_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def rotate(world, kind):
    """Prepare an authority and activate it; its id."""
    prepared = authority(world, (kind, "prepare"))["prepared_authority"]["authority_id"]
    authority(world, (kind, "activate"), "-authorityID", prepared)
    return prepared


def test_a_spire_server_rotates_and_restarts_with_its_keys_in_a_token(plugin_program, softhsm_token):
    keys = declaration(plugin_program, softhsm_token, "spire-server-1")
    with a_world(program=(spire_program("spire-server"),), key_manager=keys, token=softhsm_token) as world:
        assert keys_in(softhsm_token, "spire-server-1") == {f"{name}..1" for name in SERVER_KEYS}
        agent = world.agent()
        agent.start(world.join_token("one"))
        world.entry(agent, "/web")
        patiently(agent.fetch_x509)

        rotate(world, "x509")
        rotate(world, "jwt")
        slots = {"x509-CA-A..1", "x509-CA-B..1", "JWT-Signer-A..1", "JWT-Signer-B..1"}
        assert keys_in(softhsm_token, "spire-server-1") == slots
        # Slot A is used again: SPIRE overwrites its key.
        active = rotate(world, "x509")
        assert keys_in(softhsm_token, "spire-server-1") == slots - {"x509-CA-A..1"} | {"x509-CA-A..2"}

        before = {bytes(one.asn1) for one in world.bundle().x509_authorities}
        assert len(before) == 3
        wait_until(lambda: set(split_certificates(agent.fetch_x509().svids[0].bundle)) == before)
        world.server.end(signal.SIGKILL)
        world.server.start()
        assert authority(world, ("x509", "show"))["active"]["authority_id"] == active
        assert {bytes(one.asn1) for one in world.bundle().x509_authorities} == before
        assert world.server_cli("x509", "mint", "-spiffeID", "spiffe://example.org/minted").returncode == 0
        world.entry(agent, "/later")
        wait_until(lambda: len(agent.fetch_x509().svids) == 2)
        assert "Unsupported plugin service found" not in world.server.log
        world.server.end()
        assert "Plugin unloaded" in world.server.log
        assert "plugin failed to exit gracefully" not in world.server.log
    assert keys_in(softhsm_token, "spire-server-1") == slots - {"x509-CA-A..1"} | {"x509-CA-A..2"}


@pytest.mark.parametrize("server", ["spire-server", "steeple-server"])
def test_a_spire_agent_keeps_its_key_in_a_token(plugin_program, softhsm_token, server):
    program = (spire_program(server),) if server == "spire-server" else STEEPLE_SERVER
    keys = declaration(plugin_program, softhsm_token, "spire-agent-1")
    with a_world(program=program) as world:
        agent = world.agent(program=(spire_program("spire-agent"),), key_manager=keys, token=softhsm_token)
        agent.start(world.join_token("one"))
        world.entry(agent, "/web")
        patiently(agent.fetch_x509)
        made = keys_in(softhsm_token, "spire-agent-1")
        assert made == {"agent-svid-A..1"}
        agent.end(signal.SIGKILL)
        agent.start()
        assert patiently(agent.fetch_x509).svids[0].spiffe_id == "spiffe://example.org/web"
        assert keys_in(softhsm_token, "spire-agent-1") == made


def test_spires_validate_is_told_what_is_wrong_with_the_plugins_data(plugin_program, softhsm_token):
    keys = declaration(plugin_program, softhsm_token, "spire-server-1")
    for text, code, said in (
        (keys, 0, "SPIRE server configuration file is valid."),
        (keys.replace("authority_group", "verify_signatures = true #"), 1, "authority_group must be configured"),
        (keys.replace("token =", "tokn ="), 1, "tokn: unknown configuration detected"),
    ):
        with server_process(key_manager=text, program=(spire_program("spire-server"),)) as server:
            command = [spire_program("spire-server"), "validate", "-config", str(server.folder / "server.conf")]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == code, ran.stdout + ran.stderr
        assert said in ran.stdout + ran.stderr
