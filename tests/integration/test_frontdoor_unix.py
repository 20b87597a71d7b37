"""The front door of a Unix socket: which process calls is what the kernel says, for as long as it is true."""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator

import grpc
import pytest

from spiffe_core.errors import Unauthenticated
from spiffe_core.runtime.admission import Refusal
from spiffe_core.runtime.frontdoor import Limits
from spiffe_core.runtime.peers import PeerKind, PeerProcess
from tests.support.houses import PREFACE_AND_SETTINGS, House, ask, nothing_left, rest, until
from tests.support.loops import on_both_loops

CONNECT_AND_WAIT = """
import os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(bytes.fromhex(sys.argv[2]))
connection.recv(1)
if "heir" in sys.argv and os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
signal.pause()
"""
"""A client in a process of its own.  With an heir, the process that connects ends; its child keeps the connection."""


@contextlib.asynccontextmanager
async def process(house: House, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    arguments = (sys.executable, "-c", CONNECT_AND_WAIT, house.socket_path, PREFACE_AND_SETTINGS.hex(), *words)
    running = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    assert running.stdout is not None
    async with asyncio.timeout(15):
        holder = int(await running.stdout.readline())
    try:
        yield running
    finally:
        os.kill(holder, signal.SIGKILL)
        await running.wait()


@on_both_loops
async def test_a_local_caller_is_its_process_and_user():
    async with (
        House().open(local=True) as house,
        nothing_left(house),
        grpc.aio.insecure_channel(f"unix:{house.socket_path}") as channel,
    ):
        assert await ask(channel) == f"process {os.getpid()} of {os.getuid()}"


@on_both_loops
async def test_a_local_peer_has_no_host_and_no_chain():
    async with House().open(local=True) as house, nothing_left(house):
        reader, writer = await asyncio.open_unix_connection(house.socket_path)
        writer.write(PREFACE_AND_SETTINGS)
        await reader.readexactly(9)
        [peer] = house.door._peers._by_name.values()
        assert (peer.kind, peer.address, peer.host, peer.chain) == (PeerKind.UNIX, "@", "", ())
        assert peer.process is not None
        assert peer.process.gid == os.getgid()
        writer.close()
        await writer.wait_closed()


@on_both_loops
async def test_another_process_is_told_from_this_one():
    async with House().open(local=True) as house, nothing_left(house), process(house) as client:
        [peer] = house.door._peers._by_name.values()
        assert peer.process is not None
        assert peer.process.pid == client.pid
        peer.process.check_alive()


@on_both_loops
async def test_a_process_that_has_ended_is_nobody_though_its_connection_lives_on():
    async with (
        House().open(local=True) as house,
        nothing_left(house),
        process(house, "heir") as client,
    ):
        [peer] = house.door._peers._by_name.values()
        assert peer.process is not None
        assert peer.process.pid == client.pid
        with pytest.raises(Unauthenticated, match=f"process {client.pid} has ended"):
            await until(peer.process.check_alive)


@on_both_loops
async def test_a_user_has_a_share_of_the_connections():
    async with House(limits=Limits(connections_per_caller=1)).open(local=True) as house, nothing_left(house):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as first:
            first.connect(house.socket_path)
            await until(lambda: house.door.stats.open == 1)
            reader, writer = await asyncio.open_unix_connection(house.socket_path)
            assert await rest(reader) == b""
            writer.close()
            await writer.wait_closed()
            assert dict(house.door.stats.refused) == {Refusal.CALLER_FULL: 1}


@on_both_loops
async def test_connections_that_close_at_any_moment_leave_nothing():
    async with House().open(local=True) as house, nothing_left(house):
        for said in (b"", b"P", PREFACE_AND_SETTINGS[:24], PREFACE_AND_SETTINGS, b"\x16\x03\x01 no TLS here"):
            for linger in (b"", struct.pack("ii", 1, 0)):
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(house.socket_path)
                if linger:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.sendall(said)
                connection.close()
        await until(lambda: house.door.stats.accepted == 10)


@on_both_loops
async def test_a_silent_local_client_is_hung_up_on():
    async with House(limits=Limits(admission=0.2)).open(local=True) as house, nothing_left(house):
        reader, writer = await asyncio.open_unix_connection(house.socket_path)
        assert await rest(reader) == b""
        writer.close()
        await writer.wait_closed()
        assert dict(house.door.stats.refused) == {Refusal.TIMEOUT: 1}


@on_both_loops
async def test_what_is_written_before_closing_still_arrives():
    """A client that half-closes after its last request has ended the connection; none of its bytes are lost before."""
    async with House().open(local=True) as house, nothing_left(house):
        reader, writer = await asyncio.open_unix_connection(house.socket_path)
        writer.write(PREFACE_AND_SETTINGS)
        await reader.readexactly(9)
        [relay] = house.door._relays
        writer.write(b"\0\0\x08\6\0\0\0\0\0" + bytes(8))
        writer.close()
        await writer.wait_closed()
        await until(lambda: house.door.stats.open == 0)
        assert relay.front.received == len(PREFACE_AND_SETTINGS) + 17


def test_the_process_at_the_other_end_of_a_pair_is_this_one():
    left, right = socket.socketpair()
    with left, right:
        process_there = PeerProcess.of(left)
        assert (process_there.pid, process_there.uid, process_there.gid) == (os.getpid(), os.getuid(), os.getgid())
        process_there.check_alive()
        process_there.close()
        with pytest.raises(Unauthenticated, match="cannot be watched"):
            process_there.check_alive()
