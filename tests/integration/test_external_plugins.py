"""A plugin built with SPIRE's SDK, of each type that can be external, under our server and our agent."""

import os
import re
import signal
from datetime import UTC, datetime
from typing import Final

import pytest

from spiffe_core.bundle import Bundle, X509Authority, split_certificates
from spiffe_core.ids import TrustDomain
from spiffe_core.x509svid import parse_chain, verify_x509_svid
from tests.support.needs import program
from tests.support.plugins import children_of, declared, keymanager_program
from tests.support.server_processes import is_alive, server_process, wait_until
from tests.support.world import DISK_KEYS, a_world, patiently

pytest_plugins = ["tests.support.key_fixtures", "tests.support.words_plugin"]
pytestmark = [pytest.mark.go, program("go")]

TD: Final = TrustDomain("example.org")


def verified(answer):
    """The SPIFFE IDs of an answer whose SVIDs verify with the bundles beside them."""
    found = set()
    for svid in answer.svids:
        bundle = Bundle(TD, tuple(map(X509Authority, split_certificates(svid.bundle))))
        found.add(str(verify_x509_svid(parse_chain(svid.x509_svid), bundle, datetime.now(UTC)).id))
    return found


def roots(world):
    return {bytes(one.asn1) for one in world.bundle().x509_authorities}


def minted(world):
    """Whether the server can sign now."""
    command = ("x509", "mint", "-spiffeID", "spiffe://example.org/minted")
    try:
        return world.server_cli(*command).returncode == 0
    except AssertionError:
        return False


def test_a_server_signs_with_the_keys_of_a_plugin_that_dies_and_comes_back(words, tmp_path):
    keys = words("KeyManager", f'word = "{tmp_path}"')
    with a_world(key_manager=keys) as world:
        agent = world.agent()
        agent.start(world.join_token("one"))
        world.entry(agent, "/web")
        assert verified(patiently(agent.fetch_x509)) == {"spiffe://example.org/web"}
        before = roots(world)

        [plugin] = children_of(world.server.process.pid)
        os.kill(plugin, signal.SIGKILL)
        wait_until(lambda: minted(world))
        assert children_of(world.server.process.pid) != [plugin]
        assert "Plugin ended and is started again" in world.server.log

        [plugin] = children_of(world.server.process.pid)
        world.server.end(signal.SIGKILL)
        wait_until(lambda: not is_alive(plugin))
        world.server.start()
        assert roots(world) == before
        assert minted(world)
        [plugin] = children_of(world.server.process.pid)
        assert world.server.end() == 0
        assert not is_alive(plugin)


def test_nothing_is_signed_when_a_plugin_comes_back_without_its_keys(words):
    with a_world(key_manager=words("KeyManager")) as world:
        assert minted(world)
        [plugin] = children_of(world.server.process.pid)
        os.kill(plugin, signal.SIGKILL)
        wait_until(lambda: "is missing since the key manager was started again" in world.server.log)
        assert not minted(world)
        assert world.server_cli("bundle", "show").stdout


def test_an_upstream_signs_and_tells_of_its_roots(words, tmp_path):
    with a_world(key_manager=f"{DISK_KEYS % tmp_path}{words('UpstreamAuthority')}") as world:
        agent = world.agent()
        agent.start(world.join_token("one"))
        world.entry(agent, "/web")
        assert verified(patiently(agent.fetch_x509)) == {"spiffe://example.org/web"}
        wait_until(lambda: len(roots(world)) == 2)
        wait_until(lambda: len(split_certificates(agent.fetch_x509().svids[0].bundle)) == 2)


def test_a_node_is_attested_by_plugins_at_both_ends(words, tmp_path):
    data = 'word = "friend"'
    server = words("NodeAttestor", data, arg="servernodeattestor")
    with a_world(key_manager=f"{DISK_KEYS % tmp_path}{server}") as world:
        agent = attesting(world, words("NodeAttestor", data, arg="agentnodeattestor"))
        agent.start()
        [known] = world.agents()
        assert (known.id.path, known.attestation_type) == ("/spire/agent/words/friend", "words")
        assert known.can_reattest
        assert {f"{one.type}:{one.value}" for one in known.selectors} == {
            "words:agent:new",
            "words:address:127.0.0.1",
            "words:identity:1:1",
        }
        agent.end()
        (agent.data_dir / "agent-data.json").unlink()
        agent.start()
        [known] = world.agents()
        assert "agent:known" in {one.value for one in known.selectors}


def test_a_node_that_says_the_wrong_word_is_refused(words, tmp_path):
    server = words("NodeAttestor", 'word = "friend"', arg="servernodeattestor")
    with a_world(key_manager=f"{DISK_KEYS % tmp_path}{server}") as world:
        agent = attesting(world, words("NodeAttestor", 'word = "foe"', arg="agentnodeattestor"))
        agent.begin()
        wait_until(lambda: 'nodeattestor(words): \\"foe\\" is not the word' in agent.log)
        assert world.agents() == []


def attesting(world, attestor):
    """An agent with this node attestor in place of join tokens."""
    agent = world.agent()
    text = agent.config_file.read_text()
    agent.config_file.write_text(text.replace('NodeAttestor "join_token" {}', attestor))
    return agent


