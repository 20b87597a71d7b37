"""Whatever a client says, the front door is there for the next one, and nothing of the first is left."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spiffe_core.runtime.frontdoor import Limits
from tests.support import garbage
from tests.support.houses import House, ask, calling, hang_up, knock, nothing_left
from tests.support.loops import LOOPS

HASTY = Limits(admission=0.05, linger=0.05)
PATHS = ("/echo.Echo/Unary", "/echo.Echo/Who", "/echo.Echo/BothWays", "/echo.Echo/Download", "/", "")

bounded = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False, database=None
)


def fuzz(
    kind: str, said: st.SearchStrategy[bytes], attack: Callable[[House, bytes, bool], Awaitable[None]], **how: Any
):
    """Attack a house with every example; then it must be as before, and nobody's exception may be lost."""
    lost: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: lost.append(context))

        async def start() -> tuple[contextlib.AsyncExitStack, House]:
            stack = contextlib.AsyncExitStack()
            house = await stack.enter_async_context(House(limits=HASTY).open(**how))
            await stack.enter_async_context(nothing_left(house))
            return stack, house

        stack, house = runner.run(start())

        @bounded
        @given(said=said, rudely=st.booleans())
        def attack_with(said: bytes, rudely: bool) -> None:
            runner.run(attack(house, said, rudely))

        attack_with()
        house.door._limits = Limits()
        if not how:
            runner.run(greet(house))
        runner.run(stack.aclose())
        gc.collect()
    assert not lost


async def greet(house: House) -> None:
    async with calling(house, house.realm.issue("/friend")) as (channel, _):
        assert await ask(channel) == "spiffe://example.org/friend"


async def read_to_the_end(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(0.1):
            while await reader.read(65536):
                pass


async def attack_raw(house: House, said: bytes, rudely: bool) -> None:
    reader, writer = await asyncio.open_connection(*house.address)
    writer.write(said)
    if rudely:
        writer.transport.abort()
    else:
        await read_to_the_end(reader)
    await hang_up(writer)


async def attack_within_tls(house: House, said: bytes, rudely: bool) -> None:
    reader, writer = await knock(house)
    writer.write(said)
    if rudely:
        writer.transport.abort()
    else:
        await read_to_the_end(reader)
    await hang_up(writer)


async def attack_locally(house: House, said: bytes, rudely: bool) -> None:
    reader, writer = await asyncio.open_unix_connection(house.socket_path)
    writer.write(said)
    if rudely:
        writer.transport.abort()
    else:
        await read_to_the_end(reader)
    await hang_up(writer)


@pytest.mark.parametrize("kind", LOOPS)
def test_noise_in_place_of_a_tls_handshake_does_no_harm(kind):
    fuzz(kind, garbage.raw(), attack_raw)


@pytest.mark.parametrize("kind", LOOPS)
def test_noise_within_tls_does_no_harm(kind):
    fuzz(kind, garbage.spoken(*PATHS), attack_within_tls)


@pytest.mark.parametrize("kind", LOOPS)
def test_noise_on_a_unix_socket_does_no_harm(kind):
    fuzz(kind, garbage.spoken(*PATHS), attack_locally, local=True)


@pytest.mark.parametrize("kind", LOOPS)
def test_a_tls_handshake_that_stops_at_any_byte_does_no_harm(kind):
    hello = garbage.client_hello()
    positions = st.integers(0, len(hello)).map(lambda position: hello[:position])
    fuzz(kind, positions, attack_raw)


@pytest.mark.parametrize("kind", LOOPS)
def test_a_handshake_whose_second_flight_is_spoiled_does_no_harm(kind):
    """The server has sent its certificate by then, and waits for the client's."""

    async def attack(house: House, said: bytes, rudely: bool) -> None:
        connection = socket.create_connection(house.address)
        connection.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=connection)
        writer.write(garbage.client_hello())
        assert await reader.read(5) != b""
        writer.write(said)
        if rudely:
            writer.transport.abort()
        else:
            await read_to_the_end(reader)
        await hang_up(writer)

    fuzz(kind, garbage.raw(), attack)
