"""go-spiffe as a workload: it fetches, validates and follows what the agent gives it, and does mTLS with it."""

import asyncio
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support import pki
from tests.support.fake_identities import Domain, FakeIdentities
from tests.support.needs import program
from tests.support.programs import running
from tests.support.workloads import ME, FakeAttestor, serving
from tests.support.world import a_world, patiently

pytestmark = [pytest.mark.go, program("go")]
SOURCE: Final = Path(__file__).parents[1] / "go"
PARTNER: Final = Domain(pki.Realm("partner.test"))


@pytest.fixture(scope="session")
def client(tmp_path_factory) -> str:
    """The program in ``tests/go``, built."""
    built = tmp_path_factory.mktemp("go") / "workload"
    subprocess.run(["go", "build", "-o", str(built), "."], cwd=SOURCE, check=True)
    return str(built)


async def test_go_spiffe_fetches_and_validates(client):
    identities = FakeIdentities(Domain(pki.Realm().with_intermediate()))
    identities.federated = {PARTNER.trust_domain: PARTNER.bundle}
    identities.add("/first", ME, federates_with=(PARTNER.trust_domain,), hint="internal")
    identities.add("/second", ME)
    async with serving(identities) as served, running(client, "fetch", f"unix://{served.socket}", "reports") as go:
        x509 = await go.said()
        assert [(svid["id"], svid["hint"], svid["chain"]) for svid in x509["svids"]] == [
            ("spiffe://example.org/first", "internal", 2),
            ("spiffe://example.org/second", "", 2),
        ]
        assert x509["bundles"] == 2
        assert await go.said() == {
            "x509_bundles": 2,
            "jwt_bundles": 2,
            "jwt": "spiffe://example.org/first",
            "hint": "internal",
        }
        assert await go.code() == 0


async def test_go_spiffe_follows_a_rotation_and_a_new_identity(client):
    async with serving() as served:
        first = served.identities.add("/first", ME)
        async with running(client, "watch", f"unix://{served.socket}", "3") as go:
            [before] = (await go.said())["svids"]
            await served.identities.rotate(first)
            [after] = (await go.said())["svids"]
            assert before["id"] == after["id"] == "spiffe://example.org/first"
            assert before["serial"] != after["serial"]
            served.identities.add("/second", ME)
            await served.identities.change()
            assert [svid["id"] for svid in (await go.said())["svids"]] == [
                "spiffe://example.org/first",
                "spiffe://example.org/second",
            ]
            assert await go.code() == 0


async def test_two_go_spiffe_peers_know_each_other_by_mutual_tls(client):
    one, two = "spiffe://example.org/one", "spiffe://example.org/two"
    async with serving(attestors=[FakeAttestor()]) as served:
        address = f"unix://{served.socket}"
        async with running(client, "serve", address, two) as server:
            served.identities.add("/one", f"fake:pid:{server.pid}")
            listens = (await server.said())["listens"]
            async with running(client, "dial", address, one, listens) as dialler:
                served.identities.add("/two", f"fake:pid:{dialler.pid}")
                assert await dialler.said() == {"server": one, "greeting": f"hello {two}"}
            assert await server.code() == 0


@pytest.mark.parametrize("wrong", ["server", "client"])
async def test_a_go_spiffe_peer_refuses_another_id_than_it_expects(client, wrong):
    one, two, three = (f"spiffe://example.org/{name}" for name in ("one", "two", "three"))
    async with serving(attestors=[FakeAttestor()]) as served:
        address = f"unix://{served.socket}"
        async with running(client, "serve", address, three if wrong == "client" else two) as server:
            served.identities.add("/one", f"fake:pid:{server.pid}")
            listens = (await server.said())["listens"]
            async with running(client, "dial", address, three if wrong == "server" else one, listens) as dialler:
                served.identities.add("/two", f"fake:pid:{dialler.pid}")
                assert await server.code() == await dialler.code() == 1
                refuser = dialler if wrong == "server" else server
                assert f'unexpected ID "{one if wrong == "server" else two}"' in await refuser.complaint()


async def test_go_spiffe_works_with_a_running_agent_and_server(client):
    workload = "spiffe://example.org/workload"
    with a_world() as world:
        agent = world.agent()
        await asyncio.to_thread(agent.start, world.join_token("agent"))
        world.entry(agent, "/workload")
        await asyncio.to_thread(patiently, agent.fetch_x509)
        address = f"unix://{agent.socket_path}"
        async with running(client, "fetch", address, "reports") as go:
            assert [svid["id"] for svid in (await go.said())["svids"]] == [workload]
            assert await go.said() == {"x509_bundles": 1, "jwt_bundles": 1, "jwt": workload, "hint": ""}
        async with running(client, "serve", address, workload) as server:
            async with running(client, "dial", address, workload, (await server.said())["listens"]) as dialler:
                assert await dialler.said() == {"server": workload, "greeting": f"hello {workload}"}
            assert await server.code() == 0
        async with running(client, "watch", address, "2") as go:
            assert len((await go.said())["svids"]) == 1
            world.entry(agent, "/more")
            assert len((await go.said())["svids"]) == 2
