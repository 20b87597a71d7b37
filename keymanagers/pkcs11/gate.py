"""The gate before a library: many calls inside at once, or its re-initialisation alone.

Nothing may be inside a Cryptoki library while it is finalised.  A call enters and leaves; ``alone`` stops new
calls, waits until those inside have left, and lets them in again when it is done.  A call that hangs cannot be
waited for: while one is known to, nobody is kept out for its sake.

Going in and out is done at each signature, so it takes no lock unless the gate is shut.  Whoever goes in makes that
known and then looks whether the gate is shut; whoever shuts it does so and then looks who is inside.  So one of the
two sees the other.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class GateTimeout(Exception):
    """The gate did not open, or did not become empty, in time; ``inside`` calls had not returned."""

    def __init__(self, inside: int) -> None:
        super().__init__(f"{inside} calls have not returned")
        self.inside = inside


class Gate:
    """Shared by the threads of one process; a thread is inside once at most."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside: dict[int, tuple[float, object]] = {}
        """When each thread entered, and for whom."""
        self._shut = False
        self._monotonic = monotonic

    def enter(self, timeout: float, visitor: object = None) -> None:
        """Go in on behalf of ``visitor``; ``leave`` must follow.

        Raises:
            GateTimeout: if the gate stays shut for so many seconds.
        """
        me = threading.get_ident()
        self._inside[me] = self._monotonic(), visitor
        if self._shut:
            self._come_back(me, timeout, visitor)

    def leave(self) -> None:
        """Come out."""
        del self._inside[threading.get_ident()]
        if self._shut:
            with self._lock:
                self._changed.notify_all()

    def overdue(self, seconds: float, visitor: object) -> int:
        """How many calls for that visitor have been inside for longer than so many seconds."""
        return self._overdue(seconds, visitor)

    @contextmanager
    def alone(self, timeout: float) -> Iterator[None]:
        """Be the only one inside.  Whoever asks must not be inside itself.

        Raises:
            GateTimeout: if the gate is shut by another, or somebody stays inside, for so many seconds; at once if
                somebody has already been inside for that long.
        """
        with self._lock:
            if not self._changed.wait_for(lambda: not self._shut, timeout):
                raise GateTimeout(len(self._inside))
            if hanging := self._overdue(timeout):
                raise GateTimeout(hanging)
            self._shut = True
        try:
            with self._lock:
                if not self._changed.wait_for(lambda: not self._inside, timeout):
                    raise GateTimeout(len(self._inside))
            yield
        finally:
            with self._lock:
                self._shut = False
                self._changed.notify_all()

    def _come_back(self, me: int, timeout: float, visitor: object) -> None:
        """Step back from the gate, which is shut, and go in when it opens."""
        with self._lock:
            del self._inside[me]
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not self._shut, timeout):
                raise GateTimeout(len(self._inside))
            self._inside[me] = self._monotonic(), visitor  # nobody shuts it without the lock

    def _overdue(self, seconds: float, visitor: object = None) -> int:
        limit = self._monotonic() - seconds
        return sum(
            since < limit and (visitor is None or visitor is whose) for since, whose in tuple(self._inside.values())
        )
