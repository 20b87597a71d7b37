"""Loops that run beside the servers: intervals with jitter, back-off after failure, and orderly ends."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import structlog

from spiffe_core.errors import SpiffeError
from spiffe_core.runtime.clock import Clock

_MOST_STEPS: Final = 100
"""Times that a pause grows: after days of failures the power would be beyond a float."""

log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Backoff:
    """Growing pauses: the first in seconds, each next times ``factor``, up to ``longest``; jittered."""

    first: float
    longest: float
    factor: float = 1.5
    jitter: float = 0.1

    def pause(self, failures: int) -> float:
        """Seconds to wait after that many failures in a row, counted from 1; there may have been any number."""
        growth = self.factor ** min(failures - 1, _MOST_STEPS)
        return jittered(min(self.first * growth, self.longest), self.jitter)


def jittered(seconds: float, share: float = 0.1) -> float:
    """About that many seconds, so that many processes started at once do not stay in step."""
    return seconds * (1 + random.uniform(-share, share))  # noqa: S311  no secret


def in_background(what: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A function for a signal's handler: each call of it begins ``what`` anew as a task of the running loop."""
    running: set[asyncio.Task[None]] = set()

    def begin() -> None:
        task = asyncio.get_running_loop().create_task(what())
        running.add(task)
        task.add_done_callback(running.discard)

    return begin


async def every(
    seconds: float, what: Callable[[], Awaitable[None]], *, clock: Clock, name: str, backoff: Backoff | None = None
) -> None:
    """Run ``what`` for ever, about every ``seconds``; an error of ours is logged and does not end the loop.

    After a failure the pause is that of ``backoff``, if one is given.  Cancel the task to end it.
    """
    failures = 0
    while True:
        try:
            await what()
            failures = 0
        except SpiffeError as exc:
            failures += 1
            log.error("Task failed", task=name, error=str(exc), failures=failures)  # noqa: TRY400  it tells its own story
        await clock.sleep(backoff.pause(failures) if backoff and failures else jittered(seconds))
