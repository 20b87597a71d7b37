"""The front door: every connection to a Steeple server or agent comes in here, and gRPC stands behind it.

grpcio can neither ask a TLS client for a certificate without requiring one nor tell a handler which process
is at the other end of a Unix socket.  So connections are accepted here; an ``Admission`` says who it is or
refuses; and once the client has spoken the first words of HTTP/2, the front door connects to the gRPC
server's own Unix socket, which lies in a folder of mode 0700, and relays bytes.  The socket it connects from
has a fresh, unguessable name, so ``context.peer()`` is a key of ``peer``.

A handler that finds no peer refuses the call: the connection did not come through here.  A process has one
front door, with one gRPC server behind it, for each *kind* of listener: what serves only local callers is
not merely hidden from remote ones, it is not there.

A connection costs this process three descriptors (four on a Unix socket), two buffers of at most
``relay.HIGH_WATER`` and no task.  Every connection is counted from ``accept`` to its last byte.
"""

import asyncio
import socket
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from spiffe_core.runtime.admission import Admission, Refusal, Refused
from spiffe_core.runtime.h2 import PREFACE
from spiffe_core.runtime.peers import Peer, Peers
from spiffe_core.runtime.relay import End, Relay
from spiffe_core.runtime.sockets import Acceptor

log: Final = structlog.get_logger()

_RETRY: Final = 0.01
"""Seconds between attempts to connect to a gRPC server whose queue is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one front door bears; times in seconds."""

    connections: int = 4000
    """Open connections, those that are still in their handshake included."""
    connections_per_caller: int = 1000
    """Of these, by one IP address, or by one user on a Unix socket."""
    admission: float = 10.0
    """Time for the handshake, and again for the first words of HTTP/2 after it."""
    linger: float = 5.0
    """Time that a closing connection has to take what is still to be sent."""


@dataclass(slots=True)
class Stats:
    """What a front door has seen since its start."""

    accepted: int = 0
    """Connections taken from the listeners, refused ones included."""
    open: int = 0
    """Connections that are here now, those being admitted included."""
    refused: Counter[Refusal] = field(default_factory=Counter)
    bytes_in: int = 0
    """From clients, over connections that have ended."""
    bytes_out: int = 0
    """To clients, over connections that have ended."""


