"""Loops that run beside the servers: when they run, how they wait after a failure, how they end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from spiffe_core.errors import Unavailable
from spiffe_core.runtime.clock import sleep_until
from spiffe_core.runtime.tasks import Backoff, every, jittered
from tests.support.clock import FakeClock
from tests.support.houses import until


class Recording(FakeClock):
    """A clock that remembers for how long it was asked to sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await super().sleep(seconds)


class Work:
    """Fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.runs = 0
        self.failures = failures

    async def __call__(self) -> None:
        self.runs += 1
        if self.runs <= self.failures:
            raise Unavailable(f"not yet, after {self.runs}")


@asynccontextmanager
async def running(
    what: Callable[[], Awaitable[None]], clock: Recording, backoff: Backoff | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(every(10.0, what, clock=clock, name="work", backoff=backoff))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def rounds(clock: Recording, count: int) -> None:
    """Let that many pauses pass."""
    await until(lambda: bool(clock.slept))
    for _ in range(count):
        seen = len(clock.slept)
        clock.advance(clock.slept[-1])
        await until(lambda seen=seen: len(clock.slept) > seen)


async def test_work_is_done_at_once_and_then_about_every_interval():
    clock, work = Recording(), Work()
    async with running(work, clock):
        await until(lambda: len(clock.slept) == 1)
        assert work.runs == 1
        clock.advance(8.9)
        await asyncio.sleep(0)
        assert work.runs == 1
        await rounds(clock, 5)
        assert work.runs == 6
    assert all(9.0 <= pause <= 11.0 for pause in clock.slept)
    assert len(set(clock.slept)) > 1, "processes that start together stay in step"


async def test_a_failure_is_told_and_does_not_end_the_loop():
    clock, work = Recording(), Work(failures=2)
    with structlog.testing.capture_logs() as logs:
        async with running(work, clock):
            await rounds(clock, 3)
    assert [(line["event"], line["task"], line["error"], line["failures"]) for line in logs] == [
        ("Task failed", "work", "not yet, after 1", 1),
        ("Task failed", "work", "not yet, after 2", 2),
    ]


async def test_pauses_grow_while_work_fails_and_are_the_interval_again_when_it_succeeds():
    clock, work = Recording(), Work(failures=3)
    async with running(work, clock, Backoff(first=1.0, longest=3.0, factor=2.0, jitter=0.0)):
        await rounds(clock, 3)
    assert clock.slept[:3] == [1.0, 2.0, 3.0]
    assert 9.0 <= clock.slept[3] <= 11.0


async def test_what_is_no_error_of_ours_ends_the_loop():
    async def work() -> None:
        raise ZeroDivisionError

    async with running(work, Recording()) as task:
        with pytest.raises(ZeroDivisionError):
            await task


async def test_cancelling_ends_the_loop_in_its_pause():
    clock = Recording()
    async with running(Work(), clock) as task:
        await until(lambda: len(clock.slept) == 1)
    assert task.cancelled()


async def test_a_sleep_ends_with_its_time_or_with_its_event():
    clock, event = FakeClock(), asyncio.Event()
    timed = asyncio.ensure_future(sleep_until(event, 5.0, clock))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    clock.advance(5.0)
    await timed
    woken = asyncio.ensure_future(sleep_until(event, 5.0, clock))
    await asyncio.sleep(0)
    assert not woken.done()
    event.set()
    await woken


@given(failures=st.integers(1, 50))
def test_a_pause_is_never_longer_than_the_longest_and_its_jitter(failures):
    backoff = Backoff(first=0.5, longest=30.0)
    assert 0.45 <= backoff.pause(failures) <= 33.0


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_days_of_failures_still_have_a_pause(factor):
    assert 216.0 <= Backoff(first=0.5, longest=240.0, factor=factor).pause(1_000_000) <= 264.0


@given(seconds=st.floats(0.001, 1e6), share=st.floats(0, 1))
def test_jitter_stays_within_its_share(seconds, share):
    assert seconds * (1 - share) * 0.999 <= jittered(seconds, share) <= seconds * (1 + share) * 1.001
