"""One external plugin under the hosts of both makes: it cannot tell them apart."""

import pytest

from tests.support.needs import program
from tests.support.server_processes import STEEPLE_SERVER, wait_until
from tests.support.spire import spire_program
from tests.support.world import DISK_KEYS, STEEPLE_AGENT, a_world, patiently

pytest_plugins = ["tests.support.words_plugin"]
pytestmark = [pytest.mark.interop, pytest.mark.go, program("go"), pytest.mark.timeout(240)]


@pytest.fixture(params=["steeple", "spire"])
def server(request):
    return STEEPLE_SERVER if request.param == "steeple" else (spire_program("spire-server"),)


@pytest.fixture(params=["steeple", "spire"])
def agent_program(request):
    return STEEPLE_AGENT if request.param == "steeple" else (spire_program("spire-agent"),)


def test_a_node_is_attested_by_plugins_at_both_ends(words, server, agent_program, tmp_path):
    data = 'word = "friend"'
    declared = words("NodeAttestor", data, arg="servernodeattestor")
    with a_world(program=server, key_manager=f"{DISK_KEYS % tmp_path}{declared}") as world:
        keys = f'KeyManager "disk" {{ plugin_data {{ directory = "{tmp_path}/agent" }} }}'
        (tmp_path / "agent").mkdir()
        agent = world.agent(program=agent_program, key_manager=keys + words("WorkloadAttestor", 'word = "one"'))
        text = agent.config_file.read_text()
        attestor = words("NodeAttestor", data, arg="agentnodeattestor")
        agent.config_file.write_text(text.replace('NodeAttestor "join_token" {}', attestor))
        agent.start()
        [known] = world.agents()
        assert (known.id.path, known.attestation_type) == ("/spire/agent/words/friend", "words")
        assert {f"{one.type}:{one.value}" for one in known.selectors} == {
            "words:agent:new",
            "words:address:127.0.0.1",
            "words:identity:1:1",
        }
        world.entry("spiffe://example.org/spire/agent/words/friend", "/word", "words:word:one")
        assert patiently(agent.fetch_x509).svids[0].spiffe_id == "spiffe://example.org/word"


def test_an_upstream_signs_and_tells_of_its_roots(words, server, tmp_path):
    with a_world(program=server, key_manager=f"{DISK_KEYS % tmp_path}{words('UpstreamAuthority')}") as world:
        wait_until(lambda: len(world.bundle().x509_authorities) == 2)
