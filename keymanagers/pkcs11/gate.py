"""The gate before a library: many calls inside at once, or its re-initialisation alone.

Nothing may be inside a Cryptoki library while it is finalised.  A call enters and leaves; ``alone`` stops new
calls, waits until those inside have left, and lets them in again when it is done.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class GateTimeout(Exception):
    """The gate did not open, or did not become empty, in time; ``inside`` calls had not returned."""

    def __init__(self, inside: int) -> None:
        super().__init__(f"{inside} calls have not returned")
        self.inside = inside


class Gate:
    """Shared by the threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._shut = False

    def enter(self, timeout: float) -> None:
        """Go in; ``leave`` must follow.

        Raises:
            GateTimeout: if the gate stays shut for so many seconds.
        """
        with self._lock:
            if self._shut and not self._changed.wait_for(lambda: not self._shut, timeout):
                raise GateTimeout(self._inside)
            self._inside += 1

    def leave(self) -> None:
        """Come out."""
        with self._lock:
            self._inside -= 1
            if self._shut:
                self._changed.notify_all()

    @contextmanager
    def alone(self, timeout: float) -> Iterator[None]:
        """Be the only one inside.  Whoever asks must not be inside itself.

        Raises:
            GateTimeout: if the gate is shut by another, or somebody stays inside, for so many seconds.
        """
        with self._lock:
            if not self._changed.wait_for(lambda: not self._shut, timeout):
                raise GateTimeout(self._inside)
            self._shut = True
        try:
            with self._lock:
                if not self._changed.wait_for(lambda: not self._inside, timeout):
                    raise GateTimeout(self._inside)
            yield
        finally:
            with self._lock:
                self._shut = False
                self._changed.notify_all()
