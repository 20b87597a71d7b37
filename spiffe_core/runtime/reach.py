"""Reaching a SPIFFE server: resolve, connect, shake hands, and make sure that it is the one.

The name is resolved again for each connection and its addresses are tried in the resolver's order, each for
a short time, until one answers *as the expected server*: a machine that is down, or another one that has
taken its address, must not hide the server's other addresses.

The certificate is checked after the handshake and before a byte is sent, by ``spiffe_core.x509svid`` alone.
In TLS 1.3 a client certificate has been sent by then; the server has learnt a public document and a
signature that is of use in no other connection.
"""

import asyncio
import contextlib
import os
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Self, TypeVar

from spiffe_core.bundle import Bundle
from spiffe_core.errors import InvalidConfig, InvalidX509Svid, Unavailable
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.relay import End
from spiffe_core.runtime.sockets import tune_tcp
from spiffe_core.runtime.tls import ALPN, presented_chain
from spiffe_core.x509svid import Chain, UnknownAuthority, id_of, parse_chain, verify_x509_svid

E = TypeVar("E", bound=End)

_TARGET: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:/\s]+)):(?P<port>[0-9]{1,5})")
_MAX_PORT: Final = 65535
_SHUTDOWN: Final = 2.0
"""Seconds that a server has to answer our close_notify."""


class UntrustedServer(Unavailable):
    """At every address a server answered for which no authority of the bundle vouches."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server is: a DNS name or IP address, and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``host:port``, ``192.0.2.1:port`` or ``[2001:db8::1]:port``.

        Raises:
            InvalidConfig: if ``text`` is none of these.
        """
        found = _TARGET.fullmatch(text)
        if not found or not 0 < int(found["port"]) <= _MAX_PORT:
            raise InvalidConfig(f"server address {text!r} is not of the form host:port")
        return cls(found["v6"] or found["host"], int(found["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Who the server must prove to be."""

    server_id: SpiffeId
    bundle: Callable[[], Bundle | None]
    """The bundle of the server's trust domain, as it is at the moment."""
    insecure_bootstrap: bool = False
    """Believe any certificate that has the ID: only for a first contact that the operator chose not to secure."""
    clock: Clock

    def check(self, ders: tuple[bytes, ...]) -> Chain:
        """The server's chain, leaf first.

        Raises:
            InvalidX509Svid: if the chain does not prove the expected ID.
        """
        chain = parse_chain(ders)
        if self.insecure_bootstrap:
            found = id_of(chain[0])
        else:
            bundle = self.bundle()
            if bundle is None:
                raise InvalidX509Svid(f'there is no bundle of trust domain "{self.server_id.trust_domain}" yet')
            found = verify_x509_svid(chain, bundle, self.clock.now()).id
        if found != self.server_id:
            raise InvalidX509Svid(f'unexpected server ID "{found}", not "{self.server_id}"')
        return chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long reaching a server may take, in seconds."""

    attempt: float = 5.0
    """To connect to one address, and again for its handshake."""
    total: float = 15.0
    """For all addresses together; gRPC gives up a connection after 20."""


@dataclass(frozen=True, slots=True)
class Reached(Generic[E]):
    """A connection to the server: its protocol, where it answered, and the chain by which it proved to be itself."""

    end: E
    address: Target
    chain: Chain


@dataclass(frozen=True, slots=True)
class Route:
    """The way to one server."""

    target: Target
    expected: Expectation
    patience: Patience = field(default=Patience())

    async def reach(self, end_factory: Callable[[], E], context: ssl.SSLContext) -> Reached[E]:
        """Connect to the expected server; the connection's protocol is a new one from the factory.

        Raises:
            Unavailable: telling, address by address, why there is no connection.
        """
        causes: list[str] = []
        untrusted = 0
        try:
            async with asyncio.timeout(self.patience.total):
                for address in await self._resolve():
                    try:
                        return await self._try(address, end_factory(), context)
                    except _Failed as exc:
                        causes.append(f"{Target(*address[-1][:2])}: {exc}")
                        untrusted += isinstance(exc.__cause__, UnknownAuthority)
        except TimeoutError:
            causes.append(f"no more time after {self.patience.total:g} s")
        kind = UntrustedServer if 0 < untrusted == len(causes) else Unavailable
        raise kind(f"cannot reach {self.expected.server_id} at {self.target}: {'; '.join(causes)}")

    async def _resolve(self) -> list[Any]:
        host, port = self.target.host, self.target.port
        try:
            return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as exc:
            raise Unavailable(f"cannot resolve {host!r}: {exc.strerror or exc}") from exc

    async def _try(self, address: Any, end: E, context: ssl.SSLContext) -> Reached[E]:  # noqa: ANN401  as getaddrinfo's
        family, kind, _, _, where = address
        with contextlib.ExitStack() as on_failure:
            try:
                connection = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                on_failure.callback(lambda: end.abort() if end.transport else connection.close())
                async with asyncio.timeout(self.patience.attempt):
                    tune_tcp(connection)
                    await asyncio.get_running_loop().sock_connect(connection, where)
            except TimeoutError as exc:
                raise _Failed(f"no answer within {self.patience.attempt:g} s") from exc
            except OSError as exc:
                raise _Failed(os.strerror(exc.errno) if exc.errno else str(exc)) from exc
            tls = await _handshake(self.target, connection, end, context, self.patience.attempt)
            if tls.selected_alpn_protocol() != ALPN:
                raise _Failed("the server does not speak HTTP/2 over TLS (ALPN h2)")
            try:
                chain = self.expected.check(presented_chain(tls))
            except InvalidX509Svid as exc:
                raise _Failed(f"x509svid: {exc}") from exc
            on_failure.pop_all()
            return Reached(end, Target(*where[:2]), chain)


class _Failed(Exception):
    """Why one address did not do."""


async def _handshake(
    target: Target, connection: socket.socket, end: End, context: ssl.SSLContext, seconds: float
) -> ssl.SSLObject:
    try:
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: end,
            sock=connection,
            ssl=context,
            server_hostname=target.host,
            ssl_handshake_timeout=seconds,
            ssl_shutdown_timeout=_SHUTDOWN,
        )
    except ssl.SSLError as exc:
        raise _Failed(f"TLS handshake failed: {alert_text(exc)}") from exc
    except ConnectionAbortedError as exc:
        raise _Failed(f"no TLS handshake within {seconds:g} s") from exc
    except OSError as exc:
        raise _Failed("the server closed the connection during the TLS handshake") from exc
    if end.transport is None:
        raise _Failed("the server closed the connection during the TLS handshake")
    tls = transport.get_extra_info("ssl_object")
    assert isinstance(tls, ssl.SSLObject)
    return tls


def alert_text(exc: ssl.SSLError) -> str:
    """What OpenSSL says of a failed connection, such as ``sslv3 alert bad certificate``."""
    return exc.reason.replace("_", " ").lower() if exc.reason else str(exc)
