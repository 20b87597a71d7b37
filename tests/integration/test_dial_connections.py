"""How the dialler's connections come, go and come back, and what callers hear in between."""

import asyncio
import contextlib
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

import grpc
import pytest

from spiffe_core.runtime.reach import Patience
from tests.support import pki
from tests.support.houses import CHUNK, House, ask, calling, closing, dialer, nothing_left, until
from tests.support.loops import on_both_loops

SOON: Final = Patience(attempt=0.3, total=2.0)


class Resolver(asyncio.SelectorEventLoop):
    """A loop to which every name has the addresses that a test gives."""

    addresses: tuple[tuple[str, int], ...] = ()
    families: tuple[int, ...] = ()
    asked = 0

    async def getaddrinfo(self, host: Any, port: Any, **_how: Any) -> list[Any]:
        self.asked += 1
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = self.families or (socket.AF_INET,) * len(self.addresses)
        return [
            (family, socket.SOCK_STREAM, 6, "", address)
            for family, address in zip(families, self.addresses, strict=True)
        ]


def resolved(test: Callable[[Resolver], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test on a loop of that kind."""

    def run() -> None:
        loop = Resolver()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(test(loop))

    run.__name__, run.__module__ = test.__name__, test.__module__
    return run


async def refusal(channel: grpc.aio.Channel) -> str:
    """The text of the UNAVAILABLE that a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(channel)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    return refused.value.details() or ""


def unused() -> tuple[str, int]:
    """An address where nobody listens."""
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.9", 0))
        host, port = bound.getsockname()
        return host, port


@contextlib.asynccontextmanager
async def stranger(
    greet: Callable[[asyncio.StreamWriter], None] | None, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, int]]:
    """A server that is none of ours: it greets, or says nothing."""
    connections: list[asyncio.StreamWriter] = []

    async def come(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        if greet is not None:
            greet(writer)

    server = await asyncio.start_server(come, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        for writer in connections:
            writer.transport.abort()
        await server.wait_closed()


@resolved
async def test_every_address_of_a_name_is_tried(loop):
    house = House()
    async with house.open(), nothing_left(house):
        loop.addresses = (unused(), unused(), house.address)
        dialling = dialer(house, target="server.test:8081")
        assert await ask(await dialling.channel()) == "anonymous"
        await dialling.close()


@resolved
async def test_another_server_at_one_address_does_not_hide_the_right_one_at_the_next(loop):
    house, other = House(), House()
    async with house.open(), other.open(), nothing_left(house), nothing_left(other):
        loop.addresses = (other.address, house.address)
        dialling = dialer(house, target="server.test:8081")
        assert await ask(await dialling.channel()) == "anonymous"
        assert other.door.stats.accepted == 1
        await dialling.close()


@resolved
async def test_a_silent_address_is_given_up_for_the_next(loop):
    house = House()
    async with house.open(), nothing_left(house), stranger(None) as silent:
        loop.addresses = (silent, house.address)
        dialling = dialer(house, target="server.test:8081", patience=SOON)
        assert await ask(await dialling.channel()) == "anonymous"
        await dialling.close()


@resolved
async def test_an_address_of_a_family_that_this_machine_lacks_does_not_hide_the_next(loop):
    house = House()
    async with house.open(), nothing_left(house):
        loop.addresses, loop.families = (unused(), house.address), (socket.AF_APPLETALK, socket.AF_INET)
        dialling = dialer(house, target="server.test:8081")
        assert await ask(await dialling.channel()) == "anonymous"
        await dialling.close()


@resolved
async def test_the_refusal_names_each_address_and_why(loop):
    house, other = House(), House()
    async with other.open(), stranger(None) as silent:
        dead = unused()
        loop.addresses = (dead, silent, other.address)
        dialling = dialer(house, target="server.test:8081", patience=SOON)
        text = await refusal(await dialling.channel())
        assert text.startswith("cannot reach spiffe://example.org/spire/server at server.test:8081: ")
        assert f"127.0.0.9:{dead[1]}: Connection refused; " in text
        assert f"127.0.0.1:{silent[1]}: no TLS handshake within 0.3 s; " in text
        assert f"{other.target}: x509svid: certificate does not chain" in text
        await dialling.close()


@resolved
async def test_a_name_is_resolved_anew_for_each_connection_and_a_server_that_comes_back_is_found(loop):
    house = House()
    dialling = dialer(house, target="server.test:8081")
    channel = await dialling.channel()
    assert await refusal(channel) == "cannot resolve 'server.test': Name or service not known"
    async with house.open():
        loop.addresses = (house.address,)
        assert await ask(channel) == "anonymous"
        asked = loop.asked
        assert await ask(channel) == "anonymous"
        assert loop.asked == asked
    assert "Connection refused" in await refusal(channel)
    async with house.open(), nothing_left(house):  # at another port
        loop.addresses = (house.address,)
        assert await ask(channel) == "anonymous"
        await dialling.close()


@on_both_loops
async def test_a_server_that_speaks_no_tls_is_named_as_such():
    house = House()
    async with stranger(lambda writer: writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as address:
        dialling = dialer(house, target=f"{address[0]}:{address[1]}")
        assert "TLS handshake failed: " in await refusal(await dialling.channel())
        await dialling.close()


@on_both_loops
async def test_a_server_that_hangs_up_is_named_as_such():
    house = House()
    async with stranger(lambda writer: writer.transport.abort()) as address:
        dialling = dialer(house, target=f"{address[0]}:{address[1]}")
        text = await refusal(await dialling.channel())
        assert "the server closed the connection during the TLS handshake" in text
        await dialling.close()


@on_both_loops
async def test_a_server_that_does_not_negotiate_http_2_is_named_as_such(tmp_path):
    house = House()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pki.write_identity(house.realm.server(), tmp_path / "server.pem")
    context.load_cert_chain(tmp_path / "server.pem")
    async with stranger(None, context) as address:
        dialling = dialer(house, target=f"{address[0]}:{address[1]}")
        assert "the server does not speak HTTP/2 over TLS (ALPN h2)" in await refusal(await dialling.channel())
        await dialling.close()


@on_both_loops
async def test_a_caller_hears_that_the_server_may_have_refused_his_certificate():
    house = House()
    async with house.open(), nothing_left(house):
        dialling = dialer(house, house.realm.issue(validity=pki.EXPIRED))
        text = await refusal(await dialling.channel())
        assert text.startswith(
            "the server closed the connection before it spoke HTTP/2; it may have refused our certificate"
        )
        assert dialling.last_error == text
        await dialling.close()


@on_both_loops
async def test_a_caller_hears_with_which_alert_the_server_refused_his_certificate(tmp_path):
    house = House()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    pki.write_identity(house.realm.server(), tmp_path / "server.pem")
    context.load_cert_chain(tmp_path / "server.pem")

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as tls:
            with pytest.raises(ssl.SSLCertVerificationError):
                tls.do_handshake()
            while os.read(tls.fileno(), 65536):  # closing before all is read would reset the alert away
                pass

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        refusing = asyncio.create_task(asyncio.to_thread(refuse, listener))
        host, port = listener.getsockname()
        dialling = dialer(house, house.realm.issue(), target=f"{host}:{port}")
        text = await refusal(await dialling.channel())
        assert text == "the server refused the connection: tlsv1 alert unknown ca"
        await dialling.close()
        await refusing


@on_both_loops
async def test_identity_and_bundle_are_those_of_the_moment_of_each_connection():
    house = House()
    known, presented = {"bundle": house.realm.bundle}, {"identity": house.realm.issue("/first")}
    async with house.open(), nothing_left(house):
        dialling = dialer(house, identity=presented["identity"], bundle=lambda: known["bundle"])
        dialling._identity = lambda: presented["identity"]
        assert await ask(await dialling.channel()) == "spiffe://example.org/first"
        presented["identity"] = house.realm.issue("/second")
        assert await ask(await dialling.channel()) == "spiffe://example.org/first"
        await dialling.refresh()
        assert await ask(await dialling.channel()) == "spiffe://example.org/second"
        known["bundle"] = pki.Realm().bundle
        assert await ask(await dialling.channel()) == "spiffe://example.org/second"
        await dialling.refresh()
        assert "does not chain to an X.509 authority" in await refusal(await dialling.channel())
        known["bundle"] = house.realm.bundle
        assert await ask(await dialling.channel()) == "spiffe://example.org/second"
        await dialling.close()


@on_both_loops
async def test_refreshing_lets_a_call_finish_on_its_old_connection():
    house = House()
    async with house.open(), nothing_left(house):
        dialling = dialer(house)

        async def converse() -> None:
            call = (await dialling.channel()).stream_stream("/echo.Echo/BothWays")()
            await call.write(b"before")
            assert await call.read() == b"before"
            await dialling.refresh()
            assert await ask(await dialling.channel()) == "anonymous"
            assert house.door.stats.open == 2
            await call.write(b"after")
            assert await call.read() == b"after"
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF

        await converse()  # and drop the call, which holds its connection
        await until(lambda: house.door.stats.open == 1)
        await dialling.close()


@on_both_loops
async def test_a_call_that_outlasts_its_grace_is_cut():
    house = House()
    async with house.open(), nothing_left(house):
        dialling = dialer(house)
        waiting = asyncio.ensure_future(ask(await dialling.channel(), "Wait", seconds=60))
        await until(lambda: house.door.stats.open == 1)
        await asyncio.sleep(0.1)
        await dialling.refresh(grace=0.1)
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await waiting
        await until(lambda: house.door.stats.open == 0)
        await dialling.close()


@on_both_loops
async def test_closing_ends_what_is_being_called():
    house = House()
    async with house.open(), nothing_left(house):
        dialling = dialer(house)
        waiting = asyncio.ensure_future(ask(await dialling.channel(), "Wait", seconds=60))
        await until(lambda: house.door.stats.open == 1)
        await dialling.close()
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await waiting


@on_both_loops
async def test_no_other_process_may_use_the_way_out():
    house = House()
    code = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(chr(0) + sys.argv[1])
try:
    print(len(connection.recv(1)))
except ConnectionResetError:
    print(0)
"""
    async with house.open(), nothing_left(house):
        dialling = dialer(house, house.realm.issue("/friend"))
        assert await ask(await dialling.channel()) == "spiffe://example.org/friend"
        assert dialling._outbound is not None
        name = dialling._outbound.target.removeprefix("unix-abstract:")
        thief = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, name, stdout=asyncio.subprocess.PIPE, env={**os.environ}
        )
        async with asyncio.timeout(20):
            said, _ = await thief.communicate()
        assert said.strip() == b"0"
        assert house.door.stats.accepted == 1
        await dialling.close()


@on_both_loops
async def test_a_reader_that_stops_slows_the_server_down_through_the_dialler_too():
    house = House()
    async with house.open(), nothing_left(house), calling(house) as (channel, _):
        call = channel.unary_stream("/echo.Echo/Download")(b"400")
        assert len(await call.read()) == CHUNK
        sent = -1
        while sent != house.sent:  # gRPC's window is full, then the relays are, then the server waits
            sent = house.sent
            await asyncio.sleep(0.4)
        assert house.sent < 300
        call.cancel()
