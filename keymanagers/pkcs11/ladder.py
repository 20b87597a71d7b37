"""How often each rung of recovery may be climbed.

A new session costs its caller only, so each operation may ask for one.  A new login and the re-initialisation of the
library disturb others, and a device that is away for an hour must not be beaten with them: a rung that did not help
may be climbed again only after a pause, which doubles up to the rung's longest; once the rung has helped, or has
not been needed for so long, it starts anew.

Of many operations that fail at once, one climbs; the others wait for it and try again with what it brought.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Final

from keymanagers.pkcs11.faults import Rung

LOGIN_PAUSE: Final = 1.0
"""Longest seconds between two logins of which the first did not help."""
ALONE: Final = 0.5
"""Longest seconds between two re-initialisations while nothing else in the library works that they could disturb."""
_FIRST: Final = 0.1


class Pause:
    """How long something that did not help is not tried again.  Thread-safe."""

    def __init__(self, longest: float, monotonic: Callable[[], float]) -> None:
        self._longest = longest
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._wait = 0.0
        self._since = 0.0

    def take(self, *, longest: float | None = None) -> bool:
        """Whether it may be tried now, which is taken for done if so.

        ``longest`` is the longest pause that counts this time, in place of a longer one.
        """
        with self._lock:
            now = self._monotonic()
            waited = now - self._since
            if waited < (self._wait if longest is None else min(self._wait, longest)):
                return False
            anew = not self._wait or waited > 2 * self._longest
            self._wait = min(self._longest, _FIRST if anew else 2 * self._wait)
            self._since = now
            return True

    def helped(self) -> None:
        """It helped: next time it may be tried at once."""
        with self._lock:
            self._wait = 0.0


class Ladder:
    """The rungs of one token's recovery.  Thread-safe."""

    def __init__(self, *, reinitialize_interval: float, monotonic: Callable[[], float]) -> None:
        """Take the longest pause between two re-initialisations that may disturb others."""
        self.climbing = threading.Lock()
        """Held while somebody logs in again or re-initialises."""
        self._pauses: Mapping[Rung, Pause] = {
            Rung.SESSION: Pause(0.0, monotonic),
            Rung.LOGIN: Pause(min(LOGIN_PAUSE, reinitialize_interval), monotonic),
            Rung.MODULE: Pause(reinitialize_interval, monotonic),
        }

    def may_climb(self, rung: Rung, *, longest: float | None = None) -> bool:
        """Whether the rung may be climbed now, which is taken for done if so."""
        return self._pauses[rung].take(longest=longest)

    def helped(self, rung: Rung) -> None:
        """An operation succeeded after it was climbed."""
        self._pauses[rung].helped()
