"""A whole trust domain of real processes: a ``steeple-server``, agents, and the test as administrator and workload.

    with a_world() as world:
        agent = world.agent()
        world.entry(agent, "/web")
        agent.start(world.join_token("agent"))
        assert agent.fetch_x509().svids[0].spiffe_id == "spiffe://example.org/web"

Ports are ephemeral, folders temporary and short, keys on disk unless a token or another KeyManager is given.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from spiffe_core.api import workload_pb2
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.types import agent_pb2 as agents_pb2
from spiffe_core.api.spire.api.types import bundle_pb2 as bundles_pb2
from spiffe_core.api.spire.api.types import entry_pb2 as entries_pb2
from spiffe_core.api.spire.api.types import jointoken_pb2, selector_pb2, spiffeid_pb2
from spiffe_core.runtime.cli.local_client import LocalClient, RpcFailure
from spiffe_core.runtime.files import private_folder
from tests.support.server_processes import ROOT, STEEPLE_SERVER, ServerProcess, server_process, wait_until
from tests.support.softhsm import SoftHsmToken

M = TypeVar("M", bound=Message)

TRUST_DOMAIN: Final = "example.org"
DISK_KEYS: Final = 'KeyManager "disk" { plugin_data { keys_path = "%s/keys.json" } }'
STEEPLE_AGENT: Final = (sys.executable, "-m", "agent.cli.main")
_SECONDS: Final = 60.0
_HEADER: Final = (("workload.spiffe.io", "true"),)


class AgentProcess:
    """One ``steeple-agent``, and what a workload of the test's own process gets from it."""

    def __init__(
        self,
        folder: Path,
        *,
        server_port: int,
        bundle: Path | None,
        settings: str = "",
        key_manager: str = "",
        more: str = "",
        token: SoftHsmToken | None = None,
        program: Sequence[str] = STEEPLE_AGENT,
    ) -> None:
        """Take an empty folder, where its server is, and what else its configuration says.

        Without a ``bundle`` the settings must say by what the server is trusted.
        """
        self.program: Sequence[str] = program
        """With what it is started."""
        self.folder = folder
        self.data_dir = folder / "data"
        self.socket_path = folder / "public" / "api.sock"
        self.admin_socket_path = folder / "private" / "admin.sock"
        self.join_token = ""
        self._log = folder / "log"
        self.config_file = folder / "agent.conf"
        keys = key_manager or f'KeyManager "disk" {{ plugin_data {{ directory = "{self.data_dir}" }} }}'
        trust = f'trust_bundle_path = "{bundle}"' if bundle is not None else ""
        self.config_file.write_text(
            f"""
            agent {{
                trust_domain = "{TRUST_DOMAIN}"
                server_address = "127.0.0.1"
                server_port = {server_port}
                data_dir = "{self.data_dir}"
                socket_path = "{self.socket_path}"
                admin_socket_path = "{self.admin_socket_path}"
                log_level = "DEBUG"
                {trust}
                {settings}
            }}
            plugins {{
                {keys}
                NodeAttestor "join_token" {{}}
                WorkloadAttestor "unix" {{}}
            }}
            {more}
            """
        )
        self._environment = {**os.environ, "SOFTHSM2_CONF": str(token.softhsm2_conf) if token else os.devnull}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def id(self) -> str:
        """Its SPIFFE ID, that of the last join token."""
        return f"spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{self.join_token}"

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def state(self) -> dict[str, Any]:
        """What it has stored."""
        found: dict[str, Any] = json.loads((self.data_dir / "agent-data.json").read_bytes())
        return found

    def begin(self, join_token: str = "") -> None:
        """Start it, and do not wait."""
        self.join_token = join_token or self.join_token
        command = [*self.program, "run", "-config", str(self.config_file)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-joinToken", join_token] if join_token else command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start(self, join_token: str = "") -> None:
        """Start it, with a join token for the first time, and wait until it serves."""
        before = self._starts()
        self.begin(join_token)
        wait_until(lambda: self._starts() > before or self.has_ended())
        if self.has_ended():
            raise AssertionError(self.log)

    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self.process is None or self.process.poll() is not None

    def wait(self, seconds: float = _SECONDS) -> int:
        """Its exit code, once it has ended by itself."""
        assert self.process is not None
        return self.process.wait(seconds)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(_SECONDS)

    def close(self) -> None:
        """End it by force, if it runs."""
        if not self.has_ended():
            self.end(signal.SIGKILL)

    def has_logged(self, *texts: str, times: int = 1) -> bool:
        """Whether that many lines hold all the texts."""
        return sum(all(text in line for text in texts) for line in self.log.splitlines()) >= times

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of its own program, such as ``api fetch x509``, on this agent's socket."""
        path = self.admin_socket_path if arguments[0] in {"debug", "logger"} else self.socket_path
        command = [*self.program, *arguments, "-socketPath", str(path)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False)

    # -- the test's own process as a workload --------------------------------------------------------------

    @contextlib.contextmanager
    def workload(self) -> Iterator["Workload"]:
        """A connection to the Workload API."""
        with LocalClient(str(self.socket_path)) as client:
            yield Workload(client)

    def fetch_x509(self) -> workload_pb2.X509SVIDResponse:
        """The first answer of ``FetchX509SVID``; raises RpcFailure as the call fails."""
        with self.workload() as workload:
            return workload.x509()

    def fetch_jwt(self, *audience: str) -> workload_pb2.JWTSVIDResponse:
        """The answer of ``FetchJWTSVID``; raises RpcFailure as the call fails."""
        with self.workload() as workload:
            return workload.jwt(*audience)

    def _starts(self) -> int:
        return sum("Starting agent APIs" in line for line in self.log.splitlines())


class Workload:
    """Calls of the Workload API over one connection."""

    def __init__(self, client: LocalClient) -> None:
        self._client = client

    def x509(self) -> workload_pb2.X509SVIDResponse:
        """The first answer of ``FetchX509SVID``."""
        answers = self.watch_x509()
        try:
            return next(answers)
        finally:
            answers.close()  # type: ignore[attr-defined]

    def watch_x509(self, seconds: float = _SECONDS) -> Iterator[workload_pb2.X509SVIDResponse]:
        """The answers of ``FetchX509SVID``, as they come."""
        return self._client.stream(
            workload_pb2.DESCRIPTOR,
            "FetchX509SVID",
            workload_pb2.X509SVIDRequest(),
            workload_pb2.X509SVIDResponse,
            timeout=seconds,
            metadata=_HEADER,
        )

    def jwt(self, *audience: str) -> workload_pb2.JWTSVIDResponse:
        """The answer of ``FetchJWTSVID``."""
        return self._client.call(
            workload_pb2.DESCRIPTOR,
            "FetchJWTSVID",
            workload_pb2.JWTSVIDRequest(audience=audience),
            workload_pb2.JWTSVIDResponse,
            timeout=_SECONDS,
            metadata=_HEADER,
        )

    def validate(self, token: str, audience: str) -> workload_pb2.ValidateJWTSVIDResponse:
        """The answer of ``ValidateJWTSVID``."""
        return self._client.call(
            workload_pb2.DESCRIPTOR,
            "ValidateJWTSVID",
            workload_pb2.ValidateJWTSVIDRequest(svid=token, audience=audience),
            workload_pb2.ValidateJWTSVIDResponse,
            timeout=_SECONDS,
            metadata=_HEADER,
        )


@dataclass
class World:
    """The server, and what an administrator does at it."""

    server: ServerProcess
    folder: Path
    resources: contextlib.ExitStack = field(repr=False)
    _agents: int = 0

    def agent(self, settings: str = "", *, insecure: bool = False, **more: Any) -> AgentProcess:
        """An agent of this server, not started yet, with these settings of its ``agent`` block.

        Without an ``experimental`` block it follows its server twice a second.
        """
        self._agents += 1
        folder = self.folder / f"a{self._agents}"
        folder.mkdir()
        bundle = None
        if "experimental" not in settings:
            settings += '\nexperimental { sync_interval = "500ms" }'
        if insecure:
            settings += "\ninsecure_bootstrap = true"
        elif "trust_bundle" not in settings:
            bundle = folder / "bootstrap.crt"
            bundle.write_bytes(b"".join(map(_pem, self.bundle().x509_authorities)))
        agent = AgentProcess(folder, server_port=self.server.port, bundle=bundle, settings=settings, **more)
        self.resources.callback(agent.close)
        return agent

    def join_token(self, name: str, ttl: int = 600) -> str:
        """A join token of that name."""
        request = agent_pb2.CreateJoinTokenRequest(ttl=ttl, token=name)
        return str(self._call(agent_pb2, "CreateJoinToken", request, jointoken_pb2.JoinToken).value)

    def entry(self, agent: AgentProcess | str, path: str, *selectors: str, **fields: Any) -> str:
        """Make an entry for an agent's workloads, by default for those of the test's own user; its ID."""
        parent = agent if isinstance(agent, str) else agent.id
        wanted = [one.partition(":") for one in selectors or (f"unix:uid:{os.getuid()}",)]
        entry = entries_pb2.Entry(
            spiffe_id=_id(f"spiffe://{TRUST_DOMAIN}{path}"),
            parent_id=_id(parent),
            selectors=[selector_pb2.Selector(type=kind, value=value) for kind, _, value in wanted],
            **fields,
        )
        request = entry_pb2.BatchCreateEntryRequest(entries=[entry])
        [result] = self._call(entry_pb2, "BatchCreateEntry", request, entry_pb2.BatchCreateEntryResponse).results
        assert not result.status.code, result.status.message
        return str(result.entry.id)

    def delete_entry(self, entry_id: str) -> None:
        """Delete an entry."""
        request = entry_pb2.BatchDeleteEntryRequest(ids=[entry_id])
        [result] = self._call(entry_pb2, "BatchDeleteEntry", request, entry_pb2.BatchDeleteEntryResponse).results
        assert not result.status.code, result.status.message

    def update_entry(self, entry: entries_pb2.Entry, **mask: bool) -> None:
        """Change the named fields of an entry."""
        request = entry_pb2.BatchUpdateEntryRequest(entries=[entry], input_mask=entries_pb2.EntryMask(**mask))
        [result] = self._call(entry_pb2, "BatchUpdateEntry", request, entry_pb2.BatchUpdateEntryResponse).results
        assert not result.status.code, result.status.message

    def ban(self, agent: AgentProcess) -> None:
        """Ban an agent."""
        self._call(agent_pb2, "BanAgent", agent_pb2.BanAgentRequest(id=_id(agent.id)), empty_pb2.Empty)

    def evict(self, agent: AgentProcess) -> None:
        """Evict an agent."""
        self._call(agent_pb2, "DeleteAgent", agent_pb2.DeleteAgentRequest(id=_id(agent.id)), empty_pb2.Empty)

    def agents(self) -> list[agents_pb2.Agent]:
        """The agents that the server knows."""
        answer = self._call(agent_pb2, "ListAgents", agent_pb2.ListAgentsRequest(), agent_pb2.ListAgentsResponse)
        return list(answer.agents)

    def bundle(self) -> bundles_pb2.Bundle:
        """The bundle of the trust domain."""
        return self._call(bundle_pb2, "GetBundle", bundle_pb2.GetBundleRequest(), bundles_pb2.Bundle)

    def server_cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ``steeple-server`` on this server's socket; it must succeed."""
        command = [sys.executable, "-m", "server.cli.main", *arguments, "-socketPath", str(self.server.socket_path)]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False)
        assert ran.returncode == 0, ran.stderr + ran.stdout
        return ran

    def _call(self, service: Any, name: str, request: Message, answer: type[M]) -> M:
        with LocalClient(str(self.server.socket_path)) as client:
            return client.call(service.DESCRIPTOR, name, request, answer, timeout=_SECONDS)


