"""Agents and servers of both makes, in pairs: whichever talks to whichever, a workload is served alike."""

import os
import signal
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from cryptography import x509

from spiffe_core.bundle import Bundle, X509Authority, split_certificates
from spiffe_core.ids import TrustDomain
from spiffe_core.runtime.cli.local_client import RpcFailure
from spiffe_core.x509svid import parse_chain, verify_x509_svid
from tests.support.server_processes import STEEPLE_SERVER, wait_until
from tests.support.spire import spire_program
from tests.support.world import STEEPLE_AGENT, a_world, patiently

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = [pytest.mark.interop, pytest.mark.softhsm, pytest.mark.timeout(240)]

TD = TrustDomain("example.org")
SHORT = 'agent_ttl = "40s"\ndefault_x509_svid_ttl = "30s"'


@dataclass(frozen=True)
class Pair:
    """Which programs are paired, and what a world of them is made of."""

    agent: tuple[str, ...]
    world: dict[str, object]

    def new_world(self, server: str = ""):
        return a_world(server=server, **self.world)


@pytest.fixture(params=["spire-agent at steeple-server", "steeple-agent at spire-server"])
def pair(request):
    if request.param.startswith("spire-agent"):
        token = request.getfixturevalue("softhsm_token")
        return Pair((spire_program("spire-agent"),), {"program": STEEPLE_SERVER, "token": token})
    return Pair(STEEPLE_AGENT, {"program": (spire_program("spire-server"),)})


def verified(answer):
    """The SPIFFE IDs of an answer whose SVIDs verify with the bundles beside them."""
    found = set()
    for svid in answer.svids:
        bundle = Bundle(TD, tuple(map(X509Authority, split_certificates(svid.bundle))))
        found.add(str(verify_x509_svid(parse_chain(svid.x509_svid), bundle, datetime.now(UTC)).id))
    return found


def serial_of(answer):
    return x509.load_der_x509_certificate(split_certificates(answer.svids[0].x509_svid)[0]).serial_number


def test_a_workload_gets_svids_that_verify(pair):
    with pair.new_world() as world:
        agent = world.agent(program=pair.agent)
        agent.start(world.join_token("one"))
        world.entry(agent, "/web")
        assert verified(patiently(agent.fetch_x509)) == {"spiffe://example.org/web"}
        (svid,) = agent.fetch_jwt("service").svids
        with agent.workload() as workload:
            assert workload.validate(svid.svid, "service").spiffe_id == "spiffe://example.org/web"
            with pytest.raises(RpcFailure):
                workload.validate(svid.svid, "another")
        [known] = world.agents()
        assert known.attestation_type == "join_token"
        assert agent.cli("healthcheck").stdout == "Agent is healthy.\n"
        assert agent.cli("debug", "getinfo").returncode == 0


def test_entries_that_come_and_go_are_seen_on_an_open_stream(pair):
    with pair.new_world() as world:
        agent = world.agent(program=pair.agent)
        agent.start(world.join_token("one"))
        first = world.entry(agent, "/first")
        patiently(agent.fetch_x509)
        with agent.workload() as workload:
            states = (verified(answer) for answer in workload.watch_x509())
            assert next(states) == {"spiffe://example.org/first"}
            world.entry(agent, "/second", hint="second")
            both = {"spiffe://example.org/first", "spiffe://example.org/second"}
            assert any(state == both for state in states)
            world.delete_entry(first)
            assert any(state == {"spiffe://example.org/second"} for state in states)


def test_more_entries_than_fit_one_answer_are_synchronised(pair):
    with pair.new_world() as world:
        agent = world.agent(program=pair.agent)
        agent.start(world.join_token("one"))
        for number in range(1, 512):
            world.entry(agent, f"/workload{number}", f"unix:uid:{100_000 + number}")
        world.entry(agent, "/mine")
        assert verified(patiently(agent.fetch_x509)) == {"spiffe://example.org/mine"}