class FrontDoor:
    """Admits connections and relays them to the gRPC server that listens on the Unix socket ``backend``."""

    def __init__(self, *, admission: Admission, backend: Path, limits: Limits = Limits()) -> None:
        self._admission = admission
        self._backend = str(backend)
        self._limits = limits
        self._peers = Peers()
        self._acceptors: list[Acceptor] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._relays: set[Relay] = set()
        self._callers: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._empty.set()
        self._stats = Stats()

    def listen(self, listener: socket.socket) -> None:
        """Take connections from a listening socket, which is this object's from now on."""
        self._acceptors.append(Acceptor(listener, self._taken))

    def peer(self, grpc_peer: str) -> Peer | None:
        """Who calls, by ``context.peer()``; None if the connection did not come through this front door."""
        return self._peers.get(grpc_peer)

    @property
    def stats(self) -> Stats:
        """A copy of the counts of this moment, open connections' bytes included."""
        seen = self._stats
        return Stats(
            accepted=seen.accepted,
            open=seen.open,
            refused=Counter(seen.refused),
            bytes_in=seen.bytes_in + sum(relay.front.received for relay in self._relays),
            bytes_out=seen.bytes_out + sum(relay.back.received for relay in self._relays),
        )

    def stop_listening(self) -> None:
        """Take no new connections; open ones go on."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()

    async def close(self, grace: float = 0.0) -> None:
        """Take no new connections, give the open ones ``grace`` seconds to end by themselves, cut the rest.

        Tell the gRPC server to stop first, or at the same time: it is what asks clients to go.
        """
        self.stop_listening()
        try:
            async with asyncio.timeout(grace):
                await self._empty.wait()
        except TimeoutError:
            for task in self._tasks:
                task.cancel()
            for relay in self._relays:
                relay.abort()
            await self._empty.wait()

    def _taken(self, connection: socket.socket, address: Any) -> None:  # noqa: ANN401  as socket.accept types it
        self._stats.accepted += 1
        caller = self._admission.caller(connection, address)
        full = (
            Refusal.FULL
            if self._stats.open >= self._limits.connections
            else Refusal.CALLER_FULL
            if self._callers[caller] >= self._limits.connections_per_caller
            else None
        )
        if full is not None:
            connection.close()
            self._refuse(Refused(full, full), caller)
            return
        self._stats.open += 1
        self._callers[caller] += 1
        self._empty.clear()
        task = asyncio.get_running_loop().create_task(self._serve(connection, address, caller))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket, address: Any, caller: str) -> None:  # noqa: ANN401
        """Admit one connection and start its relay; from there on, callbacks carry it."""
        end = End()
        relayed = False
        try:
            peer = await self._admission.admit(connection, address, end, self._limits.admission)
            relayed = await self._relay(end, peer, caller)
        except Refused as exc:
            self._refuse(exc, caller)
        finally:
            if not relayed:
                end.abort()
                if end.transport is None:
                    connection.close()
                self._gone(caller)

    async def _relay(self, front: End, peer: Peer, caller: str) -> bool:
        name = self._peers.add(peer)
        back = End()
        try:
            await self._await_preface(front)
            await self._connect(name, back)
        except BaseException:
            back.abort()
            self._peers.remove(name)
            raise

        def ended(relay: Relay) -> None:
            self._relays.discard(relay)
            self._stats.bytes_in += relay.front.received
            self._stats.bytes_out += relay.back.received
            self._peers.remove(name)
            self._gone(caller)

        relay = Relay(front, back, linger=self._limits.linger, ended=ended)
        self._relays.add(relay)
        relay.join()
        return True

    async def _await_preface(self, front: End) -> None:
        try:
            async with asyncio.timeout(self._limits.admission):
                await front.hold(len(PREFACE))
        except TimeoutError as exc:
            raise Refused(Refusal.TIMEOUT, f"no HTTP/2 preface within {self._limits.admission:g} s") from exc
        except ConnectionResetError as exc:
            raise Refused(Refusal.GONE, "the client closed the connection before it spoke HTTP/2") from exc
        if not front.held.startswith(PREFACE):
            raise Refused(Refusal.PREFACE, "the client does not speak HTTP/2")

    async def _connect(self, name: str, back: End) -> None:
        """Connect to the gRPC server from a socket of that name."""
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as exc:  # no descriptors are left
            raise Refused(Refusal.BACKEND, f"no socket can be made to the gRPC server: {exc.strerror}") from exc
        try:
            connection.bind(f"\0{name}")
            async with asyncio.timeout(self._limits.admission):
                while True:
                    try:
                        connection.connect(self._backend)
                        break
                    except BlockingIOError:  # its queue is full; a Unix socket does not connect in the background
                        await asyncio.sleep(_RETRY)
                await asyncio.get_running_loop().connect_accepted_socket(lambda: back, connection)
        except OSError as exc:  # TimeoutError is one
            raise Refused(Refusal.BACKEND, f"the gRPC server's socket does not take connections: {exc}") from exc
        finally:
            if back.transport is None:
                connection.close()

    def _refuse(self, refused: Refused, caller: str) -> None:
        self._stats.refused[refused.reason] += 1
        report = (
            log.error if refused.reason is Refusal.BACKEND else log.warning if refused.reason in _TELL else log.debug
        )
        report("Connection refused", reason=refused.reason.value, error=str(refused), caller_addr=caller)

    def _gone(self, caller: str) -> None:
        self._stats.open -= 1
        self._callers[caller] -= 1
        if not self._callers[caller]:
            del self._callers[caller]
        if not self._stats.open:
            self._empty.set()


_TELL: Final = frozenset({Refusal.SVID, Refusal.FOREIGN, Refusal.NO_BUNDLE, Refusal.NO_IDENTITY})
"""Refusals that tell an operator something; the others are a scanner's or a broken client's."""
