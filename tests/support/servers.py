"""A whole server in this process, behind its real front doors, and callers of every kind.

Keys are in memory and the database is a file.  Time stands still unless a test moves it, and so does the
registry in memory, which catches up when a test says ``refresh``.
"""

import contextlib
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import Message
from google.rpc import status_pb2

from hsm_ca.authority_key import Kind
from hsm_ca.x509_authority import SvidRequest
from server.config import ServerConfig, server_config
from server.datastore.store import Datastore
from server.parts import Parts
from server.rate_limits import RateLimits
from server.shared import Shared, listen_locally
from spiffe_core.agents import Agent
from spiffe_core.api.services import Method, methods_of, service_in
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.types import status_pb2 as types_pb2
from spiffe_core.api.spire.api.types.spiffeid_pb2 import SPIFFEID
from spiffe_core.entries import Entry
from spiffe_core.errors import DenialReason
from spiffe_core.ids import SpiffeId, TrustDomain, server_id
from spiffe_core.runtime.block import Block
from spiffe_core.runtime.clock import Clock, unix
from spiffe_core.runtime.dial import Dialer
from spiffe_core.runtime.files import private_folder
from spiffe_core.runtime.levels import SharedLevelSwitch
from spiffe_core.runtime.sockets import listen_tcp
from spiffe_core.runtime.tls import TlsIdentity
from spiffe_core.x509svid import parse_chain
from tests.support.clock import FakeClock

TD: Final = TrustDomain("example.org")
HOUR: Final = timedelta(hours=1)
PATIENCE: Final = 20.0
"""Seconds after which a call that is not answered fails the test."""


class Refusal(NamedTuple):
    """How a call was refused."""

    code: grpc.StatusCode
    text: str
    reason: DenialReason | None = None
    """What the status details say, if there are any."""


