"""The least of HTTP/2 that makes load: one connection that keeps so many copies of one gRPC request in flight.

A gRPC client of Python costs as much as the server that it measures.  Here a request is encoded once and sent as
bytes; of an answer only the frames' heads are read (RFC 9113 §4.1), and that its status is 0.
"""

import asyncio
import struct
import time
from collections.abc import Callable
from typing import Final, cast

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD: Final = struct.Struct(">HBBBI")
_HEAD_SIZE: Final = 9
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4
_SUCCESS: Final = b"grpc-status\x010"
_WIDE: Final = 2**31 - 1
_INITIAL_WINDOW: Final = 65_535
_RENEW: Final = 2**30
"""Received bytes after which the server is granted as many again."""
_MAX_FRAME: Final = 16_384


class LoadFailed(Exception):
    """The server ended the connection, or refused a call."""


class Connection(asyncio.Protocol):
    """Sends the request ``depth`` at a time until ``until`` (monotonic seconds); ``finished`` when all are answered."""

    def __init__(self, method: str, message: bytes, *, depth: int, until: Callable[[], float]) -> None:
        self.latencies: list[float] = []
        self.received = 0
        """Bytes of messages received."""
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._headers = _header_block(method)
        self._body = b"\0" + struct.pack(">I", len(message)) + message
        self._depth = depth
        self._until = until
        self._sent_at: dict[int, float] = {}
        self._waiting = 0
        self._next_stream = 1
        self._window = _INITIAL_WINDOW
        self._granted = _WIDE
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, open the windows wide, and begin."""
        self._transport = cast("asyncio.Transport", transport)
        # No table, so that each answer spells its status out, and windows that never close.
        settings = struct.pack(">HIHI", _HEADER_TABLE_SIZE, 0, _INITIAL_WINDOW_SIZE, _WIDE)
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _grant(_WIDE - _INITIAL_WINDOW))
        self._waiting = self._depth
        self._send()

    def data_received(self, data: bytes) -> None:
        """Read whole frames."""
        buffer = self._buffer + data
        at = 0
        while len(buffer) - at >= _HEAD_SIZE:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer, at)
            end = at + _HEAD_SIZE + (high << 8 | low)
            if len(buffer) < end:
                break
            self._frame(kind, flags, stream, buffer[at + _HEAD_SIZE : end])
            at = end
        self._buffer = buffer[at:]
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended: well, if everything was answered."""
        if not self.finished.done():
            self.finished.set_exception(LoadFailed(f"connection lost: {exc}"))

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert self._transport is not None
        if kind == _DATA:
            self.received += len(payload)
            self._granted -= len(payload)
            if self._granted < _RENEW:
                self._transport.write(_grant(_RENEW))
                self._granted += _RENEW
        elif kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and not stream:
            self._window += int.from_bytes(payload)
        elif kind == _GOAWAY:
            self._fail(f"GOAWAY {payload!r}")
        if flags & _END_STREAM and kind in {_DATA, _HEADERS} and stream in self._sent_at:
            self._answered(stream, payload)

    def _answered(self, stream: int, trailers: bytes) -> None:
        self.latencies.append(time.monotonic() - self._sent_at.pop(stream))
        if _SUCCESS not in trailers:
            self._fail(f"refused: {trailers!r}")
        elif time.monotonic() < self._until():
            self._waiting += 1
        elif not self._sent_at and not self._waiting and not self.finished.done():
            self.finished.set_result(None)

    def _send(self) -> None:
        assert self._transport is not None
        out = []
        while self._waiting and self._window >= len(self._body):
            stream, self._next_stream = self._next_stream, self._next_stream + 2
            out.append(_frame(_HEADERS, _END_HEADERS, stream, self._headers))
            parts = range(0, len(self._body), _MAX_FRAME)
            for part in parts:
                last = _END_STREAM if part == parts[-1] else 0
                out.append(_frame(_DATA, last, stream, self._body[part : part + _MAX_FRAME]))
            self._window -= len(self._body)
            self._waiting -= 1
            self._sent_at[stream] = time.monotonic()
        if out:
            self._transport.write(b"".join(out))

    def _fail(self, why: str) -> None:
        if not self.finished.done():
            self.finished.set_exception(LoadFailed(why))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _grant(size: int) -> bytes:
    return _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", size))


def _header_block(method: str) -> bytes:
    """The request's headers, all literal and without indexing (RFC 7541 §6.2.2), so the same in every stream."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())


def _text(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) < 127  # noqa: PLR2004  longer ones take more bytes for their length
    return bytes([len(raw)]) + raw
