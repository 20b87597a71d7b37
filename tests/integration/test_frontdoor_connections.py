"""What the front door bears from clients that are slow, silent, greedy, rude or gone; none of it leaves anything."""

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import Final

import grpc
import pytest
import structlog
from cryptography.hazmat.primitives.serialization import Encoding

from spiffe_core.runtime.admission import Refusal
from spiffe_core.runtime.frontdoor import Limits
from spiffe_core.runtime.relay import HIGH_WATER
from spiffe_core.runtime.sockets import listen_unix
from spiffe_core.runtime.tls import client_context
from tests.support import pki
from tests.support.garbage import client_hello
from tests.support.houses import (
    CHUNK,
    PREFACE_AND_SETTINGS,
    House,
    ask,
    calling,
    frames_begin,
    hang_up,
    is_let_in,
    knock,
    nothing_left,
    rest,
    until,
)
from tests.support.loops import on_both_loops

HASTY: Final = Limits(admission=0.3, linger=0.3)
"""For clients that are too slow on purpose."""


async def dial(house: House) -> socket.socket:
    """A TCP connection that says nothing by itself."""
    connection = socket.socket()
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, house.address)
    return connection


async def is_hung_up_on(connection: socket.socket) -> bool:
    """Whether the server ends the connection; a test that would wait for ever fails instead."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(15):
        with contextlib.suppress(ConnectionResetError):
            while await loop.sock_recv(connection, 65536):
                pass
    return True


def reset(connection: socket.socket) -> None:
    """End a connection with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


async def to_its_end(call: grpc.aio.UnaryStreamCall) -> int:
    """Read what is still to come, and count it."""
    received = 0
    while await call.read() is not grpc.aio.EOF:
        received += 1
    return received


@on_both_loops
async def test_a_client_that_says_nothing_is_hung_up_on():
    async with House(limits=HASTY).open() as house, nothing_left(house):
        with contextlib.closing(await dial(house)) as connection:
            assert await is_hung_up_on(connection)
            assert dict(house.door.stats.refused) == {Refusal.TIMEOUT: 1}


@on_both_loops
async def test_a_client_that_drips_its_handshake_is_hung_up_on():
    async with House(limits=HASTY).open() as house, nothing_left(house):
        with contextlib.closing(await dial(house)) as connection:

            async def drip() -> None:
                with contextlib.suppress(OSError):
                    for octet in client_hello():
                        await asyncio.get_running_loop().sock_sendall(connection, bytes([octet]))
                        await asyncio.sleep(0.05)

            dripping = asyncio.create_task(drip())
            assert await is_hung_up_on(connection)
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)
            assert dict(house.door.stats.refused) == {Refusal.TIMEOUT: 1}


@on_both_loops
async def test_a_client_that_drips_its_preface_is_hung_up_on():
    async with House(limits=HASTY).open() as house, nothing_left(house):
        reader, writer = await knock(house)

        async def drip() -> None:
            for octet in PREFACE_AND_SETTINGS:
                writer.write(bytes([octet]))
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert await rest(reader) == b""
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        await hang_up(writer)
        assert dict(house.door.stats.refused) == {Refusal.TIMEOUT: 1}


@on_both_loops
async def test_a_preface_in_single_bytes_is_a_preface_all_the_same():
    async with House().open() as house, nothing_left(house):
        reader, writer = await knock(house)
        for octet in PREFACE_AND_SETTINGS:
            writer.write(bytes([octet]))
            await writer.drain()
            await asyncio.sleep(0.001)
        assert (await reader.readexactly(9))[3] == 4
        await hang_up(writer)


