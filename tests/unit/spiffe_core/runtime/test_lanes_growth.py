"""How many lanes there are, and when they hand over what is done."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from spiffe_core.runtime.lanes import SLOW, Lanes


class Time:
    """What passes on the wall, and what of it this process computed."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def device(self, seconds: float) -> None:
        """The device works, and nobody here."""
        self.wall += seconds

    def compute(self, seconds: float) -> None:
        """The process works."""
        self.wall += seconds
        self.processor += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def lanes(time: Time) -> AsyncIterator[Lanes]:
    lanes = Lanes("the device", most=4, monotonic=lambda: time.wall, computed=lambda: time.processor)
    yield lanes
    lanes.close()


async def _at_once(lanes: Lanes, work: Callable[[], object], count: int = 8) -> list[object]:
    """Calls of which all but the first have to wait."""
    begin = threading.Event()
    first = asyncio.ensure_future(lanes.run(begin.wait))
    others = [asyncio.ensure_future(lanes.run(work)) for _ in range(count)]
    await asyncio.sleep(0)  # each is in the queue
    begin.set()
    await first
    return await asyncio.gather(*others, return_exceptions=True)


async def test_calls_that_wait_for_a_slow_device_get_more_lanes(lanes, time):
    for _ in range(2):
        await _at_once(lanes, lambda: time.device(100 * SLOW))
    assert lanes.health().lanes > 1


async def test_calls_that_wait_while_this_process_computes_get_no_more_lanes(lanes, time):
    for _ in range(2):
        await _at_once(lanes, lambda: time.compute(100 * SLOW))
    assert lanes.health().lanes == 1
    assert lanes.health().seconds_per_unit > SLOW


async def test_calls_whose_results_are_handed_over_together_have_each_its_own(lanes):
    numbers = iter(range(8))

    def work() -> int:
        number = next(numbers)
        if number == 5:
            raise ValueError(number)
        return number

    results = await _at_once(lanes, work)
    assert results[:5] + results[6:] == [0, 1, 2, 3, 4, 6, 7]
    assert isinstance(results[5], ValueError)


async def test_a_result_is_not_held_back_for_a_call_that_takes_long(lanes, time):
    await lanes.run(lambda: time.compute(100 * SLOW))  # which is what calls are expected to take from now on
    begin, end = threading.Event(), threading.Event()
    first = asyncio.ensure_future(lanes.run(begin.wait))
    quick = asyncio.ensure_future(lanes.run(lambda: "done"))
    long = asyncio.ensure_future(lanes.run(end.wait))
    await asyncio.sleep(0)
    begin.set()
    async with asyncio.timeout(20):
        assert await first
        assert await quick == "done"
    assert not long.done()
    end.set()
    assert await long


async def test_a_caller_that_went_away_keeps_no_other_from_its_result(lanes):
    begin = threading.Event()
    first = asyncio.ensure_future(lanes.run(begin.wait))
    gone, other = (asyncio.ensure_future(lanes.run(lambda: "done")) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    begin.set()
    assert await first
    assert await other == "done"