@contextlib.contextmanager
def a_world(
    *,
    server: str = "",
    key_manager: str = "",
    token: SoftHsmToken | None = None,
    program: Sequence[str] = STEEPLE_SERVER,
) -> Iterator[World]:
    """A trust domain whose server runs, with these settings of its ``server`` block; everything ends with the block."""
    with contextlib.ExitStack() as resources:
        folder = resources.enter_context(private_folder())
        keys = key_manager or ("" if token else DISK_KEYS % folder)
        process = resources.enter_context(server_process(token=token, server=server, key_manager=keys, program=program))
        process.start()
        yield World(process, folder, resources)


def patiently(ask: Callable[[], M], seconds: float = 30.0) -> M:
    """The answer of a call that fails until something has come to be; the last failure if it never does."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except RpcFailure:
            if time.monotonic() >= give_up:
                raise
        time.sleep(0.1)


def _pem(authority: bundles_pb2.X509Certificate) -> bytes:
    return x509.load_der_x509_certificate(authority.asn1).public_bytes(Encoding.PEM)


def _id(text: str) -> spiffeid_pb2.SPIFFEID:
    name, _, path = text.removeprefix("spiffe://").partition("/")
    return spiffeid_pb2.SPIFFEID(trust_domain=name, path=f"/{path}")
