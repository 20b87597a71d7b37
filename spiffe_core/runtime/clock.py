"""Time, which comes in by argument: decisions take ``now``, loops take a ``Clock``."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits."""

    def now(self) -> datetime:
        """The current time, UTC, aware."""

    def monotonic(self) -> float:
        """Seconds that never run backwards, for measuring how long something took."""

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The current time, UTC, aware."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        await asyncio.sleep(seconds)


async def sleep_until(event: asyncio.Event, seconds: float, clock: Clock) -> None:
    """Return after so many seconds, or as soon as the event is set."""
    sleeping, waiting = asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((sleeping, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeping.cancel()
        waiting.cancel()


def unix(moment: datetime) -> int:
    """Whole Unix seconds of an aware time, as every wire message and table holds them."""
    return int(moment.timestamp())


def from_unix(seconds: int) -> datetime:
    """The aware time of Unix seconds."""
    return datetime.fromtimestamp(seconds, UTC)