def test_a_workload_is_attested_by_a_plugin_which_takes_new_data_on_a_signal(words, tmp_path):
    file = tmp_path / "data.hcl"
    file.write_text('word = "one"')
    with a_world() as world:
        agent = world.agent(key_manager=agent_keys(tmp_path) + words("WorkloadAttestor", file=file))
        agent.start(world.join_token("one"))
        world.entry(agent, "/first", "words:word:one")
        world.entry(agent, "/second", "words:word:two", f"unix:uid:{os.getuid()}")
        world.entry(agent, "/third", "words:word:reference")
        assert verified(patiently(agent.fetch_x509)) == {"spiffe://example.org/first"}
        agent.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: agent.has_logged("Plugin not reconfigured since the config is unchanged"))
        file.write_text('word = "two"')
        agent.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: agent.has_logged("Plugin reconfigured"))
        assert verified(patiently(agent.fetch_x509)) == {"spiffe://example.org/second"}
        file.write_text('fail = "no such word"')
        agent.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: agent.has_logged("Failed to reconfigure plugin", "no such word"))
        assert verified(agent.fetch_x509()) == {"spiffe://example.org/second"}
        file.write_text('word = "reference"')
        agent.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: agent.has_logged("Plugin reconfigured", times=2))
        assert verified(patiently(agent.fetch_x509)) == {"spiffe://example.org/third"}


def test_a_workload_is_told_apart_by_the_other_attestors_while_a_plugin_is_away(words, tmp_path):
    with a_world() as world:
        agent = world.agent(key_manager=agent_keys(tmp_path) + words("WorkloadAttestor", 'word = "one"'))
        agent.start(world.join_token("one"))
        world.entry(agent, "/web")
        world.entry(agent, "/word", "words:word:one")
        both = {"spiffe://example.org/web", "spiffe://example.org/word"}
        wait_until(lambda: verified(patiently(agent.fetch_x509)) == both)
        [plugin] = children_of(agent.process.pid)
        os.kill(plugin, signal.SIGKILL)
        wait_until(lambda: agent.has_logged("Plugin loaded", times=2))
        assert verified(agent.fetch_x509()) == both


def agent_keys(folder):
    return f'KeyManager "disk" {{ plugin_data {{ directory = "{folder}/agent-keys" }} }}\n'


@pytest.mark.softhsm
def test_an_agent_keeps_its_key_in_a_plugin(softhsm_token, tmp_path):
    keys = declared(keymanager_program(tmp_path), "KeyManager", "outside", softhsm_token.plugin_data("agent-1"))
    with a_world() as world:
        agent = world.agent(key_manager=keys, token=softhsm_token)
        agent.start(world.join_token("one"))
        world.entry(agent, "/web")
        assert verified(patiently(agent.fetch_x509)) == {"spiffe://example.org/web"}
        agent.end(signal.SIGKILL)
        agent.start()
        assert verified(patiently(agent.fetch_x509)) == {"spiffe://example.org/web"}


@pytest.mark.softhsm
def test_a_server_keeps_its_keys_in_a_token_by_way_of_our_own_plugin(softhsm_token, tmp_path):
    keys = declared(keymanager_program(tmp_path), "KeyManager", "pkcs11", softhsm_token.plugin_data("server-1"))
    with a_world(key_manager=keys, token=softhsm_token) as world:
        before = roots(world)
        [plugin] = children_of(world.server.process.pid)
        os.kill(plugin, signal.SIGKILL)
        wait_until(lambda: minted(world))
        world.server.end()
        world.server.start()
        assert minted(world)
        assert roots(world) == before


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda text: text.replace('word = "', 'away = "the device is away" word = "'), "the device is away"),
        (lambda text: text.replace('word = "', 'fail = "there is no such place" word = "'), "there is no such place"),
        (lambda text: re.sub('checksum = "[0-9a-f]{64}"', f'checksum = "{"0" * 64}"', text), "checksums did not match"),
        (lambda text: text.replace("/words", "/nothing"), "no such file or directory"),
        (lambda text: text.replace('["keymanager"]', '["workloadattestor"]'), "ended without saying where it listens"),
        (lambda text: text.replace('["keymanager"]', '["nobody"]'), 'there is no plugin .*"nobody'),
    ],
    ids=["away", "configure", "checksum", "missing", "other-type", "last-words"],
)
def test_a_server_whose_plugin_cannot_be_used_does_not_start(words, tmp_path, spoil, text):
    keys = spoil(words("KeyManager", f'word = "{tmp_path}"'))
    with server_process(key_manager=keys) as server:
        server.begin()
        wait_until(server.has_ended)
        assert server.process.returncode
        [line] = [line for line in server.log.splitlines() if "Server failed" in line]
        assert 'plugins.KeyManager \\"words\\": ' in line
        assert re.search(text, line.replace("\\", ""))


def test_an_external_key_manager_is_not_shared_by_workers_whatever_its_name(words, tmp_path):
    keys = words("KeyManager", f'word = "{tmp_path}"').replace('"words" {', '"pkcs11" {')
    with server_process(key_manager=keys, workers=2) as server:
        server.begin()
        wait_until(server.has_ended)
        assert 'cannot share external KeyManager \\"pkcs11\\"' in server.log
