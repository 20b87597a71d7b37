"""An agent's life with a real server: attestation, restart, changes of entries, ban, eviction."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count

import pytest
from cryptography import x509

from spiffe_core.api.spire.api.types import entry_pb2
from spiffe_core.bundle import Bundle, X509Authority
from spiffe_core.ids import TrustDomain
from spiffe_core.runtime.cli.local_client import RpcFailure
from spiffe_core.x509svid import parse_chain, verify_x509_svid
from tests.support.server_processes import wait_until
from tests.support.world import AgentProcess, World, a_world, patiently

_numbers = count(1)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with a_world() as made:
        yield made


@pytest.fixture
def agent(world) -> Iterator[AgentProcess]:
    """An agent that is ready to start, with a token of its own and no entries."""
    made = world.agent()
    made.join_token = world.join_token(f"token-{next(_numbers)}")
    yield made
    made.close()


def leaf_of(answer) -> x509.Certificate:
    return parse_chain(answer.svids[0].x509_svid)[0]


def serial_at(world, agent) -> str:
    return next(one.x509svid_serial_number for one in world.agents() if one.id.path in agent.id)


def test_a_second_agent_in_the_folder_of_one_that_runs_does_not_start(world, agent):
    world.entry(agent, "/web")
    agent.start(agent.join_token)
    command = [*agent.program, "run", "-config", str(agent.config_file)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert f"agent.data_dir: another agent runs in {str(agent.data_dir)!r}: stop it" in second.stdout
    assert agent.fetch_x509().svids
    agent.end(signal.SIGKILL)
    agent.start()


def test_a_workload_gets_what_is_registered_for_it_and_it_verifies(world, agent):
    world.entry(agent, "/web", dns_names=["web.example.org"])
    agent.start(agent.join_token)
    with agent.workload() as workload:
        answer = workload.x509()
        [svid] = answer.svids
        bundle = Bundle(
            TrustDomain("example.org"), tuple(X509Authority(one.asn1) for one in world.bundle().x509_authorities)
        )
        verified = verify_x509_svid(parse_chain(svid.x509_svid), bundle, datetime.now(UTC))
        assert str(verified.id) == svid.spiffe_id == "spiffe://example.org/web"
        [jwt] = workload.jwt("reports").svids
        assert workload.validate(jwt.svid, "reports").spiffe_id == "spiffe://example.org/web"
        assert workload.jwt("reports").svids[0].svid == jwt.svid, "a token is kept"
        with pytest.raises(RpcFailure, match="audience"):
            workload.validate(jwt.svid, "payments")


def test_tokens_with_an_id_of_their_own_are_new_each_time(world, agent):
    attributes = entry_pb2.Entry.AdditionalAttributes(jwt_svid_include_jti=True)
    world.entry(agent, "/web", additional_attributes=attributes)
    agent.start(agent.join_token)
    tokens = {patiently(lambda: agent.fetch_jwt("reports")).svids[0].svid for _ in range(3)}
    assert len(tokens) == 3


def test_a_restarted_agent_goes_on_with_what_it_has_stored(world, agent):
    world.entry(agent, "/web")
    agent.start(agent.join_token)
    patiently(agent.fetch_x509)
    before, serial = agent.state, serial_at(world, agent)
    assert agent.end() == 0
    agent.start()
    assert patiently(agent.fetch_x509).svids[0].spiffe_id == "spiffe://example.org/web"
    assert agent.has_logged("SVID loaded")
    assert agent.state == before
    assert serial_at(world, agent) == serial


def test_an_agent_that_was_killed_goes_on_too(world, agent):
    world.entry(agent, "/web")
    agent.start(agent.join_token)
    agent.end(signal.SIGKILL)
    agent.start()
    assert patiently(agent.fetch_x509).svids
    assert (agent.data_dir / "agent-data.json").stat().st_mode & 0o777 == 0o600


def test_a_banned_agent_forgets_its_svid_and_ends(world, agent):
    agent.start(agent.join_token)
    world.ban(agent)
    assert agent.wait() == 1
    assert agent.has_logged("Agent is banned: removing SVID and shutting down")
    assert agent.has_logged("Agent crashed", "the server has banned this agent")
    assert agent.state["svid"] is None
    assert agent.state["bundle"], "the bundle is no secret and no right"


def test_a_banned_agent_is_refused_at_once_when_it_attests_again(world, agent):
    agent.start(agent.join_token)
    world.ban(agent)
    agent.wait()
    agent.begin(world.join_token(agent.join_token))
    assert agent.wait() == 1
    assert agent.has_logged("Agent crashed", "failed to attest: agent is banned")
    assert not agent.has_logged("Failed to retrieve attestation result")


def test_an_evicted_agent_that_cannot_attest_again_ends(world, agent):
    agent.start(agent.join_token)
    world.evict(agent)
    assert agent.wait() == 1
    assert agent.has_logged("Agent needs to re-attest; will attempt to re-attest")
    assert agent.has_logged(
        "Agent failed re-attestation; removing SVID and shutting down", "attestation method is not re-attestable"
    )
    assert agent.state["svid"] is None


def test_a_spent_token_is_tried_again_until_the_agent_is_told_to_stop(world, agent):
    agent.start(agent.join_token)
    agent.end()
    (agent.data_dir / "agent-data.json").unlink()
    agent.begin(agent.join_token)
    wait_until(lambda: agent.has_logged("Failed to retrieve attestation result"))
    assert agent.has_logged("join token does not exist or has already been used")
    assert not agent.has_ended()
    assert agent.end() == 0
    assert agent.has_logged("Agent stopped gracefully", times=2)


def test_an_agent_without_a_token_says_so_and_ends(agent):
    agent.begin()
    assert agent.wait() == os.EX_CONFIG
    assert agent.has_logged("Agent crashed", "join token was not provided")


def test_a_server_that_the_bundle_does_not_vouch_for_gets_no_token(world, agent):
    bundle = agent.folder / "bootstrap.crt"
    right = bundle.read_bytes()
    with a_world() as another:
        wrong = another.agent()
        bundle.write_bytes((wrong.folder / "bootstrap.crt").read_bytes())
    agent.begin(agent.join_token)
    wait_until(lambda: agent.has_logged("Failed to retrieve attestation result"))
    assert agent.has_logged("x509svid: certificate does not chain to an X.509 authority")
    assert agent.has_logged("Trust Bundle and Server don't agree, bootstrapping again")
    agent.end()
    bundle.write_bytes(right)
    agent.start(agent.join_token)


def test_an_insecure_bootstrap_trusts_the_first_server_and_says_so(world):
    agent = world.agent(insecure=True)
    agent.start(world.join_token(f"token-{next(_numbers)}"))
    assert agent.has_logged("Insecure bootstrap enabled; skipping server certificate verification")
    assert agent.state["bundle"]
    agent.end()
    agent.start()
    assert agent.has_logged("Insecure bootstrap", times=1), "from then on it trusts the bundle that it has stored"


def test_a_damaged_state_is_left_alone(world, agent):
    agent.start(agent.join_token)
    agent.end()
    path = agent.data_dir / "agent-data.json"
    path.write_bytes(path.read_bytes()[:-40])
    damaged = path.read_bytes()
    agent.begin()
    assert agent.wait() == os.EX_CONFIG
    assert agent.has_logged("Agent crashed", "is no state of an agent")
    assert path.read_bytes() == damaged


def test_a_stream_follows_the_entries(world, agent):
    first = world.entry(agent, "/web")
    agent.start(agent.join_token)
    with agent.workload() as workload:
        answers = workload.watch_x509()
        assert [one.spiffe_id for one in next(answers).svids] == ["spiffe://example.org/web"]
        second = world.entry(agent, "/web/second")
        assert {one.spiffe_id for one in next(answers).svids} == {
            "spiffe://example.org/web",
            "spiffe://example.org/web/second",
        }
        world.delete_entry(first)
        assert [one.spiffe_id for one in next(answers).svids] == ["spiffe://example.org/web/second"]
        world.delete_entry(second)
        with pytest.raises(RpcFailure, match="PermissionDenied desc = no identity issued"):
            next(answers)


def test_a_changed_entry_gets_a_new_svid(world, agent):
    entry_id = world.entry(agent, "/web")
    agent.start(agent.join_token)
    with agent.workload() as workload:
        answers = workload.watch_x509()
        before = leaf_of(next(answers))
        world.update_entry(entry_pb2.Entry(id=entry_id, dns_names=["web.example.org"]), dns_names=True)
        after = next(leaf for leaf in map(leaf_of, answers) if leaf.serial_number != before.serial_number)
    names = after.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["web.example.org"]


def test_an_svid_that_is_not_to_be_prefetched_comes_on_demand(world, agent):
    attributes = entry_pb2.Entry.AdditionalAttributes(disable_x509_svid_prefetch=True)
    world.entry(agent, "/rare", additional_attributes=attributes)
    world.entry(agent, "/other", "unix:uid:4242")
    agent.start(agent.join_token)
    wait_until(lambda: agent.has_logged("Creating X509-SVID", "/other"))
    assert not agent.has_logged("Creating X509-SVID", "/rare")
    assert agent.fetch_x509().svids[0].spiffe_id == "spiffe://example.org/rare"


def test_svids_beyond_the_limit_come_on_demand(world):
    agent = world.agent("x509_svid_cache_max_size = 2")
    agent.join_token = world.join_token(f"token-{next(_numbers)}")
    for number in range(4):
        world.entry(agent, f"/other/{number}", "unix:uid:4242")
    agent.start(agent.join_token)
    world.entry(agent, "/late")
    assert patiently(agent.fetch_x509).svids[0].spiffe_id == "spiffe://example.org/late"
    info = json.loads(agent.cli("debug", "getinfo", "-output", "json").stdout)
    assert info["cached_x509_svids_count"] == 2
    assert sum("Creating X509-SVID" in line for line in agent.log.splitlines()) == 3
