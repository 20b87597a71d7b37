"""The core of an agent in this process, on a real server in this process (``tests.support.servers``), and one clock.

Nothing runs by itself: a test synchronises, fetches and rotates when it wants to.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.cache import IdentityCache
from agent.config import AgentConfig, agent_config
from agent.identities import Selectors
from agent.parts import Parts, Working
from agent.state import StateFile
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.entries import Entry, Selector
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.block import Block
from spiffe_core.runtime.levels import Level, LevelSwitch
from spiffe_core.x509svid import id_of
from tests.support.clock import FakeClock
from tests.support.servers import TD, Served

WORKLOAD: Final = frozenset({Selector("unix", "uid:1000")})


@dataclass
class Core:
    """An attested agent."""

    served: Served
    parts: Parts
    working: Working

    @property
    def cache(self) -> IdentityCache:
        """What it knows for its workloads."""
        return self.working.cache

    @property
    def clock(self) -> FakeClock:
        """The clock that it shares with its server."""
        return self.served.clock

    @property
    def state(self) -> StateFile:
        """What it has stored."""
        return self.parts.state

    @property
    def id(self) -> SpiffeId:
        """Its own ID."""
        return id_of(self.working.svid.credentials.chain[0])

    async def entry(self, path: str, *selectors: str, parent: SpiffeId | None = None, **fields: object) -> Entry:
        """An entry of this agent's, which the server knows of from now on."""
        wanted = tuple(map(Selector.parse, selectors)) or tuple(WORKLOAD)
        entry = Entry(
            spiffe_id=SpiffeId(TD, path),
            parent_id=parent or self.id,
            selectors=wanted,
            **fields,  # type: ignore[arg-type]
        )
        [made] = self.served.register(entry)
        await self.served.refresh()
        return made

    async def follow(self) -> None:
        """Ask the server for everything that is new, SVIDs included."""
        await self.working.sync.sync()
        while await self.working.fetcher.fetch():
            pass

    def ids(self, selectors: Selectors = WORKLOAD) -> list[str]:
        """The paths of a workload's identities that have an SVID."""
        state = self.cache.state_of(selectors)
        return [one.entry.spiffe_id.path for one in state.identities if one.svid is not None]


def core_config(served: Served, folder: Path, settings: str = "") -> AgentConfig:
    """The configuration of an agent of that server, with these keys of its ``agent`` block."""
    host, _, port = served.target.rpartition(":")
    trust = "" if "trust_bundle" in settings else "insecure_bootstrap = true"
    return agent_config(
        Block.parse(
            f"""
            agent {{
                trust_domain = "{TD}"
                server_address = "{host}"
                server_port = {port}
                data_dir = "{folder}"
                socket_path = "{folder}/public/api.sock"
                {trust}
                {settings}
            }}
            plugins {{
                KeyManager "disk" {{ plugin_data {{ directory = "{folder}" }} }}
                NodeAttestor "join_token" {{}}
                WorkloadAttestor "unix" {{}}
            }}
            """
        )
    )


async def join_token(served: Served, name: str = "token") -> str:
    """A join token of that name."""
    return str((await served.local.call(agent_pb2, "CreateJoinToken", ttl=30 * 86400, token=name)).value)


@contextlib.asynccontextmanager
async def agent_core(served: Served, folder: Path, settings: str = "") -> AsyncIterator[Core]:
    """An agent that has attested, or goes on with what it has stored in the folder."""
    config = core_config(served, folder, settings)
    parts = await Parts.open(config, LevelSwitch(Level.INFO), served.clock)
    try:
        credentials, bundle = await parts.bootstrap.run()
        await served.refresh()
        working = Working(config, parts, credentials, bundle)
        try:
            yield Core(served, parts, working)
        finally:
            await working.endpoints.stop(0.0)
            await working.close()
    finally:
        await parts.close()
