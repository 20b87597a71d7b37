"""The clients of SPIRE's own integration suites node-attestation and debug-endpoints, at our server and our agent."""

import os
import subprocess

import pytest

from tests.support.needs import privileged
from tests.support.spire import spire_program
from tests.support.world import a_world, patiently

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = [pytest.mark.interop, pytest.mark.softhsm]


@pytest.fixture
def world(softhsm_token):
    with a_world(token=softhsm_token) as world:
        yield world


def run(*command, expect=0):
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == expect, ran.stderr
    return ran.stdout + ran.stderr if expect else ran.stdout


def addresses(world):
    """The flags by which those clients are told where a server is."""
    return (
        *("-serverAddr", world.server.target),
        *("-serverSocketPath", f"unix://{world.server.socket_path}"),
        *("-trustDomain", "example.org"),
    )


@privileged
def test_a_node_attests_renews_and_is_banned(world):
    # The client asks for the trust domain domain.test only where it has an SVID of an agent's workload.
    client = [spire_program("node-attestation"), *addresses(world)]
    token = run(*client, "-testStep", "jointoken").strip()
    first = run(*client, "-testStep", "jointokenattest", "-tokenName", token).strip()
    renewed = run(*client, "-testStep", "renew", "-certificate", first).strip()
    assert renewed != first
    [agent] = world.agents()
    assert agent.id.path == f"/spire/agent/join_token/{token}"
    refusal = "authorization denied for method /spire.api.server.agent.v1.Agent/RenewAgent"
    run(*client, "-testStep", "renew", "-certificate", renewed)  # the first use of an SVID ends the one before it
    assert refusal in run(*client, "-testStep", "renew", "-certificate", first, expect=1)


@privileged
def test_debug_is_for_the_local_sockets_only(world, tmp_path):
    agent = world.agent()
    agent.start(world.join_token("one"))
    world.entry(agent, "/admin", admin=True)
    patiently(agent.fetch_x509)
    # This client knows the server's socket by its usual path only: it sees another /tmp.
    (tmp_path / "spire-server" / "private").mkdir(parents=True)
    os.link(world.server.socket_path, tmp_path / "spire-server" / "private" / "api.sock")
    client = spire_program("debugserver")
    script = 'mount --bind "$1" /tmp && exec "$2"'
    run("unshare", "--mount", "sh", "-c", script, "sh", tmp_path, client)
    client = [spire_program("debugagent"), *addresses(world)]
    assert '"svidChain"' in run(
        *client, "-testCase", "printDebugPage", "-debugSocketPath", f"unix://{agent.admin_socket_path}"
    )
    socket = f"unix://{agent.socket_path}"
    run(*client, "-testCase", "serverWithWorkload", "-socketPath", socket)
    run(*client, "-testCase", "serverWithInsecure")