class Refused(Exception):
    """A call was refused."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


def method_of(module: Any, name: str) -> Method:
    """The RPC of that name in the service that a generated module defines."""
    [method] = [method for method in methods_of(service_in(module.DESCRIPTOR)) if method.name == name]
    return method


class Client:
    """Calls RPCs over one connection."""

    def __init__(self, channel: grpc.aio.Channel, patience: float = PATIENCE) -> None:
        self._channel = channel
        self._patience = patience

    def waiting(self, seconds: float) -> "Client":
        """The same connection, whose calls have so many seconds."""
        return Client(self._channel, seconds)

    async def call(self, module: Any, name: str, request: Message | None = None, **fields: Any) -> Any:
        """The answer of a unary RPC; ``fields`` are the request's if none is given.

        Raises:
            Refused: if it is refused.
        """
        method = method_of(module, name)
        assert not method.client_streaming
        assert not method.server_streaming
        callable_ = self._channel.unary_unary(method.path, _serialize, method.response.FromString)
        try:
            return await callable_(method.request(**fields) if request is None else request, timeout=self._patience)
        except grpc.aio.AioRpcError as exc:
            raise Refused(_refusal(exc)) from None

    async def exchange(self, module: Any, name: str, *requests: Message) -> list[Any]:
        """All answers of a streaming RPC to these requests, of which there are no more.

        Raises:
            Refused: if it is refused.
        """
        method = method_of(module, name)
        kinds = {
            (True, True): self._channel.stream_stream,
            (False, True): self._channel.unary_stream,
            (True, False): self._channel.stream_unary,
        }
        kind = kinds[method.client_streaming, method.server_streaming]
        callable_ = cast("Any", kind)(method.path, _serialize, method.response.FromString)
        asked = iter(requests) if method.client_streaming else requests[0]
        try:
            return [answer async for answer in callable_(asked, timeout=self._patience)]
        except grpc.aio.AioRpcError as exc:
            raise Refused(_refusal(exc)) from None

    def open(self, module: Any, name: str) -> "grpc.aio.StreamStreamCall[Message, Any]":
        """A stream both ways, for a test to write and read."""
        method = method_of(module, name)
        return self._channel.stream_stream(method.path, _serialize, method.response.FromString)(timeout=self._patience)

    async def refusal(self, module: Any, name: str, request: Message | None = None, **fields: Any) -> Refusal | None:
        """How the RPC is refused, or None if it is not."""
        method = method_of(module, name)
        request = method.request(**fields) if request is None else request
        try:
            if method.client_streaming or method.server_streaming:
                await self.exchange(module, name, request)
            else:
                await self.call(module, name, request)
        except Refused as exc:
            return exc.refusal
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedOfOne(Shared):
    """What a server of one process has, with a TCP port that the system chose."""

    tcp: socket.socket

    def listen(self, config: ServerConfig) -> list[socket.socket]:
        """The one socket."""
        return [self.tcp]


@dataclass
class Served:
    """A server that serves."""

    config: ServerConfig
    parts: Parts
    shared: SharedOfOne
    clock: FakeClock
    resources: contextlib.AsyncExitStack
    target: str
    """The TCP address."""
    local: Client
    """Over the private socket."""

    @property
    def datastore(self) -> Datastore:
        """The server's database."""
        return self.parts._datastore

    def id(self, path: str) -> SpiffeId:
        """An ID of the server's trust domain."""
        return SpiffeId(self.config.trust_domain, path)

    async def refresh(self) -> None:
        """Have the registry in memory catch up with the database."""
        await self.parts.registry.refresh()

    async def remote(self, identity: TlsIdentity | None = None) -> Client:
        """A TLS connection, with or without a certificate."""
        dialer = Dialer(
            target=self.target,
            server_id=server_id(self.config.trust_domain),
            bundle=lambda: self.parts.trust.own,
            identity=lambda: identity,
            clock=self.clock,
        )
        self.resources.push_async_callback(dialer.close)
        return Client(await dialer.channel())

    def issue(self, path: str = "/workload", ttl: timedelta = HOUR) -> TlsIdentity:
        """An X509-SVID that the server's authority signed, as its holder presents it."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = SvidRequest(
            kind=Kind.WORKLOAD_X509_SVID, spiffe_id=self.id(path), public_key=key.public_key(), ttl=ttl
        )
        svid = self.parts.authorities.x509.issue(request, self.clock.now())
        return TlsIdentity(parse_chain(svid.chain), key)

    def attested(self, name: str = "x509pop/one", *, ttl: timedelta = HOUR, **fields: Any) -> TlsIdentity:
        """The SVID of an agent that the database knows as attested."""
        identity = self.issue(f"/spire/agent/{name}", ttl)
        leaf = identity.chain[0]
        known = Agent(
            id=self.id(f"/spire/agent/{name}"),
            attestation_type=name.partition("/")[0],
            cert_serial=str(leaf.serial_number),
            cert_not_after=unix(leaf.not_valid_after_utc),
        )
        self.datastore.agents.create_or_replace(replace(known, **fields))
        return identity

    async def agent(self, name: str = "x509pop/one", **fields: Any) -> Client:
        """An attested agent, connected."""
        identity = self.attested(name, **fields)
        await self.refresh()
        return await self.remote(identity)

    def register(self, *entries: Entry) -> list[Entry]:
        """Put entries into the database, past the API."""
        outcomes = self.datastore.entries.create_batch(entries)
        assert all(outcome.error is None for outcome in outcomes)
        return [cast("Entry", outcome.entry) for outcome in outcomes]


@contextlib.asynccontextmanager
async def serving(
    server: str = "",
    rest: str = "",
    *,
    plugins: str = 'NodeAttestor "join_token" {}',
    trust_domain: str = TD.name,
    clock: Clock | None = None,
    ready: bool = True,
) -> AsyncIterator[Served]:
    """Serve with these keys of the ``server`` block and these blocks beside it.

    With ``ready`` false there is neither an authority nor an SVID of the server yet.  Without a clock it is one
    that stands still.
    """
    async with contextlib.AsyncExitStack() as resources:
        folder = resources.enter_context(private_folder())
        config = _config(folder, server, rest, plugins, trust_domain)
        clock = clock or FakeClock()
        limits = RateLimits(monotonic=clock.monotonic)
        resources.callback(limits.close)
        shared = SharedOfOne(
            local=listen_locally(config),
            rate_limits=limits,
            level=SharedLevelSwitch(config.log_level),
            tcp=listen_tcp("127.0.0.1", 0),
        )
        target = "{}:{}".format(*shared.tcp.getsockname())
        parts = await Parts.open(config, shared, clock)
        resources.push_async_callback(parts.close)
        if ready:
            await bring_up(parts)
        await parts.endpoints.start(shared)
        resources.push_async_callback(parts.endpoints.stop, 0.0)
        channel = grpc.aio.insecure_channel(f"unix:{config.socket_path}", [("grpc.use_local_subchannel_pool", 1)])
        resources.push_async_callback(channel.close)
        yield Served(config, parts, shared, cast("FakeClock", clock), resources, target, Client(channel))


async def bring_up(parts: Parts) -> None:
    """Get the authorities, and the server its SVID."""
    await parts.start_authorities()
    while not parts.authorities_ready():
        await parts.tick_authorities()
    await parts.registry.refresh()
    await parts.svid.rotate_if_due()


def _config(folder: Path, server: str, rest: str, plugins: str, trust_domain: str) -> ServerConfig:
    text = f"""
    server {{
        trust_domain = "{trust_domain}"
        data_dir = "{folder}"
        bind_address = "127.0.0.1"
        socket_path = "{folder}/api.sock"
        {server}
    }}
    plugins {{
        DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{folder}/db.sqlite3" }} }}
        KeyManager "memory" {{}}
        {plugins}
    }}
    {rest}
    """
    return server_config(Block.parse(text))


def csr(
    *uris: str,
    dns_names: Sequence[str] = (),
    subject: str = "",
    key: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """A certificate signing request in DER."""
    name = [x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)] if subject else []
    builder = x509.CertificateSigningRequestBuilder(x509.Name(name))
    sans: Iterable[x509.GeneralName] = [
        *map(x509.UniformResourceIdentifier, uris),
        *map(x509.DNSName, dns_names),
    ]
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    signed = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(Encoding.DER)


def forged(request: bytes) -> bytes:
    """A CSR with a signature that does not fit: its last byte is another."""
    return request[:-1] + bytes([request[-1] ^ 1])


def pb_id(path: str, trust_domain: str = TD.name) -> SPIFFEID:
    """An ID as a message."""
    return SPIFFEID(trust_domain=trust_domain, path=path)


def attest(token: str = "secret", request: bytes = b"", kind: str = "join_token") -> agent_pb2.AttestAgentRequest:
    """The first message of an agent that attests, with a new CSR unless one is given."""
    params = {"data": {"type": kind, "payload": token.encode()}, "params": {"csr": request or csr()}}
    return agent_pb2.AttestAgentRequest(params=params)


async def attested(client: Client, *args: Any, **kwargs: Any) -> agent_pb2.AttestAgentResponse.Result:
    """What an agent gets that attests with such a message."""
    [response] = await client.exchange(agent_pb2, "AttestAgent", attest(*args, **kwargs))
    return cast("agent_pb2.AttestAgentResponse.Result", response.result)


async def make_token(served: Served, value: str = "secret", **fields: Any) -> None:
    """Make a join token."""
    await served.local.call(agent_pb2, "CreateJoinToken", **{"ttl": 60, "token": value, **fields})


def _serialize(request: Message) -> bytes:
    return request.SerializeToString()


def _refusal(error: grpc.aio.AioRpcError) -> Refusal:
    reason = None
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(cast("bytes", value))
            assert (status.code, status.message) == (error.code().value[0], error.details())
            details = types_pb2.PermissionDeniedDetails()
            assert status.details[0].Unpack(details)
            reason = DenialReason(details.reason)
    return Refusal(error.code(), error.details() or "", reason)
