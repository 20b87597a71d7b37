"""Dialling a SPIFFE server: a gRPC channel that reaches exactly the server of one SPIFFE ID.

A server's X509-SVID has a URI and, as a rule, no DNS name, which grpcio's own TLS always refuses.  With a key
in memory, or none, TLS is therefore done here (``outbound``, ``reach``) and grpcio speaks plain HTTP/2 to a
private socket of this process.  With a key in hardware grpcio does the TLS (``hardware``), to the address and
the certificate that a probe of ours has found right.

Every connection uses the identity and the bundle of its moment.  A connection lives on when they change:
``refresh`` makes the next call use a new one and lets the calls on the old one finish.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc
from cryptography import x509

from spiffe_core.bundle import Bundle
from spiffe_core.dns import SERVER_NAME
from spiffe_core.errors import Unavailable
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.hardware import channel_credentials, check_server_name
from spiffe_core.runtime.outbound import FarEnd, Outbound
from spiffe_core.runtime.reach import Expectation, Patience, Reached, Route, Target, UntrustedServer
from spiffe_core.runtime.relay import End
from spiffe_core.runtime.tls import HardwareIdentity, TlsIdentity, client_context

E = TypeVar("E", bound=End)

Option = tuple[str, Any]
"""A channel argument of gRPC."""

_CONNECTED: Final = frozenset({grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.CONNECTING})


@dataclass(frozen=True, slots=True)
class _Pin:
    """What a channel of a hardware key is bound to."""

    identity: HardwareIdentity
    address: Target
    leaf: x509.Certificate


class Dialer:
    """Reaches the server ``server_id`` at ``target`` (``host:port``); one object for each server, on one loop.

    ``identity`` and ``bundle`` are asked for each connection.  No identity means: connect anonymously.
    """

    def __init__(
        self,
        *,
        target: str,
        server_id: SpiffeId,
        bundle: Callable[[], Bundle | None],
        identity: Callable[[], TlsIdentity | HardwareIdentity | None],
        clock: Clock,
        insecure_bootstrap: bool = False,
        options: Sequence[Option] = (),
        patience: Patience | None = None,
    ) -> None:
        expected = Expectation(server_id=server_id, bundle=bundle, insecure_bootstrap=insecure_bootstrap, clock=clock)
        self._route = Route(Target.parse(target), expected, patience or Patience())
        self._identity = identity
        self._options = (
            ("grpc.use_local_subchannel_pool", 1),  # or a new channel would go on using the old one's connection
            ("grpc.enable_http_proxy", 0),
            ("grpc.default_authority", target),
            *options,
        )
        self._outbound: Outbound | None = None
        self._channel: grpc.aio.Channel | None = None
        self._pin: _Pin | None = None
        self._retiring: dict[grpc.aio.Channel, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self.last_error: str | None = None
        """Why the last connection failed; None if the server has answered since."""
        self.untrusted = False
        """Whether the last connection failed since the bundle vouches for no server that answered."""
        self.presented: tuple[x509.Certificate, ...] | None = None
        """The chain that the server of the last connection proved to be itself by, leaf first."""

    async def channel(self) -> grpc.aio.Channel:
        """The channel to make the next call on: ask for each call, since ``refresh`` replaces it.

        What goes wrong on the way to the server is what the call then fails with: UNAVAILABLE, and why.

        Raises:
            Unavailable: with a key in hardware, if the server is not reached, or is not one that it can reach.
        """
        async with self._lock:
            identity = self._identity()
            if isinstance(identity, HardwareIdentity):
                return await self._hardware_channel(identity)
            if self._channel is None or self._pin is not None:
                self._outbound = self._outbound or Outbound(self._connect, self._report)
                self._replace(grpc.aio.insecure_channel(self._outbound.target, self._options), None)
            assert self._channel is not None
            return self._channel

    async def refresh(self, grace: float = 60.0) -> None:
        """Have the next call use a new connection; calls on the old one have ``grace`` seconds to finish."""
        async with self._lock:
            self._retire(grace)

    async def close(self) -> None:
        """Cut every connection; what is still being called fails."""
        async with self._lock:
            self._retire(0.0)
            for channel, task in tuple(self._retiring.items()):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await channel.close()
            if self._outbound is not None:
                await self._outbound.close()
                self._outbound = None

    async def _connect(self, end_factory: Callable[[], FarEnd]) -> FarEnd:
        identity = self._identity()
        if isinstance(identity, HardwareIdentity):
            raise Unavailable("the identity's key has moved into hardware: call again on a new channel")
        reached = await self._reach(end_factory, client_context(identity))
        self.presented = reached.chain
        return reached.end

    async def _reach(self, end_factory: Callable[[], E], context: ssl.SSLContext) -> Reached[E]:
        try:
            reached = await self._route.reach(end_factory, context)
        except Unavailable as exc:
            self.untrusted = isinstance(exc, UntrustedServer)
            raise
        self.untrusted = False
        return reached

    async def _hardware_channel(self, identity: HardwareIdentity) -> grpc.aio.Channel:
        """The channel that is connected, or else one to where the server is found now."""
        pin = self._pin
        if (
            self._channel is not None
            and pin is not None
            and pin.identity is identity
            and self._channel.get_state() in _CONNECTED
        ):
            return self._channel
        reached = await self._probe()
        found = _Pin(identity, reached.address, reached.chain[0])
        if self._channel is None or pin is None or pin.identity is not identity or pin != found:
            credentials = channel_credentials(identity, found.leaf, self._report)
            # grpcio insists that the authority of the calls is the name in the certificate.
            names = {"grpc.ssl_target_name_override": SERVER_NAME, "grpc.default_authority": SERVER_NAME}
            options = [*(option for option in self._options if option[0] not in names), *names.items()]
            address = f"ipv{6 if ':' in found.address.host else 4}:{found.address}"
            self._replace(grpc.aio.secure_channel(address, credentials, options), found)
        assert self._channel is not None
        return self._channel

    async def _probe(self) -> Reached[End]:
        """Find the server, without a client certificate, and make sure that grpcio can reach it too."""
        try:
            reached = await self._reach(End, client_context(None))
            reached.end.abort()
            self.presented = reached.chain
            check_server_name(reached.chain[0])
        except Unavailable as exc:
            self._report(str(exc))
            raise
        self._report(None)
        return reached

    def _report(self, error: str | None) -> None:
        self.last_error = error

    def _replace(self, channel: grpc.aio.Channel, pin: _Pin | None) -> None:
        self._retire(60.0)
        self._channel, self._pin = channel, pin

    def _retire(self, grace: float) -> None:
        channel, self._channel, self._pin = self._channel, None, None
        if channel is not None:
            task = asyncio.get_running_loop().create_task(channel.close(grace))
            self._retiring[channel] = task
            task.add_done_callback(lambda _: self._retiring.pop(channel, None))
