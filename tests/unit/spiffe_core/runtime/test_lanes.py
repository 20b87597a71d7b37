"""What lanes promise of a device that hangs, fails or has too much to do, and what they give back."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from spiffe_core.errors import DatastoreUnavailable, KeyManagerUnavailable, KeyNotFound, ResourceExhausted
from spiffe_core.runtime.lanes import Lanes
from tests.support.houses import until


@contextmanager
def device() -> Iterator[threading.Event]:
    """A device that hangs until the event is set, at the latest with the end of the test."""
    answers = threading.Event()
    try:
        yield answers
    finally:
        answers.set()


def threads(name: str) -> int:
    return sum(thread.name == f"{name}-lane" for thread in threading.enumerate())


async def hang(lanes: Lanes, answers: threading.Event) -> asyncio.Task[bool]:
    """Begin a call that waits for the event, and wait until a lane has it."""
    begun = threading.Event()

    def work() -> bool:
        begun.set()
        return answers.wait(60)

    task = asyncio.create_task(lanes.run(work))
    await until(begun.is_set)
    return task


async def test_a_call_returns_what_its_work_returns():
    lanes = Lanes("device")
    assert await asyncio.gather(*(lanes.run(lambda number=number: number * 2) for number in range(50))) == [
        number * 2 for number in range(50)
    ]
    lanes.close()


async def test_a_call_raises_what_its_work_raises():
    lanes = Lanes("device")

    def work() -> None:
        raise KeyNotFound("there is no such key")

    with pytest.raises(KeyNotFound, match="no such key"):
        await lanes.run(work)
    assert await lanes.run(lambda: "still here") == "still here"
    lanes.close()


async def test_work_runs_in_a_lane_and_not_on_the_loop():
    lanes = Lanes("apart")
    assert await lanes.run(lambda: threading.current_thread().name) == "apart-lane"
    lanes.close()


async def test_a_queue_that_is_full_refuses_at_once():
    lanes = Lanes("the token", most=1, queue=2)
    with device() as answers:
        tasks = [await hang(lanes, answers)]
        tasks += [asyncio.create_task(lanes.run(lambda: True)) for _ in range(2)]
        await until(lambda: lanes.health().queued == 2)
        with pytest.raises(ResourceExhausted, match="the token has 2 calls waiting: try again later"):
            await lanes.run(lambda: True)
        answers.set()
        assert await asyncio.gather(*tasks) == [True, True, True]
    lanes.close()


async def test_a_call_that_hangs_is_given_up_at_its_deadline_and_its_lane_is_lost_until_it_returns():
    lanes = Lanes("the token", most=1, deadline=0.1)
    with device() as answers:
        hanging = await hang(lanes, answers)
        with pytest.raises(KeyManagerUnavailable, match=r"the token did not answer within 0\.1 s"):
            await hanging
        health = lanes.health()
        assert (health.lanes, health.lost, health.open) == (1, 1, True)
        answers.set()
        await until(lambda: lanes.health().lost == 0)
        assert not lanes.health().open
        assert await lanes.run(lambda: "well again") == "well again"
    lanes.close()


async def test_the_breaker_opens_when_every_lane_is_lost_and_refuses_without_waiting():
    lanes = Lanes("the token", most=2, deadline=0.1)
    with device() as answers:
        for _ in range(2):
            with pytest.raises(KeyManagerUnavailable, match="did not answer"):
                await (await hang(lanes, answers))
        assert lanes.health().lost == 2
        ran = threading.Event()
        with pytest.raises(KeyManagerUnavailable, match="the token does not answer: 2 calls hang in it"):
            await lanes.run(ran.set)
        assert not ran.is_set()
        answers.set()
        await until(lambda: lanes.health().lost == 0)
        await lanes.run(ran.set)
        assert ran.is_set()
    lanes.close()


async def test_who_waits_behind_a_call_that_hangs_gets_a_lane_when_that_is_given_up():
    lanes = Lanes("the token", most=2, deadline=1.0)
    with device() as answers:
        hanging = await hang(lanes, answers)
        await asyncio.sleep(0.5)
        waiting = asyncio.create_task(lanes.run(lambda: "served"))
        with pytest.raises(KeyManagerUnavailable):
            await hanging
        assert await waiting == "served"
    lanes.close()


async def test_a_result_that_was_held_back_behind_a_call_that_hangs_is_not_lost():
    at_once = 1.0  # time stands still, so that results are always held back for those of the calls that wait
    lanes = Lanes("the token", most=1, deadline=0.5, monotonic=lambda: at_once)
    with device() as answers, device() as goes_on:
        quick = asyncio.create_task(lanes.run(lambda: goes_on.wait(60) and "signed"))
        slow = asyncio.create_task(lanes.run(lambda: answers.wait(60)))
        await until(lambda: lanes.health().queued == 1)
        goes_on.set()
        assert await quick == "signed"
        with pytest.raises(KeyManagerUnavailable):
            await slow
    lanes.close()


async def test_a_call_that_is_cancelled_while_it_waits_is_never_made():
    lanes = Lanes("the token", most=1)
    with device() as answers:
        hanging = await hang(lanes, answers)
        ran = threading.Event()
        waiting = asyncio.create_task(lanes.run(ran.set))
        await until(lambda: lanes.health().queued == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert lanes.health().queued == 0
        answers.set()
        await hanging
        assert not ran.is_set()
    lanes.close()


async def test_a_call_that_is_cancelled_while_it_runs_occupies_its_lane_until_it_returns():
    lanes = Lanes("the token", most=1)
    with device() as answers:
        hanging = await hang(lanes, answers)
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
        assert lanes.health().lost == 1
        answers.set()
        await until(lambda: lanes.health().lost == 0)
    lanes.close()


async def test_a_closed_device_takes_nothing_new_and_its_lanes_end():
    lanes = Lanes("closing")
    with device() as answers:
        hanging = await hang(lanes, answers)
        lanes.close()
        with pytest.raises(KeyManagerUnavailable, match="closing is shutting down"):
            await lanes.run(lambda: True)
        answers.set()
        assert await hanging
    await until(lambda: threads("closing") == 0)


async def test_a_database_that_hangs_is_a_database_and_no_key_manager():
    lanes = Lanes("the database", most=1, deadline=0.05, unavailable=DatastoreUnavailable)
    with device() as answers, pytest.raises(DatastoreUnavailable, match="the database did not answer"):
        await (await hang(lanes, answers))
    lanes.close()


def test_a_loop_that_ended_before_the_device_answered_is_forgotten():
    lanes = Lanes("orphan", deadline=0.05)
    with device() as answers:

        async def give_up() -> None:
            with pytest.raises(KeyManagerUnavailable):
                await (await hang(lanes, answers))

        asyncio.run(give_up())
        answers.set()
        lanes.close()
        for thread in threading.enumerate():
            if thread.name == "orphan-lane":
                thread.join(10)
    assert threads("orphan") == 0
