"""The gRPC server behind the front door outlives calls of methods that are none, whatever their paths are."""

import asyncio
from typing import Final

import grpc
import pytest

from tests.support import garbage
from tests.support.houses import House, ask, calling, hang_up, knock, nothing_left
from tests.support.loops import on_both_loops

PATHS: Final = {
    "no text": b"/echo.Echo/\xb7",
    "no text at all": b"\xff",
    "half a character": b"/echo.Echo/Unary\xc3",
    "a surrogate": b"/echo.Echo/\xed\xa0\x80",
    "empty": b"",
    "of no service": b"/no.Service/Method",
    "of no method": b"/echo.Echo/Other",
    "of many bytes": bytes(120),
}


@pytest.mark.parametrize("name", PATHS)
@on_both_loops
async def test_a_path_that_is_no_method_does_not_end_the_server(name):
    async with House().open() as house, nothing_left(house):
        reader, writer = await knock(house)
        writer.write(garbage.call(PATHS[name]))
        async with asyncio.timeout(10):
            await reader.readexactly(9)
        async with calling(house) as (channel, _):
            assert await ask(channel, "Unary", b"still here") == "still here"
        await hang_up(writer)


@on_both_loops
async def test_a_method_that_is_not_there_is_unimplemented():
    async with House().open() as house, nothing_left(house), calling(house) as (channel, _):
        for call in (channel.unary_unary, channel.stream_unary):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call("/echo.Echo/Other")(b"" if call == channel.unary_unary else iter([b""]))
            assert (refused.value.code(), refused.value.details()) == (
                grpc.StatusCode.UNIMPLEMENTED,
                "Method not found!",
            )


@on_both_loops
async def test_clients_that_do_not_await_that_their_method_is_not_there_leave_nothing():
    async with House().open() as house, nothing_left(house):
        for _ in range(20):
            _, writer = await knock(house)
            writer.write(garbage.call(b"/echo.Echo/Other"))
            writer.transport.abort()
            await hang_up(writer)
