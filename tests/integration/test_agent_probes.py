"""What an agent shows to those who look after it: health over HTTP and gRPC, metrics, its log."""

import json
from collections.abc import Iterator

import pytest

from tests.support.probes import free_port, get
from tests.support.server_processes import wait_until
from tests.support.world import World, a_world, patiently


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with a_world() as made:
        yield made


def test_an_agent_is_live_at_once_and_ready_when_it_serves(world):
    probes, metrics = free_port(), free_port()
    agent = world.agent(
        more=f"""
        health_checks {{ listener_enabled = true bind_address = "127.0.0.1" bind_port = {probes} }}
        telemetry {{ Prometheus {{ host = "127.0.0.1" port = {metrics} }} }}
        """
    )
    agent.begin("a-token-that-nobody-has-made")
    wait_until(lambda: get(probes, "/live")[0] == 200)
    status, body = get(probes, "/ready")
    assert status == 500
    assert json.loads(body) == {"agent": {"err": "agent has not attested yet"}}
    assert "spire_agent_uptime_seconds" in get(metrics, "/metrics")[1], "metrics do not wait for an identity"
    agent.end()
    agent.join_token = world.join_token("probed")
    world.entry(agent, "/web")
    agent.start(agent.join_token)
    wait_until(lambda: get(probes, "/ready") == (200, json.dumps({"agent": {}})))
    assert "Agent is healthy." in agent.cli("healthcheck").stdout
    assert patiently(agent.fetch_x509).svids
    text = get(metrics, "/metrics")[1]
    assert "spire_agent_entries 1.0" in text
    assert "spire_agent_cached_x509_svids 1.0" in text
    assert 'spire_agent_sync_total{status="ok"}' in text


def test_no_secret_is_in_the_log(world):
    agent = world.agent()
    agent.join_token = world.join_token("a-secret-of-the-operator")
    world.entry(agent, "/web")
    agent.start(agent.join_token)
    token = patiently(lambda: agent.fetch_jwt("reports")).svids[0].svid
    key = patiently(agent.fetch_x509).svids[0].x509_svid_key
    agent.end()
    assert token not in agent.log
    assert key.hex() not in agent.log
    assert "PRIVATE KEY" not in agent.log
    shown = [line for line in agent.log.splitlines() if "a-secret-of-the-operator" in line]
    assert all("spiffe://example.org/spire/agent/join_token/" in line for line in shown), "a spent token is an ID"
