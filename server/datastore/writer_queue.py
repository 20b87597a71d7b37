"""The queue of those who want to write to one SQLite file: threads of this process and other processes.

SQLite's own waiting is polling with growing pauses, so a process that writes again and again can keep another from
its turn until that one's patience is over.  Here who wants to write first takes a lock on a file beside the
database, and gives it up only when his transaction has begun.  Whoever has just committed finds that lock taken, so
the database is free for the one who has been waiting.  Which of several waits for SQLite's lock next is left to
chance.  A program that does not know the queue is still kept out by SQLite.
"""

import fcntl
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from server.datastore.backend import Failure
from spiffe_core.errors import DatastoreUnavailable

SUFFIX: Final = "-queue"
"""What the lock file's name adds to the database's."""
_LOOK_EVERY: Final = 0.002


class WriterQueue:
    """The way to a turn at writing, for one ``Database``.  Thread-safe."""

    def __init__(self, database: Path | None, patience: float) -> None:
        """Take the database's file, None for a database whose server queues its writers itself."""
        self._path = database.with_name(database.name + SUFFIX) if database else None
        self._patience = patience
        self._thread = threading.Lock()
        self._descriptor: int | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The block in which this process's one writer works.

        Raises:
            DatastoreUnavailable: if another thread does not end in time.
        """
        if self._path is None:
            yield
            return
        if not self._thread.acquire(timeout=self._patience):
            raise _locked()
        try:
            yield
        finally:
            self._thread.release()

    @contextmanager
    def next(self) -> Iterator[None]:
        """The block in which a transaction is begun: this process is the next that does, of all of them.

        Raises:
            DatastoreUnavailable: if others do not let it begin in time.
        """
        descriptor = self._open()
        if descriptor is None:
            yield
            return
        give_up = time.monotonic() + self._patience
        while not _lock(descriptor):
            if time.monotonic() >= give_up:
                raise _locked()
            time.sleep(_LOOK_EVERY * random.uniform(0.5, 1.5))  # noqa: S311  no secret
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the lock file."""
        with self._thread:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _open(self) -> int | None:
        """The lock file, which is opened when it is first needed; None where there can be none."""
        if self._descriptor is None and self._path is not None:
            try:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError:  # a folder that cannot be written to: SQLite says what is wrong
                return None
        return self._descriptor


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked() -> DatastoreUnavailable:
    return DatastoreUnavailable(f"the database is unavailable: {Failure.LOCKED.value}")
