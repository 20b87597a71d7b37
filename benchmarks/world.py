"""The server that is measured: real processes on a SoftHSM token, an attested agent and its entries."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.load import Load, Place, Sample
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.api.spire.api.types import entry_pb2 as types_pb2
from spiffe_core.api.spire.api.types import selector_pb2
from spiffe_core.runtime.tls import client_context
from tests.support.server_processes import NodeAgent, ServerProcess, attest, entitled, eventually, server_process
from tests.support.servers import Client, csr, pb_id
from tests.support.softhsm import SoftHsmToken

BATCH: Final = 50
CREATED_AT_ONCE: Final = 500
_SVID: Final = "/spire.api.server.svid.v1.SVID/"
_ENTRY: Final = "/spire.api.server.entry.v1.Entry/"


@dataclass(frozen=True, slots=True)
class World:
    """A server, and an agent that is entitled to some entries."""

    server: ServerProcess
    agent: NodeAgent
    entries: Sequence[str]

    @property
    def node(self) -> Place:
        """The node API, as the agent reaches it."""
        return Place(port=self.server.port, context=lambda: client_context(self.agent.identity))

    @property
    def local(self) -> Place:
        """The private socket."""
        return Place(path=str(self.server.socket_path))

    def loads(self) -> list[tuple[Load, Place]]:
        """What is measured."""
        request = csr()
        params = [svid_pb2.NewX509SVIDParams(entry_id=entry, csr=request) for entry in self.entries]
        batch = svid_pb2.BatchNewX509SVIDRequest(params=[params[number % len(params)] for number in range(BATCH)])
        new = _SVID + "BatchNewX509SVID"
        mint = svid_pb2.MintX509SVIDRequest(csr=csr("spiffe://example.org/minted"))
        token = svid_pb2.NewJWTSVIDRequest(entry_id=self.entries[0], audience=["audience"])
        return [
            (
                _load(f"X.509, batches of {BATCH}", new, batch, BATCH),
                self.node,
            ),
            (_load("X.509, one by one", new, svid_pb2.BatchNewX509SVIDRequest(params=params[:1])), self.node),
            (_load("JWT", _SVID + "NewJWTSVID", token), self.node),
            (_load("MintX509SVID, private socket", _SVID + "MintX509SVID", mint), self.local),
            (self.sync, self.node),
        ]

    @property
    def sync(self) -> Load:
        """A full sync of the agent."""
        return _load("full sync", _ENTRY + "SyncAuthorizedEntries", entry_pb2.SyncAuthorizedEntriesRequest())

    async def add_entries_of_others(self, count: int, first: int = 0) -> Sample:
        """Create entries of other agents over the private socket, and say how fast that was."""
        async with self.server.admin() as admin:
            requests = [
                _entries(f"/spire/agent/none/{at // 1000}", f"/others/{at}", min(CREATED_AT_ONCE, first + count - at))
                for at in range(first, first + count, CREATED_AT_ONCE)
            ]
            begin = time.monotonic()
            for request in requests:
                await _create(admin, request)
            return Sample(f"entries created, batches of {CREATED_AT_ONCE}", count / (time.monotonic() - begin))

    def memory(self) -> int:
        """Bytes of memory that the largest process of the server holds (VmRSS)."""
        return max(_resident(pid) for pid in self.server.pids)


@asynccontextmanager
async def world(token: SoftHsmToken, *, workers: int = 1, own: int = BATCH) -> AsyncIterator[World]:
    """Start a server with an agent that is entitled to ``own`` entries."""
    limits = "ratelimit { attestation = false signing = false }"
    with server_process(token=token, workers=workers, server=limits) as server:
        await asyncio.to_thread(server.start)
        async with server.admin() as admin, server.node() as nobody:
            agent = await attest(nobody, admin)
            entries = await _create(admin, _entries(agent.id.path, "/own", own))
        for pid in server.pids:
            async with server.node(pid, agent.identity) as client:

                async def knows_all(client: Client = client) -> bool:
                    return len(await entitled(client)) == own

                await eventually(knows_all)
        yield World(server, agent, entries)


def _load(name: str, method: str, message: object, units: int = 1) -> Load:
    return Load(name, method, message.SerializeToString(), units)  # type: ignore[attr-defined]


def _entries(parent: str, prefix: str, count: int) -> entry_pb2.BatchCreateEntryRequest:
    return entry_pb2.BatchCreateEntryRequest(
        entries=[
            types_pb2.Entry(
                spiffe_id=pb_id(f"{prefix}/w{number}"),
                parent_id=pb_id(parent),
                selectors=[selector_pb2.Selector(type="unix", value=f"uid:{number}")],
            )
            for number in range(count)
        ]
    )


async def _create(admin: Client, request: entry_pb2.BatchCreateEntryRequest) -> list[str]:
    answer = await admin.call(entry_pb2, "BatchCreateEntry", request)
    assert not any(result.status.code for result in answer.results)
    return [result.entry.id for result in answer.results]


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024
