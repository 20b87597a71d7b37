"""An agent whose own key lives in a PKCS#11 token, on a server whose keys live in another."""

import os
import subprocess

import pytest

from tests.support.server_processes import wait_until
from tests.support.softhsm import SoftHsmToken, init_token, library
from tests.support.world import a_world, patiently

pytestmark = pytest.mark.softhsm


@pytest.fixture
def tokens(tmp_path) -> tuple[SoftHsmToken, SoftHsmToken]:
    """Two tokens of one folder."""
    module = library()
    return init_token(tmp_path, "server", module), init_token(tmp_path, "agent", module)


def objects(token: SoftHsmToken) -> str:
    """What the token shows to its user."""
    command = ["pkcs11-tool", "--module", token.library, "--token-label", token.label, "--login", "--list-objects"]
    ran = subprocess.run(
        [*command, "--pin", token.pin_file.read_text().strip()],
        env={"SOFTHSM2_CONF": str(token.softhsm2_conf), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stdout


@pytest.mark.slow
def test_its_svid_is_renewed_with_a_new_key_in_the_token_and_the_old_one_is_destroyed(tokens):
    for_server, for_agent = tokens
    with a_world(server='agent_ttl = "20s"', token=for_server) as world:
        agent = world.agent(
            key_manager=f'KeyManager "pkcs11" {{ plugin_data {{\n{for_agent.plugin_data("agents")} }} }}',
            token=for_agent,
        )
        agent.join_token = world.join_token("hardware")
        world.entry(agent, "/web")
        agent.start(agent.join_token)
        assert patiently(agent.fetch_x509).svids
        [first] = agent.state["key_ids"]
        assert first in objects(for_agent)
        wait_until(lambda: agent.has_logged("Successfully rotated agent SVID"))
        wait_until(lambda: len(agent.state["key_ids"]) == 1 and agent.state["key_ids"] != [first])
        assert first not in objects(for_agent)
        world.entry(agent, "/late")
        wait_until(lambda: len(agent.fetch_x509().svids) == 2)
        assert agent.end() == 0
        agent.start()
        assert agent.has_logged("SVID loaded")
        assert patiently(agent.fetch_x509).svids


def test_an_agent_whose_pin_is_refused_ends_with_the_exit_code_of_what_does_not_mend(tokens):
    for_server, for_agent = tokens
    for_agent.pin_file.chmod(0o600)
    for_agent.pin_file.write_text("0000-wrong\n")
    with a_world(token=for_server) as world:
        agent = world.agent(
            key_manager=f'KeyManager "pkcs11" {{ plugin_data {{\n{for_agent.plugin_data("agents")} }} }}',
            token=for_agent,
        )
        agent.begin(world.join_token("hardware"))
        assert agent.wait() == os.EX_CONFIG
        assert agent.has_logged("Agent crashed", "C_Login returned CKR_PIN_INCORRECT")
