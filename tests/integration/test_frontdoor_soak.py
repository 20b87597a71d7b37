"""Two thousand connections at once, used, dropped in every way, and nothing left of them."""

import asyncio
import resource
from typing import Final

import pytest

from spiffe_core.runtime.frontdoor import Limits
from spiffe_core.runtime.sockets import raise_descriptor_limit
from spiffe_core.runtime.tls import client_context
from tests.support.houses import (
    PREFACE_AND_SETTINGS,
    House,
    ask,
    calling,
    frames_begin,
    hang_up,
    knock,
    nothing_left,
)
from tests.support.loops import LOOPS, on_both_loops

CROWD: Final = 2000
CONNECTIONS_OF_ONE: Final = 5
"""Descriptors of one connection, the client's end included."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def many_descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if raise_descriptor_limit() < CROWD * CONNECTIONS_OF_ONE + 500:
        pytest.skip("this machine allows too few descriptors")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def crowded() -> House:
    return House(limits=Limits(connections=CROWD + 10, connections_per_caller=CROWD + 10))


async def drop(streams: list[Stream]) -> None:
    """Close half of them, abort the others."""
    for number, (_, writer) in enumerate(streams):
        if number % 2:
            writer.transport.abort()
        else:
            writer.close()
    await asyncio.gather(*(hang_up(writer) for _, writer in streams))


@pytest.mark.slow
def test_two_thousand_tls_clients_are_served_and_leave_nothing(many_descriptors):
    with asyncio.Runner(loop_factory=LOOPS["uvloop"]) as runner:  # the server's loop; twice would take too long
        runner.run(two_thousand_tls_clients())


async def two_thousand_tls_clients() -> None:
    async with crowded().open() as house, nothing_left(house):
        context = client_context(house.realm.issue())
        turns = asyncio.Semaphore(50)

        async def come() -> Stream:
            async with turns:
                stream = await knock(house, context=context)
                assert await frames_begin(*stream)
                return stream

        streams = await asyncio.gather(*(come() for _ in range(CROWD)))
        assert house.door.stats.open == CROWD
        async with calling(house, house.realm.issue("/one-more")) as (channel, _):
            assert await ask(channel) == "spiffe://example.org/one-more"
        await drop(streams)


@on_both_loops
async def test_two_thousand_local_clients_are_served_and_leave_nothing(many_descriptors):
    async with crowded().open(local=True) as house, nothing_left(house):
        streams = await asyncio.gather(*(asyncio.open_unix_connection(house.socket_path) for _ in range(CROWD)))
        assert all(await asyncio.gather(*(frames_begin(*stream) for stream in streams)))
        assert house.door.stats.open == CROWD
        await drop(streams)


@on_both_loops
async def test_clients_that_come_and_go_leave_nothing(many_descriptors):
    """Two hundred at a time stop at every stage, again and again, while somebody works."""
    async with crowded().open() as house, nothing_left(house), calling(house) as (channel, _):
        context = client_context(house.realm.issue())

        async def come_and_go(number: int) -> None:
            if number % 4 == 0:
                _, writer = await asyncio.open_connection(*house.address)
            else:
                _, writer = await knock(house, context=context)
                writer.write((b"", PREFACE_AND_SETTINGS[:20], PREFACE_AND_SETTINGS)[number % 3])
            writer.transport.abort()
            await hang_up(writer)

        for _ in range(2):
            crowd = asyncio.gather(*(come_and_go(number) for number in range(200)))
            while not crowd.done():
                assert await ask(channel, "Unary", b"still here") == "still here"
            await crowd
