"""Names of users and groups, which may come from a directory server and so take their time.

They are looked up in threads of their own and kept for a short while, absences too; callers that ask for one at
once wait for one look-up.
"""

import asyncio
import grp
import pwd
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

KEPT_FOR: Final = 30.0
"""Seconds for which a name counts."""
MOST: Final = 10_000
"""Names that are kept of a kind."""
_THREADS: Final = 2


class Names:
    """The names of one kind of numbers, on one event loop."""

    def __init__(self, look_up: Callable[[int], str | None], monotonic: Callable[[], float]) -> None:
        self._look_up = look_up
        self._monotonic = monotonic
        self._kept: dict[int, tuple[float, str | None]] = {}
        self._asked: dict[int, asyncio.Task[str | None]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="names")

    async def of(self, number: int) -> str | None:
        """The name, or None if it has none."""
        kept = self._kept.get(number)
        if kept is not None and self._monotonic() < kept[0]:
            return kept[1]
        if number not in self._asked:
            self._asked[number] = asyncio.get_running_loop().create_task(self._ask(number))
        return await asyncio.shield(self._asked[number])  # the others wait for it too

    def close(self) -> None:
        """Begin to look up nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, number: int) -> str | None:
        try:
            name = await asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, number)
        finally:
            del self._asked[number]
        if len(self._kept) >= MOST:
            self._kept.clear()
        self._kept[number] = (self._monotonic() + KEPT_FOR, name)
        return name


def user_name(uid: int) -> str | None:
    """The name of a user, or None."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return None


def group_name(gid: int) -> str | None:
    """The name of a group, or None."""
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OSError):
        return None
