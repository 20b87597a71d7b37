"""The way out: gRPC's plain connections to a private socket become TLS connections to a SPIFFE server.

The mirror image of the front door.  The socket has an abstract name, which any process of the machine can
find and connect to; so each connection must come from this very process, or it is closed.

Until the server has said its first word, it may still turn us away: in TLS 1.3 it judges our certificate
after our handshake is over.  So what gRPC sends is kept until then, and if the server hangs up, or was not
reached at all, a ``RefusingServer`` answers in its place and says why.
"""

import asyncio
import os
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from spiffe_core.errors import Unavailable
from spiffe_core.runtime.peers import PeerProcess
from spiffe_core.runtime.reach import alert_text
from spiffe_core.runtime.refusal import RefusingServer
from spiffe_core.runtime.relay import End, Relay
from spiffe_core.runtime.sockets import Acceptor, listen_abstract

log: Final = structlog.get_logger()

_LINGER: Final = 5.0
"""Seconds that a closing connection has to take what is still to be sent."""
_ANSWER: Final = 1.0
"""Seconds that a refused client has to make its calls, and again to hang up."""
_MAX_KEPT: Final = 256 * 1024
"""Most bytes that are kept for a server that has not spoken; beyond them a refusal has no text."""


class Outbound:
    """Gives each connection to ``target`` one that ``connect`` opens; it raises Unavailable if it cannot.

    ``report`` is told how each connection fared: None when the server has spoken, otherwise why not.
    """

    def __init__(
        self, connect: Callable[[Callable[[], "FarEnd"]], Awaitable["FarEnd"]], report: Callable[[str | None], None]
    ) -> None:
        name = f"steeple-{secrets.token_hex(16)}"
        self.target = f"unix-abstract:{name}"
        """What a gRPC channel connects to."""
        self._connect = connect
        self._report = report
        self._acceptor = Acceptor(listen_abstract(name), self._taken)
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[Relay | RefusingServer] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    async def close(self) -> None:
        """Cut every connection."""
        self._acceptor.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in list(self._open):
            one.abort()
        await self._empty.wait()

    def _taken(self, connection: socket.socket, _address: Any) -> None:  # noqa: ANN401  as socket.accept types it
        pid, uid, _ = PeerProcess.credentials(connection)
        if pid != os.getpid():
            log.warning("Connection refused", reason="not this process", pid=pid, uid=uid)
            connection.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        near = _Near()
        kept = False
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: near, connection)
            try:
                far = await self._connect(lambda: FarEnd(self._report))
            except Unavailable as exc:
                self._refuse(near, str(exc))
            else:
                relay = Relay(near, far, linger=_LINGER, ended=self._ended)
                far.hung_up = lambda text: self._hung_up(relay, text)
                self._keep(relay)
                relay.join()
            kept = True
        finally:
            if not kept:
                near.abort()

    def _refuse(self, near: "_Near", text: str) -> None:
        self._report(text)
        if near.lost or near.transport is None or near.kept is None:
            near.abort()
            return
        server = RefusingServer(text=text, patience=_ANSWER, ended=self._ended)
        self._keep(server)
        server.take_over(near.transport, near.kept)

    def _hung_up(self, relay: Relay, text: str) -> None:
        near = relay.front
        assert isinstance(near, _Near)
        near.joined = near.relay = None
        self._refuse(near, text)
        self._ended(relay)

    def _keep(self, one: Relay | RefusingServer) -> None:
        self._open.add(one)
        self._empty.clear()

    def _ended(self, one: Relay | RefusingServer) -> None:
        self._open.discard(one)
        if not self._open:
            self._empty.set()


class _Near(End):
    """gRPC's connection, with what it has sent to a server that has not spoken yet."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        super().__init__()
        self.kept: bytes | None = b""
        """None when there is no more need for it, or it has become too much."""

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on, or hold them; and keep them while the server is silent."""
        if self.kept is not None:
            silent = self.joined is None or not self.joined.received
            self.kept = self.kept + data if silent and len(self.kept) + len(data) <= _MAX_KEPT else None
        super().data_received(data)


class FarEnd(End):
    """The server's connection."""

    __slots__ = ("_report", "hung_up")

    def __init__(self, report: Callable[[str | None], None]) -> None:
        super().__init__()
        self._report = report
        self.hung_up: Callable[[str], None] | None = None
        """Called instead of closing gRPC's connection if the server hangs up without a word."""

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on."""
        if not self.received:
            self._report(None)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has gone."""
        if self.relay is None or self.received or self.hung_up is None or self.relay.front.lost:
            super().connection_lost(exc)
            return
        self.lost = True
        self.hung_up(
            f"the server refused the connection: {alert_text(exc)}"
            if isinstance(exc, ssl.SSLError)
            else "the server closed the connection before it spoke HTTP/2; "
            "it may have refused our certificate: its log says why"
        )