@pytest.mark.slow
def test_svids_are_renewed_before_they_expire(pair):
    with pair.new_world(SHORT) as world:
        agent = world.agent(program=pair.agent)
        agent.start(world.join_token("one"))
        world.entry(agent, "/web")
        before = serial_of(patiently(agent.fetch_x509))
        own = world.agents()[0].x509svid_serial_number
        wait_until(lambda: world.agents()[0].x509svid_serial_number != own)
        wait_until(lambda: serial_of(agent.fetch_x509()) != before)
        assert verified(agent.fetch_x509()) == {"spiffe://example.org/web"}


def test_an_agent_that_is_started_again_goes_on_without_attestation(pair):
    with pair.new_world() as world:
        agent = world.agent(program=pair.agent)
        agent.start(world.join_token("one"))
        world.entry(agent, "/web")
        patiently(agent.fetch_x509)
        agent.end(signal.SIGKILL)
        agent.start()
        assert verified(patiently(agent.fetch_x509)) == {"spiffe://example.org/web"}


def test_a_server_that_goes_away_and_comes_back_is_found_again(pair):
    with pair.new_world() as world:
        agent = world.agent(program=pair.agent)
        agent.start(world.join_token("one"))
        world.entry(agent, "/web")
        patiently(agent.fetch_x509)
        world.server.end(signal.SIGKILL)
        assert verified(agent.fetch_x509()) == {"spiffe://example.org/web"}
        world.server.start()
        world.entry(agent, "/later", f"unix:gid:{os.getgid()}")
        both = {"spiffe://example.org/web", "spiffe://example.org/later"}
        wait_until(lambda: verified(agent.fetch_x509()) == both)


def test_a_banned_agent_ends_and_keeps_no_svid(pair):
    with pair.new_world() as world:
        agent = world.agent(program=pair.agent)
        agent.start(world.join_token("one"))
        world.ban(agent)
        assert agent.wait() != 0
        assert agent.has_logged("Agent is banned: removing SVID and shutting down")
        assert not agent.state.get("svid")


def test_an_evicted_agent_that_cannot_attest_again_ends(pair):
    with pair.new_world() as world:
        agent = world.agent(program=pair.agent)
        agent.start(world.join_token("one"))
        world.evict(agent)
        assert agent.wait() != 0
        assert not agent.state.get("svid")


def test_a_join_token_is_good_once(pair):
    with pair.new_world() as world:
        token = world.join_token("one")
        world.agent(program=pair.agent).start(token)
        second = world.agent(program=pair.agent)
        second.begin(token)
        wait_until(lambda: second.has_logged("join token does not exist or has already been used"))
        assert second.end() is not None
        assert len(world.agents()) == 1


@pytest.mark.parametrize("first", ["spire-agent", "steeple-agent"])
def test_an_agent_takes_over_the_data_folder_of_one_of_the_other_make(first, softhsm_token):
    programs = [(spire_program("spire-agent"),), STEEPLE_AGENT]
    before, after = programs if first == "spire-agent" else reversed(programs)
    with a_world(token=softhsm_token) as world:
        agent = world.agent(program=before)
        agent.start(world.join_token("one"))
        world.entry(agent, "/web")
        patiently(agent.fetch_x509)
        agent.end()
        agent.program = after
        agent.start()
        assert verified(patiently(agent.fetch_x509)) == {"spiffe://example.org/web"}
        assert len(world.agents()) == 1


def test_an_agent_whose_key_is_in_a_token_says_why_it_cannot_use_a_stock_server(softhsm_token):
    with a_world(program=(spire_program("spire-server"),)) as world:
        keys = f'KeyManager "pkcs11" {{ plugin_data {{ {softhsm_token.plugin_data()} }} }}'
        agent = world.agent(key_manager=keys, token=softhsm_token)
        agent.begin(world.join_token("one"))
        wait_until(lambda: agent.has_logged("only Steeple's servers have") or agent.has_ended())
        assert agent.has_logged("give it a key in memory or on disk")
