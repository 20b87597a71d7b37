"""py-spiffe as a workload: it fetches, validates and follows what the agent gives it."""

import asyncio
import sys
from pathlib import Path
from typing import Any, Final

from tests.support import pki
from tests.support.fake_identities import Domain, FakeIdentities
from tests.support.programs import running
from tests.support.workloads import ME, serving
from tests.support.world import a_world, patiently

CLIENT: Final = (sys.executable, str(Path(__file__).parents[1] / "support" / "py_spiffe_client.py"))
PARTNER: Final = Domain(pki.Realm("partner.test"))


def token_answer(*ids: str) -> dict[str, Any]:
    """What the client says of tokens, if all is well."""
    return {
        "jwt_ids": list(ids),
        "audience": ["reports"],
        "jwt_authorities": 1,
        "validated_here": ids[0],
        "validated_there": ids[0],
        "refused_for_another": True,
    }


async def test_py_spiffe_fetches_validates_and_streams():
    identities = FakeIdentities(Domain(pki.Realm().with_intermediate()))
    identities.federated = {PARTNER.trust_domain: PARTNER.bundle}
    first = identities.add("/first", ME, federates_with=(PARTNER.trust_domain,), hint="first")
    identities.add("/second", ME)
    ids = ["spiffe://example.org/first", "spiffe://example.org/second"]
    async with serving(identities) as served, running(*CLIENT, f"unix://{served.socket}", "reports", "2") as client:
        assert await client.said() == {
            "ids": ids,
            "default": ids[0],
            "chain": 2,
            "bundles": ["example.org", "partner.test"],
            "x509_bundles": {"example.org": 1, "partner.test": 1},
        }
        assert await client.said() == token_answer(*ids)
        assert await client.said() == {"source": ids[0], "jwt_source": ids[0]}
        before = (await client.said())["update"]
        await identities.rotate(first)
        after = (await client.said())["update"]
        assert before[0] != after[0]
        assert before[1] == after[1]
        assert await client.code() == 0


async def test_py_spiffe_works_with_a_running_agent_and_server():
    with a_world() as world:
        agent = world.agent()
        await asyncio.to_thread(agent.start, world.join_token("agent"))
        world.entry(agent, "/workload")
        await asyncio.to_thread(patiently, agent.fetch_x509)
        async with running(*CLIENT, f"unix://{agent.socket_path}", "reports", "1") as client:
            fetched = await client.said()
            assert fetched["ids"] == ["spiffe://example.org/workload"]
            assert fetched["bundles"] == ["example.org"]
            assert await client.said() == token_answer("spiffe://example.org/workload")
            await client.said()
            assert len((await client.said())["update"]) == 1
            assert await client.code() == 0
