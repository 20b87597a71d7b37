"""A clock that stands still until a test moves it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

START: Final = datetime(2030, 1, 1, tzinfo=UTC)


class FakeClock:
    """Time in a test's hand: ``advance`` moves it, and wakes whoever sleeps until then."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._passed = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """The current time, UTC, aware."""
        return self._start + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self._passed

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was advanced by that many seconds."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._passed + seconds, woken))
        await woken

    def advance(self, seconds: float) -> None:
        """Move the clock on."""
        self._passed += seconds
        due = [woken for at, woken in self._sleepers if at <= self._passed]
        self._sleepers = [(at, woken) for at, woken in self._sleepers if at > self._passed]
        for woken in due:
            if not woken.done():
                woken.set_result(None)
