"""An agent whose server is away, is another, or takes its SVID no more."""

import time
from collections.abc import Iterator

import pytest
from cryptography import x509

from spiffe_core.runtime.cli.local_client import RpcFailure
from spiffe_core.x509svid import parse_chain
from tests.support.server_processes import wait_until
from tests.support.world import World, a_world, patiently


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as made:
        yield made


def test_while_the_server_is_away_workloads_have_what_is_cached(world):
    agent = world.agent()
    agent.join_token = world.join_token("alone")
    world.entry(agent, "/web")
    agent.start(agent.join_token)
    svid = agent.fetch_x509().svids[0]
    token = agent.fetch_jwt("reports").svids[0].svid
    world.server.end()
    wait_until(lambda: agent.has_logged("Synchronize failed", times=2))
    with agent.workload() as workload:
        assert workload.x509().svids[0] == svid
        assert workload.jwt("reports").svids[0].svid == token
        assert workload.validate(token, "reports").spiffe_id == "spiffe://example.org/web"
        with pytest.raises(RpcFailure, match="Unavailable desc = could not fetch JWT-SVID"):
            workload.jwt("payments")
    world.server.start()
    assert patiently(lambda: agent.fetch_jwt("payments")).svids
    world.entry(agent, "/late")
    wait_until(lambda: len(agent.fetch_x509().svids) == 2)


def test_an_agent_that_is_restarted_meanwhile_waits_for_its_server(world):
    agent = world.agent()
    agent.join_token = world.join_token("alone")
    world.entry(agent, "/web")
    agent.start(agent.join_token)
    agent.end()
    world.server.end()
    agent.start()
    with pytest.raises(RpcFailure, match="PermissionDenied desc = no identity issued"):
        agent.fetch_x509()
    assert not agent.has_ended()
    world.server.start()
    assert patiently(agent.fetch_x509).svids[0].spiffe_id == "spiffe://example.org/web"


def test_an_agent_that_was_never_attested_waits_and_can_be_stopped(world):
    agent = world.agent()
    token = world.join_token("alone")
    world.server.end()
    agent.begin(token)
    wait_until(lambda: agent.has_logged("Failed to retrieve attestation result", "cannot reach"))
    assert not agent.socket_path.exists()
    assert agent.end() == 0


@pytest.mark.slow
def test_the_agents_own_svid_is_renewed_and_the_old_key_destroyed():
    # An SVID is valid from ten seconds before it is made: of 30 seconds half is over after about five.
    with a_world(server='agent_ttl = "20s"') as world:
        agent = world.agent()
        agent.join_token = world.join_token("renewed")
        world.entry(agent, "/web")
        agent.start(agent.join_token)
        [first] = agent.state["key_ids"]
        with agent.workload() as workload:
            answers = workload.watch_x509()
            before = next(answers)
            wait_until(lambda: agent.has_logged("Successfully rotated agent SVID"))
            wait_until(lambda: agent.state["key_ids"] != [first] and len(agent.state["key_ids"]) == 1)
            [second] = agent.state["key_ids"]
            keys = (agent.data_dir / "keys.json").read_text()
            assert second in keys
            assert first not in keys
            assert workload.x509().svids[0] == before.svids[0], "a workload's SVID is another matter"
        agent.end()
        agent.start()
        assert agent.has_logged("SVID loaded")
        assert patiently(agent.fetch_x509).svids


@pytest.mark.slow
def test_past_the_end_of_its_own_svid_an_agent_serves_until_the_server_answers():
    with a_world(server='agent_ttl = "11s"') as world:
        agent = world.agent()
        agent.join_token = world.join_token("expired")
        world.entry(agent, "/web")
        agent.start(agent.join_token)
        svid = agent.fetch_x509().svids[0]
        world.server.end()
        expired_by = time.time() + 12
        wait_until(lambda: agent.has_logged("Could not rotate agent SVID", times=2))
        wait_until(lambda: time.time() > expired_by)
        assert not agent.has_ended()
        assert agent.fetch_x509().svids[0] == svid
        world.server.start()
        assert agent.wait() == 1
        assert agent.has_logged("Agent crashed", "current SVID has already expired and rotate agent SVID failed")


def test_a_server_with_new_keys_is_not_followed():
    with a_world() as world, a_world() as impostor:
        agent = world.agent()
        agent.start(world.join_token("faithful"))
        world.server.end()
        # The impostor takes the server's place: its port, with an authority that nobody knows.
        agent.end()
        text = agent.config_file.read_text()
        agent.config_file.write_text(text.replace(str(world.server.port), str(impostor.server.port)))
        agent.begin()
        assert agent.wait() == 1
        assert agent.has_logged("Synchronize failed, non-recoverable error")
        assert agent.has_logged("Agent crashed", "failed to sync with SPIRE Server")
        assert agent.state["svid"], "an impostor must not make an agent forget who it is"


def test_a_workloads_svids_are_renewed_before_they_expire():
    with a_world() as world:
        agent = world.agent()
        agent.join_token = world.join_token("short")
        world.entry(agent, "/web", x509_svid_ttl=12)
        agent.start(agent.join_token)
        with agent.workload() as workload:
            answers = workload.watch_x509()
            serials = [serial(next(answers)) for _ in range(3)]
        assert len(set(serials)) == 3


def serial(answer) -> int:
    leaf: x509.Certificate = parse_chain(answer.svids[0].x509_svid)[0]
    return leaf.serial_number
