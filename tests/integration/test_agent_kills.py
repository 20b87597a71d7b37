"""An agent that is killed between any two of its durable steps goes on where it was, with one key and no other.

Each step of an attestation or a renewal that must outlive the agent is a file that is renamed into its place.  The
agents here run with a library before the C library that kills them at one of these renames.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from spiffe_core.runtime.files import private_folder
from tests.support.server_processes import wait_until
from tests.support.softhsm import missing
from tests.support.world import STEEPLE_AGENT, AgentProcess, World, a_world, patiently

SOURCE: Final = Path(__file__).parents[1] / "support" / "deadly_rename.c"
BEGINNING: Final = 5
"""Files that an agent writes until it serves: its attempt, the new key's ID, the key, the SVID, the bundle."""
RENEWAL: Final = 5
"""Files that a renewal writes: the new key's ID, the key, the SVID, the keys without the old one, its ID's absence."""


@pytest.fixture(scope="module")
def library() -> Iterator[Path]:
    """The library that kills."""
    if shutil.which("gcc") is None:
        missing("gcc")
    with private_folder() as folder:
        built = folder / "deadly_rename.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", built, SOURCE, "-ldl"], check=True)
        yield built


@pytest.fixture
def world() -> Iterator[World]:
    # An SVID is valid from ten seconds before it is made: of 26 seconds half is over after about three.
    with a_world(server='agent_ttl = "16s"') as made:
        yield made


def doomed(world: World, library: Path, step: int, *, after: bool = False) -> AgentProcess:
    """An agent with an entry that is killed at that rename, just before it or after it."""
    orders = [f"LD_PRELOAD={library}", f"DIE_AT_RENAME={step}", *(["DIE_AFTER=1"] if after else [])]
    agent = world.agent(program=("env", *orders, *STEEPLE_AGENT))
    agent.begin(world.join_token(f"killed-{step}-{after}"))
    world.entry(agent, "/web")
    return agent


def has_one_key(agent: AgentProcess) -> bool:
    """Whether it knows of one key, and its key manager holds no other."""
    keys = set(json.loads((agent.data_dir / "keys.json").read_bytes())["keys"])
    return len(keys) == 1 and set(agent.state["key_ids"]) == keys


def goes_on(agent: AgentProcess) -> None:
    """Start it again, now that it was killed, with the token that it had; it serves."""
    assert agent.wait() < 0, agent.log
    agent.program = STEEPLE_AGENT
    agent.start(agent.join_token)
    assert patiently(agent.fetch_x509).svids[0].spiffe_id == "spiffe://example.org/web"


@pytest.mark.slow
def test_an_attestation_goes_on_wherever_it_was_cut_off(world, library):
    steps = [step for step in range(1, BEGINNING + 1) if step != 4]  # there the token was spent for nothing
    agents = [doomed(world, library, step) for step in steps]
    for agent in agents:
        goes_on(agent)
        wait_until(lambda agent=agent: has_one_key(agent))


def test_a_token_that_was_spent_for_nothing_is_told_as_such(world, library):
    agent = doomed(world, library, 4)
    assert agent.wait() < 0
    agent.program = STEEPLE_AGENT
    agent.begin(agent.join_token)
    wait_until(lambda: agent.has_logged("join token does not exist or has already been used"))


@pytest.mark.slow
def test_a_renewal_goes_on_wherever_it_was_cut_off(world, library):
    first, last = BEGINNING + 1, BEGINNING + RENEWAL
    agents = [doomed(world, library, step) for step in range(first, last + 1)]
    agents.append(doomed(world, library, first + 1, after=True))
    for agent in agents:
        goes_on(agent)
    for agent in agents:
        wait_until(lambda agent=agent: agent.has_logged("Successfully rotated agent SVID"))
        wait_until(lambda agent=agent: has_one_key(agent))
        assert not agent.has_ended()
    assert os.path.lexists(agents[0].socket_path)
