"""The Workload API of a running agent, where what it tells comes from a running server."""

import time
from typing import Any

import pytest

from tests.support.world import World, a_world, patiently, wait_until


def ids_of(response: Any) -> list[tuple[str, str]]:
    """Path and hint of each identity in a message."""
    return [(svid.spiffe_id.removeprefix("spiffe://example.org"), svid.hint) for svid in response.svids]


def entries(world: World, agent: Any, *members: tuple[str, str, str]) -> None:
    """Make entries of these IDs, paths and hints; the agent serves all that it can of them."""
    for name, path, hint in members:
        world.entry(agent, path, id=name, hint=hint)


@pytest.mark.conformance("W-19", "W-28", "W-40")
def test_a_hint_occurs_once_and_the_order_stays_over_changes_and_restarts():
    with a_world() as world:
        agent = world.agent()
        agent.start(world.join_token("agent"))
        entries(world, agent, ("c", "/c", "internal"), ("a", "/a", ""), ("d", "/d", ""), ("b", "/b", "external"))
        made = int(time.time())
        expected = [("/a", ""), ("/b", "external"), ("/c", "internal"), ("/d", "")]
        wait_until(lambda: ids_of(patiently(agent.fetch_x509)) == expected)
        with agent.workload() as workload:
            updates = workload.watch_x509()
            before = next(updates)
            wait_until(lambda: int(time.time()) > made)  # entries count their age in seconds
            # Of one hint: the entry that is older stays, though the other's ID sorts before it.
            entries(world, agent, ("0", "/0", "external"), ("e", "/e", "new"))
            with_more = next(message for message in updates if len(message.svids) > len(before.svids))
            assert ids_of(before) == expected
            assert ids_of(with_more) == [*expected, ("/e", "new")]
            assert ids_of(workload.jwt("reports")) == ids_of(with_more)
        agent.end()
        agent.start()
        wait_until(lambda: ids_of(patiently(agent.fetch_x509)) == [*expected, ("/e", "new")])
