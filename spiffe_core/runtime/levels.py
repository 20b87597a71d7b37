"""Log levels, with the names and numbers of SPIRE's API (``spire.api.types.LogLevel``), and the level in force."""

import mmap
import os
from enum import IntEnum
from typing import Self

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.gotext import quote


class Level(IntEnum):
    """How much is logged: everything at or below the level in force, so the higher the more."""

    PANIC = 1
    FATAL = 2
    ERROR = 3
    WARN = 4
    INFO = 5
    DEBUG = 6
    TRACE = 7

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a level's name in any case; ``warning`` is ``warn``.

        Raises:
            InvalidConfig: with SPIRE's text if there is none of that name.
        """
        name = text.upper()
        try:
            return cls["WARN" if name == "WARNING" else name]
        except KeyError:
            raise InvalidConfig(f"not a valid logrus Level: {quote(text)}") from None

    @property
    def label(self) -> str:
        """The name that log lines carry."""
        return "warning" if self is Level.WARN else self.name.lower()


class LevelSwitch:
    """The level in force, which an operator may change while the process runs."""

    def __init__(self, launch: Level) -> None:
        self._launch = launch
        self._current = launch

    @property
    def launch(self) -> Level:
        """The configured level, to which ``reset`` goes back."""
        return self._launch

    @property
    def current(self) -> Level:
        """The level in force now."""
        return self._current

    def set(self, level: Level) -> None:
        """Put another level in force."""
        self._current = level

    def reset(self) -> None:
        """Put the configured level in force again."""
        self.set(self._launch)


class SharedLevelSwitch(LevelSwitch):
    """A level in force for several processes: one byte of memory that they inherit."""

    def __init__(self, launch: Level, memory: int | None = None) -> None:
        """Take the memory behind a descriptor that ``descriptor`` gave in another process, or make some."""
        super().__init__(launch)
        if memory is None:
            memory = os.memfd_create("steeple-log-level", 0)
            os.write(memory, bytes((launch,)))
        self.descriptor = memory
        self._byte = mmap.mmap(memory, 1)

    @property
    def current(self) -> Level:
        """The level in force now, whichever process put it in force."""
        return Level(self._byte[0])

    def set(self, level: Level) -> None:
        """Put another level in force, for all processes."""
        self._byte[0] = level
