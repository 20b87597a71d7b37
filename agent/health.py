"""Whether an agent can do its work: it has an identity, has asked its server at least once, and its sockets answer.

A server that is away later does not make it unhealthy: it serves what it has.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from spiffe_core.errors import Unavailable
from spiffe_core.runtime.clock import Clock

KNOCK_EVERY: Final = 10.0
"""Seconds for which a socket that answered counts as one that answers."""
TIMEOUT: Final = 5.0
"""Seconds that a socket has to take a connection."""


class AgentHealth:
    """The check that SPIRE's agent calls ``agent``."""

    def __init__(self, sockets: Sequence[Path], clock: Clock) -> None:
        self._sockets = sockets
        self._clock = clock
        self._knock_at = 0.0
        self._waits_for = "agent has not attested yet"

    def attested(self) -> None:
        """The agent has an identity."""
        self._waits_for = "agent has not synchronised with its server yet"

    def serving(self) -> None:
        """The agent has done everything that comes before serving."""
        self._waits_for = ""

    async def check(self) -> None:
        """Make sure that workloads can come in.

        Raises:
            Unavailable: if they cannot.
        """
        if self._waits_for:
            raise Unavailable(self._waits_for)
        now = self._clock.monotonic()
        if now < self._knock_at:
            return
        for path in self._sockets:
            try:
                async with asyncio.timeout(TIMEOUT):
                    _, writer = await asyncio.open_unix_connection(path)
            except (OSError, TimeoutError) as exc:
                raise Unavailable(f"nobody answers at {path}: {exc}") from exc
            writer.close()
        self._knock_at = now + KNOCK_EVERY
