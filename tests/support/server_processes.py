"""Real ``steeple-server`` processes with their keys in a SoftHSM token, and callers that choose which process answers.

A server of several workers gives no caller a say in which of them he meets; a test has one: while the others are
stopped (SIGSTOP) the kernel gives a connection to a private socket to the one that is left, and a connection to the
TCP port is traced to the process that holds its other end.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from server.datastore.config import SqlConfig
from spiffe_core.api.convert.bundles import bundle_from_pb
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.api.spire.api.types import attestation_pb2, selector_pb2
from spiffe_core.api.spire.api.types import entry_pb2 as types_pb2
from spiffe_core.bundle import Bundle
from spiffe_core.ids import SpiffeId, server_id
from spiffe_core.runtime.clock import SystemClock
from spiffe_core.runtime.dial import Dialer
from spiffe_core.runtime.files import private_folder
from spiffe_core.runtime.tls import TlsIdentity
from spiffe_core.x509svid import parse_chain
from tests.support.servers import TD, Client, csr, pb_id
from tests.support.softhsm import SoftHsmToken

ROOT: Final = Path(__file__).parents[2]
STEEPLE_SERVER: Final = (sys.executable, "-m", "server.cli.main")
_START_SECONDS: Final = 60.0
_SERVES: Final = "Starting Server APIs"


class ServerProcess:
    """One ``steeple-server run``, and where it is reached."""

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        workers: int = 1,
        token: SoftHsmToken | None = None,
        program: Sequence[str] = STEEPLE_SERVER,
    ) -> None:
        """Take an empty folder, the blocks beside ``server``, the count of workers and the token to be found."""
        self._program = list(program)
        self.folder = folder
        self.workers = workers
        self.socket_path = folder / "api.sock"
        # Bound and not listening, it keeps the port for whoever sets the same options.
        self._reserved = socket.socket()
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            self._reserved.setsockopt(socket.SOL_SOCKET, option, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        self._log = folder / "log"
        self._file = folder / "server.conf"
        self._file.write_text(
            f"""
            server {{
                trust_domain = "{TD}"
                data_dir = "{folder}"
                bind_address = "127.0.0.1"
                bind_port = {self.port}
                socket_path = "{self.socket_path}"
                {f"workers = {workers}" if workers > 1 else ""}
            {config}
            """
        )
        self._environment = {**os.environ, "SOFTHSM2_CONF": str(token.softhsm2_conf) if token else os.devnull}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        """The TCP address."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self._log.read_text()

    @property
    def pids(self) -> list[int]:
        """The processes that serve: the workers, or the only one there is."""
        assert self.process is not None
        if self.workers == 1:
            return [self.process.pid]
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(map(int, children))

    def begin(self, *flags: str) -> None:
        """Start it, with these flags beside its configuration, and do not wait."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._program, "run", "-config", self._file, *flags],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start(self) -> None:
        """Start it and wait until every process of it serves."""
        before = self._starts()
        self.begin()
        wait_until(lambda: (self._starts() >= before + self.workers and self.socket_path.exists()) or self.has_ended())
        if self.has_ended():
            raise AssertionError(self.log)

    def has_ended(self) -> bool:
        """Whether the process that was started runs no more."""
        return self.process is None or self.process.poll() is not None

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it and return its exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(_START_SECONDS)

    def close(self) -> None:
        """End it by force, if it runs, and its workers with it."""
        if not self.has_ended():
            pids = self.pids
            self.end(signal.SIGKILL)
            wait_until(lambda: not any(map(is_alive, pids)))
        self._reserved.close()

    def _starts(self) -> int:
        """How many processes of it have begun to serve, ever."""
        if not self._log.exists():
            return 0
        return sum(_SERVES in line and "network=tcp" in line for line in self.log.splitlines())

    # -- callers -------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def admin(self, pid: int | None = None) -> AsyncIterator[Client]:
        """A connection to the private socket; of the process of that number, if one is named."""
        others = [other for other in self.pids if pid is not None and other != pid]
        channel = grpc.aio.insecure_channel(f"unix:{self.socket_path}", [("grpc.use_local_subchannel_pool", 1)])
        try:
            with stopped(*others):
                client = Client(channel)
                await client.call(bundle_pb2, "GetBundle")
            yield client
        finally:
            await channel.close()

    async def bundle(self) -> Bundle:
        """The bundle that it serves."""
        async with self.admin() as admin:
            return bundle_from_pb(await admin.call(bundle_pb2, "GetBundle"))

    @contextlib.asynccontextmanager
    async def node(self, pid: int | None = None, identity: TlsIdentity | None = None) -> AsyncIterator[Client]:
        """A TLS connection; to the process of that number, if one is named."""
        bundle = await self.bundle()
        async with contextlib.AsyncExitStack() as resources:
            while True:  # the kernel deals connections out by a hash of their addresses
                dialer = Dialer(
                    target=self.target,
                    server_id=server_id(TD),
                    bundle=lambda: bundle,
                    identity=lambda: identity,
                    clock=SystemClock(),
                )
                resources.push_async_callback(dialer.close)
                before = {one: self._connections(one) for one in self.pids}
                client = Client(await dialer.channel())
                await client.call(bundle_pb2, "GetBundle")
                if pid is None or self._connections(pid) - before[pid]:
                    break
            yield client

    def _connections(self, pid: int) -> set[str]:
        """The established connections of the TCP port that a process holds."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        ours = {f"socket:[{line[9]}]" for line in lines if line[1].endswith(f":{self.port:04X}") and line[3] == "01"}
        held = set()
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                held.add(str(descriptor.readlink()))
        return ours & held


@dataclass
class NodeAgent:
    """An attested agent."""

    id: SpiffeId
    identity: TlsIdentity = field(repr=False)


async def attest(client: Client, admin: Client) -> NodeAgent:
    """Attest an agent over that connection, by a join token that an administrator makes."""
    token = await admin.call(agent_pb2, "CreateJoinToken", ttl=600)
    key = ec.generate_private_key(ec.SECP256R1())
    [answer] = await client.exchange(agent_pb2, "AttestAgent", attestation(token.value, key))
    svid = answer.result.svid
    return NodeAgent(SpiffeId(TD, svid.id.path), TlsIdentity(parse_chain(tuple(svid.cert_chain)), key))


def attestation(token: str, key: ec.EllipticCurvePrivateKey | None = None) -> agent_pb2.AttestAgentRequest:
    """What an agent with a join token sends."""
    return agent_pb2.AttestAgentRequest(
        params=agent_pb2.AttestAgentRequest.Params(
            data=attestation_pb2.AttestationData(type="join_token", payload=token.encode()),
            params=agent_pb2.AgentX509SVIDParams(csr=csr(key=key)),
        )
    )


async def register(admin: Client, agent: SpiffeId, path: str) -> str:
    """Make an entry of that path for an agent; its ID."""
    entry = types_pb2.Entry(
        spiffe_id=pb_id(path),
        parent_id=pb_id(agent.path),
        selectors=[selector_pb2.Selector(type="unix", value="uid:1000")],
    )
    answer = await admin.call(entry_pb2, "BatchCreateEntry", entries=[entry])
    assert not answer.results[0].status.code, answer.results[0].status.message
    return str(answer.results[0].entry.id)


async def entitled(client: Client) -> set[str]:
    """The IDs of the entries that the calling agent is given."""
    answer = await client.call(entry_pb2, "GetAuthorizedEntries")
    return {entry.id for entry in answer.entries}


async def jwt_svid(client: Client, entry_id: str, audience: str = "audience") -> str:
    """A token for an entry of the calling agent."""
    answer = await client.call(svid_pb2, "NewJWTSVID", entry_id=entry_id, audience=[audience])
    return str(answer.svid.token)


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    """Return as soon as the coroutine function says yes; fail if it never does."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  whatever a test waits for
            await asyncio.sleep(0.05)


def wait_until(condition: Callable[[], bool], seconds: float = _START_SECONDS) -> None:
    """Return as soon as the condition holds; fail if it never does."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it never happened"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Let these processes do nothing for the length of the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def server_process(
    *,
    token: SoftHsmToken | None = None,
    database: SqlConfig | None = None,
    workers: int = 1,
    server: str = "",
    key_manager: str = "",
    program: Sequence[str] = STEEPLE_SERVER,
) -> Iterator[ServerProcess]:
    """A server, not started yet, with keys of its ``server`` block; it is ended with the block.

    Its keys are in the token unless a KeyManager block is given; its database is a file unless one is given.
    """
    with private_folder() as folder:  # short: a socket's path has 107 bytes
        kind = database.database_type if database else "sqlite3"
        where = database.connection_string if database else folder / "db.sqlite3"
        keys = key_manager or f'KeyManager "pkcs11" {{ plugin_data {{\n{token.plugin_data() if token else ""}}} }}'
        config = f"""
                {server}
            }}
            plugins {{
                DataStore "sql" {{ plugin_data {{ database_type = "{kind}" connection_string = "{where}" }} }}
                {keys}
                NodeAttestor "join_token" {{}}
            }}
        """
        process = ServerProcess(folder, config, workers=workers, token=token, program=program)
        try:
            yield process
        finally:
            process.close()
