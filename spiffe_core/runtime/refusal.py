"""An HTTP/2 server that refuses: it answers every call with UNAVAILABLE and a text, then asks to be left.

When the real server cannot be reached, gRPC's own account of it ("Socket closed") helps nobody.  The dialler
holds the near end of the connection, so it answers there, in the server's place.  Of HTTP/2 (RFC 9113) that
takes little: settings, the number of each stream that opens, and one header block, in literals (RFC 7541)
that depend on no state.  Request headers are not decoded.
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast
from urllib.parse import quote

from spiffe_core.runtime.h2 import (
    ACK,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    Frame,
    FrameReader,
    FrameTooLong,
)

_MAX_TEXT: Final = 1000
_UNAVAILABLE: Final = 14
_STATUS_200: Final = b"\x88"
"""``:status: 200`` is number 8 of HPACK's static table."""


class RefusingServer(asyncio.Protocol):
    """The server's side of a connection on which the server has not said a word."""

    def __init__(self, *, text: str, patience: float, ended: Callable[["RefusingServer"], None]) -> None:
        self._answer = _trailers(text)
        self._patience = patience
        self._ended = ended
        self._preface = b""
        self._frames = FrameReader()
        self._last_stream = 0
        self._leaving = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def take_over(self, transport: asyncio.Transport, sent: bytes) -> None:
        """Answer on this connection from now on; ``sent`` is all that its client has said so far."""
        transport.set_protocol(self)
        self.connection_made(transport)
        self.data_received(sent)
        if not transport.is_closing():
            transport.resume_reading()

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet: a client that has calls to make makes them now."""
        self._transport = cast("asyncio.Transport", transport)
        self._send(Frame(SETTINGS))
        self._timer = asyncio.get_running_loop().call_later(self._patience, self._leave)

    def data_received(self, data: bytes) -> None:
        """Answer the calls that these bytes open."""
        missing = len(PREFACE) - len(self._preface)
        self._preface += data[:missing]
        try:
            for frame in self._frames.feed(data[missing:]):
                self._received(frame)
        except FrameTooLong:
            self.abort()
            return
        if self._last_stream:
            self._leave()

    def eof_received(self) -> None:
        """The client leaves: the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._ended(self)

    def _received(self, frame: Frame) -> None:
        if frame.kind == HEADERS and frame.stream > self._last_stream and not self._leaving:
            self._last_stream = frame.stream
            self._send(Frame(HEADERS, END_STREAM | END_HEADERS, frame.stream, self._answer))
        elif frame.kind == SETTINGS and not frame.flags & ACK:
            self._send(Frame(SETTINGS, ACK))
        elif frame.kind == PING and not frame.flags & ACK:
            self._send(Frame(PING, ACK, payload=frame.payload))

    def _send(self, frame: Frame) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame.encode())

    def _leave(self) -> None:
        """Say which calls were answered, so that the others are made on a new connection, and close soon."""
        if self._transport is None or self._leaving:
            return
        self._leaving = True
        if self._timer is not None:
            self._timer.cancel()
        self._send(Frame(GOAWAY, payload=self._last_stream.to_bytes(4) + bytes(4)))
        self._timer = asyncio.get_running_loop().call_later(self._patience, self._transport.close)


def _trailers(text: str) -> bytes:
    """The header block of an answer that is nothing but an error (gRPC's "Trailers-Only")."""
    return (
        _STATUS_200
        + _literal("content-type", "application/grpc")
        + _literal("grpc-status", str(_UNAVAILABLE))
        + _literal("grpc-message", quote(text[:_MAX_TEXT], safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"))
    )


def _literal(name: str, value: str) -> bytes:
    """A header field, never indexed, not compressed (RFC 7541 §6.2.3)."""
    return b"\x10" + _string(name) + _string(value)


def _string(text: str) -> bytes:
    """A string literal (RFC 7541 §5.2) with its length as a 7-bit-prefix integer (§5.1)."""
    raw = text.encode("ascii")
    if len(raw) < 0x7F:  # noqa: PLR2004  the prefix holds it
        return bytes([len(raw)]) + raw
    rest, length = len(raw) - 0x7F, bytearray(b"\x7f")
    while rest >= 0x80:  # noqa: PLR2004  seven bits a byte
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes(length) + bytes([rest]) + raw
