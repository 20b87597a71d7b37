"""Bytes between two connections, both ways, as they come.

Each side is an ``End``.  Until two ends are joined, what one receives is held back, and once enough is held
its reading stops.  Joined, each writes what the other receives; when its transport has more than
``HIGH_WATER`` bytes that the kernel would not take, the other's reading stops until they are gone.  So a
reader that stops reading costs two buffers, and its partner is slowed to its pace.

When one end is lost the other is closed after what is written to it has been sent, or cut when that takes
longer than ``linger`` seconds.
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast

HIGH_WATER: Final = 128 * 1024
"""Bytes that may wait in one direction before its source is paused."""


class End(asyncio.Protocol):
    """One side of a relay, for a plain or a TLS transport of asyncio or uvloop."""

    __slots__ = ("_enough", "_wanted", "error", "held", "joined", "lost", "received", "relay", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.joined: End | None = None
        self.relay: Relay | None = None
        self.held = b""
        """Received and not passed on: there is no other end yet."""
        self.received = 0
        """Bytes received so far."""
        self.lost = False
        self.error: Exception | None = None
        """Why the connection was lost; None if the peer closed it in an orderly way."""
        self._wanted = 1
        self._enough: asyncio.Future[None] | None = None

    async def hold(self, count: int) -> None:
        """Return when at least ``count`` bytes are held; reading then stops until the ends are joined.

        Raises:
            ConnectionResetError: if the connection ends first.
        """
        self._wanted = count
        if self.lost:
            raise ConnectionResetError("connection closed")
        if len(self.held) >= count:
            return
        self.pause(paused=False)
        self._enough = asyncio.get_running_loop().create_future()
        await self._enough

    def abort(self) -> None:
        """End the connection now, whatever waits to be sent."""
        if self.transport is not None and not self.lost:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands; with TLS, its handshake is done."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on, or hold them."""
        self.received += len(data)
        if self.joined is not None:
            self.joined.write(data)
            return
        self.held += data
        if len(self.held) >= self._wanted:
            self.pause(paused=True)
            if self._enough is not None and not self._enough.done():
                self._enough.set_result(None)

    def write(self, data: bytes) -> None:
        """Send bytes; without effect on a connection that is ending."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def pause(self, *, paused: bool) -> None:
        """Stop or resume reading; without effect on a connection that is ending."""
        if self.transport is None or self.transport.is_closing():
            return
        if paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        """This end's peer is slow: the other's waits."""
        if self.joined is not None:
            self.joined.pause(paused=True)

    def resume_writing(self) -> None:
        """This end's peer has caught up."""
        if self.joined is not None:
            self.joined.pause(paused=False)

    def eof_received(self) -> None:
        """The peer sends no more, which in HTTP/2 is the end of the connection: the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.lost = True
        self.error = exc
        if self._enough is not None and not self._enough.done():
            self._enough.set_exception(ConnectionResetError("connection closed"))
        if self.relay is not None:
            self.relay.end_lost(self)


class Relay:
    """Two ends joined; ``ended`` is called once, when both connections are gone."""

    __slots__ = ("_cut", "_ended", "_linger", "back", "front")

    def __init__(self, front: End, back: End, *, linger: float, ended: Callable[["Relay"], None]) -> None:
        self.front = front
        self.back = back
        self._linger = linger
        self._ended = ended
        self._cut: asyncio.TimerHandle | None = None

    def join(self) -> None:
        """Pass on what is held, and from now on whatever comes."""
        front, back = self.front, self.back
        front.relay = back.relay = self
        front.joined, back.joined = back, front
        for source, sink in ((front, back), (back, front)):
            held, source.held = source.held, b""
            source.pause(paused=False)  # before writing, which may pause it again
            if held:
                sink.write(held)
        for end in (front, back):
            if end.lost:
                self.end_lost(end)

    def end_lost(self, end: End) -> None:
        """One connection has ended: send the other what it has coming, and close it."""
        other = self.back if end is self.front else self.front
        if other.lost:
            if self._cut is not None:
                self._cut.cancel()
                self._cut = None
            ended, self._ended = self._ended, _nothing
            ended(self)
        elif other.transport is not None and self._cut is None:
            self._cut = asyncio.get_running_loop().call_later(self._linger, other.abort)
            other.transport.close()

    def abort(self) -> None:
        """End both connections now."""
        self.front.abort()
        self.back.abort()


def _nothing(_relay: Relay) -> None:
    """Take the place of a callback that was called."""