@on_both_loops
async def test_a_client_of_http_1_is_refused_before_grpc_sees_a_byte():
    async with House().open() as house, nothing_left(house):
        reader, writer = await knock(house)
        writer.write(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")
        assert await rest(reader) == b""
        await hang_up(writer)
        assert dict(house.door.stats.refused) == {Refusal.PREFACE: 1}
        assert house.door.stats.bytes_out == 0


@on_both_loops
async def test_a_client_that_does_not_negotiate_http_2_is_refused():
    async with House().open() as house, nothing_left(house):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        reader, writer = await knock(house, context=context)
        assert await rest(reader) == b""
        await hang_up(writer)
        assert dict(house.door.stats.refused) == {Refusal.ALPN: 1}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=["1.0", "1.1"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@on_both_loops
async def test_an_old_version_of_tls_is_refused(version):
    async with House().open() as house, nothing_left(house):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        with pytest.raises((ssl.SSLError, ConnectionResetError)):  # which one depends on what arrives first
            await knock(house, context=context)
        await until(lambda: dict(house.door.stats.refused) == {Refusal.TLS: 1})


def connect(house: House, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
    """Speak HTTP/2 on a connection that asks to resume a session; the session that it leaves."""
    with (
        socket.create_connection(house.address, timeout=10) as connection,
        context.wrap_socket(connection, server_hostname="server", session=session) as tls,
    ):
        tls.sendall(PREFACE_AND_SETTINGS)
        first = tls.recv(9)  # a ticket of TLS 1.3 would have come by now
        if not first:
            raise ConnectionResetError
        assert first[3] == 4
        return tls.session


@on_both_loops
async def test_tls_1_3_gives_nothing_by_which_a_session_could_be_resumed():
    async with House().open() as house, nothing_left(house):
        context = client_context(house.realm.issue())
        context.options &= ~ssl.OP_NO_TICKET
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        session = await asyncio.to_thread(connect, house, context, None)
        assert session is None or not session.has_ticket
        again = await asyncio.to_thread(connect, house, context, session)
        assert again is None or not again.has_ticket


@on_both_loops
async def test_a_client_of_tls_1_2_that_resumes_a_session_is_refused_until_it_shows_its_certificate():
    async with House().open() as house, nothing_left(house):
        context = client_context(house.realm.issue())
        context.options &= ~ssl.OP_NO_TICKET
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        session = await asyncio.to_thread(connect, house, context, None)
        assert session is not None
        assert not session.has_ticket
        with pytest.raises(ConnectionResetError):
            await asyncio.to_thread(connect, house, context, session)
        assert dict(house.door.stats.refused) == {Refusal.RESUMED: 1}
        await asyncio.to_thread(connect, house, context, session)  # which the server has forgotten
        assert house.door.stats.refused.total() == 1


@on_both_loops
async def test_closing_or_resetting_at_any_moment_leaves_nothing():
    hello = client_hello()
    async with House().open() as house, nothing_left(house):
        loop = asyncio.get_running_loop()
        for end in (socket.socket.close, reset):
            for said in (b"", hello[:1], hello[:40], hello):
                connection = await dial(house)
                await loop.sock_sendall(connection, said)
                end(connection)
        for said in (b"", PREFACE_AND_SETTINGS[:10], PREFACE_AND_SETTINGS[:24], PREFACE_AND_SETTINGS):
            for close in ("close", "abort"):
                _, writer = await knock(house, house.realm.issue())
                writer.write(said)
                getattr(writer.transport, close)()
                await hang_up(writer)
        await until(lambda: house.door.stats.accepted == 16)


@on_both_loops
async def test_a_client_that_dies_in_the_middle_of_a_download_leaves_nothing():
    async with House().open() as house, nothing_left(house):
        for end in ("close", "abort"):
            async with calling(house) as (channel, connection):
                call = channel.unary_stream("/echo.Echo/Download")(b"1000")
                assert len(await call.read()) == CHUNK
                getattr(connection(), end)()
                with pytest.raises(grpc.aio.AioRpcError):
                    await to_its_end(call)


@on_both_loops
async def test_a_grpc_server_that_goes_away_ends_its_connections():
    async with House().open() as house:
        reader, writer = await knock(house)
        assert await frames_begin(reader, writer)
        [relay] = house.door._relays
        relay.back.abort()
        await rest(reader)
        await hang_up(writer)
        await until(lambda: house.door.stats.open == 0)


@on_both_loops
async def test_a_grpc_server_that_is_not_there_is_an_error_that_names_it():
    async with House().open() as house, nothing_left(house):
        house.door._backend = "/nowhere/grpc"
        with structlog.testing.capture_logs() as logs:
            assert not await is_let_in(house, None)
        [line] = [line for line in logs if line["event"] == "Connection refused"]
        assert line["log_level"] == "error"
        assert line["error"].startswith("the gRPC server's socket does not take connections: ")


@on_both_loops
async def test_a_frame_larger_than_allowed_ends_the_connection():
    async with House().open() as house, nothing_left(house):
        reader, writer = await knock(house)
        assert await frames_begin(reader, writer)
        with contextlib.suppress(OSError):
            for _ in range(64):
                writer.write(b"\xff\xff\xff\0\0\0\0\0\1" + bytes(CHUNK))
                await writer.drain()
        await rest(reader)
        await hang_up(writer)


@on_both_loops
async def test_a_message_larger_than_all_buffers_passes_unchanged():
    message = b"".join(number.to_bytes(4) for number in range(2_000_000)).hex().encode()
    async with House().open() as house, nothing_left(house), calling(house) as (channel, _):
        assert await ask(channel, "Unary", message, seconds=30) == message.decode()


@on_both_loops
async def test_a_client_that_stops_reading_stops_the_server_and_gets_all_of_it_when_it_goes_on():
    async with House().open() as house, nothing_left(house), calling(house) as (channel, connection):
        call = channel.unary_stream("/echo.Echo/Download")(b"400")
        assert len(await call.read()) == CHUNK
        connection().pause_reading()
        sent = -1
        while sent != house.sent:
            sent = house.sent
            await asyncio.sleep(0.4)
        assert house.sent < 300, "the server went on although nobody reads"
        [relay] = house.door._relays
        for end in (relay.front, relay.back):
            assert end.transport.get_write_buffer_size() < 4 * HIGH_WATER
        connection().resume_reading()
        assert await to_its_end(call) == 399


MUCH: Final = 32 * 1024 * 1024


async def flood(writer: asyncio.StreamWriter) -> int:
    """Send until nothing goes for a while, and no more than much; how many bytes that were."""
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < MUCH:
            writer.write(bytes(CHUNK))
            sent += CHUNK
            async with asyncio.timeout(1):
                await writer.drain()
    return sent


@on_both_loops
async def test_a_grpc_server_that_stops_reading_stops_even_a_client_that_heeds_no_window(tmp_path):
    async with House().open() as house, nothing_left(house):
        deaf = listen_unix(tmp_path / "deaf.sock", mode=0o600)  # connections stay in its queue
        house.door._backend = str(tmp_path / "deaf.sock")
        _, writer = await knock(house)
        writer.write(PREFACE_AND_SETTINGS)
        assert await flood(writer) < MUCH, "the front door swallowed it all"
        [relay] = house.door._relays
        assert relay.back.transport.get_write_buffer_size() < 4 * HIGH_WATER
        writer.transport.abort()
        deaf.close()


@on_both_loops
async def test_a_client_that_stops_reading_stops_even_a_server_that_heeds_no_window(tmp_path):
    async with House().open() as house, nothing_left(house):
        flooded: list[int] = []

        async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            flooded.append(await flood(writer))
            writer.transport.abort()

        house.door._backend = str(tmp_path / "loud.sock")
        server = await asyncio.start_unix_server(serve, tmp_path / "loud.sock")
        reader, writer = await knock(house)
        writer.write(PREFACE_AND_SETTINGS)
        await reader.readexactly(9)
        writer.transport.pause_reading()
        await until(lambda: bool(house.door._relays))
        [relay] = house.door._relays
        await until(lambda: bool(flooded))
        assert flooded[0] < MUCH, "the front door swallowed it all"
        assert relay.front.transport.get_write_buffer_size() < 4 * HIGH_WATER
        writer.transport.abort()
        server.close()


@on_both_loops
async def test_a_caller_has_its_share_of_connections_and_gets_it_back():
    async with House(limits=Limits(connections_per_caller=2)).open() as house, nothing_left(house):
        first, second = await knock(house), await knock(house)
        assert not await is_let_in(house, None)
        assert dict(house.door.stats.refused) == {Refusal.CALLER_FULL: 1}
        await hang_up(first[1])
        await until(lambda: house.door.stats.open == 1)
        assert await is_let_in(house, None)
        await hang_up(second[1])


@on_both_loops
async def test_the_share_of_one_address_leaves_the_others_theirs():
    async with House(limits=Limits(connections_per_caller=1)).open() as house, nothing_left(house):
        _, writer = await knock(house)
        _, other = await asyncio.open_connection(
            *house.address, ssl=client_context(None), server_hostname="server", local_addr=("127.0.0.2", 0)
        )
        assert house.door.stats.open == 2
        for one in (writer, other):
            await hang_up(one)


@on_both_loops
async def test_all_callers_together_have_a_limit_too():
    async with House(limits=Limits(connections=1)).open() as house, nothing_left(house):
        _, writer = await knock(house)
        assert not await is_let_in(house, None)
        assert dict(house.door.stats.refused) == {Refusal.FULL: 1}
        await hang_up(writer)
        await until(lambda: house.door.stats.open == 0)
        assert await is_let_in(house, None)


@on_both_loops
async def test_connections_in_their_handshake_count_too():
    async with House(limits=Limits(connections=1)).open() as house, nothing_left(house):
        with contextlib.closing(await dial(house)):
            await until(lambda: house.door.stats.open == 1)
            assert not await is_let_in(house, None)
            assert dict(house.door.stats.refused) == {Refusal.FULL: 1}


@on_both_loops
async def test_a_rotated_identity_counts_from_the_next_connection_on():
    async with House().open() as house, nothing_left(house):
        old = await knock(house)
        assert await frames_begin(*old)
        house.identity = house.realm.server()
        new = await knock(house)
        served = [writer.get_extra_info("ssl_object").getpeercert(binary_form=True) for _, writer in (old, new)]
        assert served[0] != served[1]
        assert served[1] == house.identity.chain[0].public_bytes(Encoding.DER)
        old[1].write(b"\0\0\x08\6\0\0\0\0\0" + b"12345678")  # PING: the old connection goes on
        async with asyncio.timeout(15):
            await old[0].readuntil(b"\6\1\0\0\0\0" + b"12345678")
        for _, writer in (old, new):
            await hang_up(writer)


@on_both_loops
async def test_a_rotated_bundle_counts_from_the_next_connection_on():
    async with House().open() as house, nothing_left(house):
        successor = pki.Realm()
        assert not await is_let_in(house, successor.issue())
        server, before = house.identity, house.realm
        house.realm = successor
        assert house.identity is server
        assert await is_let_in(house, successor.issue())
        assert not await is_let_in(house, before.issue())


@on_both_loops
async def test_a_server_without_an_identity_says_so_and_recovers():
    async with House().open() as house, nothing_left(house):
        identity, house.identity = house.identity, None
        with structlog.testing.capture_logs() as logs:
            assert not await is_let_in(house, None)
        assert [line["error"] for line in logs] == ["the server has no X509-SVID yet"]
        assert dict(house.door.stats.refused) == {Refusal.NO_IDENTITY: 1}
        house.identity = identity
        assert await is_let_in(house, None)


@on_both_loops
async def test_a_connection_that_goes_around_the_front_door_is_nobodys():
    async with House().open() as house, grpc.aio.insecure_channel(f"unix:{house.backend}") as channel:
        assert await ask(channel) == "nobody"


@on_both_loops
async def test_a_connection_around_the_front_door_cannot_take_a_peers_name_while_it_is_in_use():
    async with House().open() as house, nothing_left(house):
        reader, writer = await knock(house)
        assert await frames_begin(reader, writer)
        [name] = house.door._peers._by_name
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as thief, pytest.raises(OSError, match="in use"):
            thief.bind(f"\0{name}")
        await hang_up(writer)
        await until(lambda: not len(house.door._peers))
        assert house.door.peer(f"unix-abstract:{name}") is None


@on_both_loops
async def test_each_of_many_callers_is_told_from_the_others():
    async with House().open() as house, nothing_left(house):
        ids = [f"/workload/{number}" for number in range(20)]
        async with contextlib.AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(calling(house, house.realm.issue(path))) for path in ids]
            answers = await asyncio.gather(*(ask(channel) for channel, _ in callers for _ in range(3)))
        assert answers == [f"spiffe://example.org{path}" for path in ids for _ in range(3)]


@on_both_loops
async def test_closing_cuts_who_is_in_a_handshake_who_is_silent_and_who_calls():
    async with House().open() as house:
        before = len(asyncio.all_tasks())
        with contextlib.closing(await dial(house)) as handshaking:
            _, silent = await knock(house)
            reader, calling = await knock(house)
            assert await frames_begin(reader, calling)
            await until(lambda: house.door.stats.open == 3)
            async with asyncio.timeout(10):
                await house.door.close()
            assert house.door.stats.open == 0
            assert await is_hung_up_on(handshaking)
            for writer in (silent, calling):
                await hang_up(writer)
        await until(lambda: len(asyncio.all_tasks()) <= before)


@on_both_loops
async def test_closing_with_grace_waits_for_who_leaves_by_himself():
    async with House().open() as house:
        _, writer = await knock(house)
        await until(lambda: house.door.stats.open == 1)
        closing = asyncio.create_task(house.door.close(grace=60))
        await asyncio.sleep(0)
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await knock(house)
        assert not closing.done()
        await hang_up(writer)
        async with asyncio.timeout(15):
            await closing


@on_both_loops
async def test_bytes_are_counted_while_a_connection_is_open_and_after():
    async with House().open() as house, nothing_left(house):
        async with calling(house) as (channel, _):
            await ask(channel, "Unary", bytes(100_000))
            seen = house.door.stats
        assert seen.bytes_in > 100_000
        assert seen.bytes_out > 100_000
        await until(lambda: house.door.stats.open == 0)
        assert house.door.stats.bytes_in >= seen.bytes_in
        assert house.door.stats.bytes_out >= seen.bytes_out
