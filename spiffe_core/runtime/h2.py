"""The little of HTTP/2 (RFC 9113) that is spoken here: its preface and its frames."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What every client says first (§3.4)."""

HEADERS: Final = 0x1
SETTINGS: Final = 0x4
PING: Final = 0x6
GOAWAY: Final = 0x7

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4

MAX_FRAME: Final = 16384
"""Longest payload that a peer may send who was not allowed more (§4.2), in bytes."""
_HEADER: Final = 9


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame (§4.1)."""

    kind: int
    flags: int = 0
    stream: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        """Its bytes."""
        head = len(self.payload).to_bytes(3) + bytes([self.kind, self.flags]) + self.stream.to_bytes(4)
        return head + self.payload


class FrameTooLong(ValueError):
    """The peer sends a frame that it may not send (§4.2)."""


class FrameReader:
    """Frames out of a stream of bytes, in whatever pieces it comes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that these bytes complete.

        Raises:
            FrameTooLong: if a frame announces more than ``MAX_FRAME`` bytes.
        """
        self._rest += data
        while len(self._rest) >= _HEADER:
            length = int.from_bytes(self._rest[:3])
            if length > MAX_FRAME:
                raise FrameTooLong(f"a frame of {length} bytes")
            head, payload = self._rest[3:_HEADER], self._rest[_HEADER : _HEADER + length]
            if len(payload) < length:
                return
            self._rest = self._rest[_HEADER + length :]
            yield Frame(head[0], head[1], int.from_bytes(head[2:]) & 0x7FFFFFFF, payload)
