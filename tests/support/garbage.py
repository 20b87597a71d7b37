"""Garbage for whatever listens, from pure noise to almost right: strategies of what a hostile client says."""

import contextlib
import ssl
from typing import Final

from hypothesis import strategies as st

from spiffe_core.runtime.h2 import END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, Frame
from spiffe_core.runtime.tls import client_context

DATA: Final = 0x0
RST_STREAM: Final = 0x3
CONTINUATION: Final = 0x9


def client_hello() -> bytes:
    """The first flight of a TLS client."""
    outgoing = ssl.MemoryBIO()
    tls = client_context(None).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="server")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def header_block(path: bytes) -> bytes:
    """A gRPC request's header fields, none indexed, none compressed (RFC 7541)."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"server",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    return b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields.items())


def call(path: bytes) -> bytes:
    """A whole call with an empty message, on the first stream of a connection."""
    greeting = PREFACE + Frame(SETTINGS).encode()
    headers = Frame(HEADERS, END_HEADERS, 1, header_block(path)).encode()
    return greeting + headers + Frame(DATA, END_STREAM, 1, message(b"")).encode()


def message(payload: bytes, *, length: int | None = None, flag: int = 0) -> bytes:
    """A gRPC message with its prefix, which a test may make lie."""
    return bytes([flag]) + (len(payload) if length is None else length).to_bytes(4) + payload


@st.composite
def spoiled(draw: st.DrawFn, good: bytes) -> bytes:
    """What was right before a few bytes were changed, cut off or put in."""
    spoilt = bytearray(good)
    for _ in range(draw(st.integers(0, 4))):
        position = draw(st.integers(0, max(len(spoilt) - 1, 0)))
        match draw(st.sampled_from(["change", "cut", "insert"])):
            case "change" if spoilt:
                spoilt[position] = draw(st.integers(0, 255))
            case "cut":
                del spoilt[position:]
            case _:
                spoilt[position:position] = draw(st.binary(max_size=40))
    return bytes(spoilt)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Things that look like TLS records."""
    kind = draw(st.integers(20, 24) | st.integers(0, 255))
    version = draw(st.sampled_from([b"\3\0", b"\3\1", b"\3\3", b"\3\4", b"\2\0"]))
    payload = draw(st.binary(max_size=200))
    length = draw(st.just(len(payload)) | st.integers(0, 65535))
    return bytes([kind]) + version + length.to_bytes(2) + payload


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame of any kind, whose length may lie."""
    frame = Frame(
        draw(st.integers(0, 9) | st.integers(0, 255)),
        draw(st.integers(0, 255)),
        draw(st.integers(0, 7) | st.integers(0, 2**32 - 1)),
        draw(st.binary(max_size=64)),
    ).encode()
    lie = draw(st.none() | st.integers(0, 2**24 - 1))
    return frame if lie is None else lie.to_bytes(3) + frame[3:]


@st.composite
def calls(draw: st.DrawFn, paths: tuple[str, ...]) -> bytes:
    """A gRPC call that is almost right."""
    stream = draw(st.integers(0, 4)) * 2 + 1
    path = draw(st.sampled_from(paths))
    block = draw(spoiled(header_block(path.encode())) | spoiled(path.encode()).map(header_block))
    payload = draw(st.binary(max_size=300))
    body = message(
        payload, length=draw(st.none() | st.integers(0, 2**32 - 1)), flag=draw(st.sampled_from([0, 0, 0, 1, 255]))
    )
    flags = draw(st.sampled_from([END_HEADERS, END_HEADERS, END_HEADERS | END_STREAM, 0]))
    return (
        Frame(HEADERS, flags, stream, block).encode()
        + Frame(DATA, draw(st.sampled_from([0, END_STREAM])), stream, body).encode()
        + draw(st.sampled_from([b"", Frame(RST_STREAM, 0, stream, bytes(4)).encode()]))
        + draw(st.sampled_from([b"", Frame(CONTINUATION, END_HEADERS, stream, block).encode()]))
    )


def raw() -> st.SearchStrategy[bytes]:
    """What a client may say in place of a TLS handshake."""
    return st.binary(max_size=2000) | st.lists(records(), max_size=6).map(b"".join) | spoiled(client_hello())


def spoken(*paths: str) -> st.SearchStrategy[bytes]:
    """What a client may say where HTTP/2 is spoken; it calls these paths, if it gets as far."""
    greeting = PREFACE + Frame(SETTINGS).encode()
    return (
        st.binary(max_size=2000)
        | spoiled(greeting)
        | st.lists(frames(), max_size=8).map(lambda some: greeting + b"".join(some))
        | st.lists(calls(paths), min_size=1, max_size=6).map(lambda some: greeting + b"".join(some))
    )
