"""The client of SPIRE's suite admin-endpoints, which calls every RPC for administrators with a workload's SVID."""

import re
import subprocess
from typing import Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.needs import privileged
from tests.support.registry import x509_authority
from tests.support.spire import spire_program
from tests.support.world import a_world, patiently

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = [pytest.mark.interop, pytest.mark.softhsm, privileged]

NOT_OFFERED: Final = {
    "BatchCreateFederationRelationship",
    "BatchUpdateFederationRelationship",
    "GetFederationRelationship",
    "ListFederationRelationships",
    "BatchDeleteFederationRelationship",
}
"""RPCs of a service that our server has not."""


@pytest.fixture
def world(softhsm_token):
    with a_world(token=softhsm_token) as world:
        yield world


def failures(world, agent, *flags):
    """The RPCs that the client was not content with, each with what it says."""
    client = [
        spire_program("adminclient"),
        *("-trustDomain", "example.org"),
        *("-serverAddr", world.server.target),
        *("-socketPath", f"unix://{agent.socket_path}"),
    ]
    ran = subprocess.run([*client, *flags], capture_output=True, text=True, timeout=90, check=False)
    return dict(re.findall(r'RPC "(\w+)": (.*)', ran.stderr))


@pytest.fixture
def foreign_bundle(tmp_path):
    """A file with a certificate of another trust domain."""
    path = tmp_path / "foreign.pem"
    path.write_bytes(x509_authority().certificate.public_bytes(Encoding.PEM))
    return str(path)


@pytest.mark.parametrize("is_admin", [True, False], ids=["an admin", "no admin"])
def test_spires_admin_client_is_content_with_every_rpc_that_is_offered(world, is_admin, foreign_bundle):
    agent = world.agent()
    agent.start(world.join_token("one"))
    caller, other = ("/admin", "/workload") if is_admin else ("/workload", "/admin")
    world.entry(agent, caller, admin=is_admin)
    world.entry("spiffe://example.org/spire/agent/none", other)
    world.server_cli("bundle", "set", "-id", "spiffe://third.test", "-path", foreign_bundle)
    patiently(agent.fetch_x509)
    found = failures(world, agent, *([] if is_admin else ["-expectErrors"]))
    if is_admin:  # it expects that no agent but the one that it makes has attested by join token
        assert found.pop("ListAgents") == "only one agent is expected"
    assert set(found) == NOT_OFFERED
    assert all("Unimplemented" in text for text in found.values())
