"""Load on a server: the same request over several connections for some seconds, and what came of it."""

import asyncio
import ssl
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.h2 import Connection


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of request."""

    name: str
    method: str
    message: bytes
    units: int = 1
    """What one answer counts for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one measurement gave."""

    name: str
    per_second: float
    median_ms: float = 0.0
    p99_ms: float = 0.0
    bytes_each: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is reached: a Unix socket, or a TCP port over TLS."""

    path: str = ""
    port: int = 0
    context: Callable[[], ssl.SSLContext] | None = None

    def connect(self, make: Callable[[], Connection]) -> Awaitable[tuple[asyncio.BaseTransport, Connection]]:
        """Open a connection."""
        loop = asyncio.get_running_loop()
        if self.path:
            return loop.create_unix_connection(make, self.path)
        assert self.context is not None
        return loop.create_connection(make, "127.0.0.1", self.port, ssl=self.context(), server_hostname="server")


async def measure(load: Load, place: Place, *, seconds: float, connections: int = 4, depth: int = 2) -> Sample:
    """Put load on a server.

    Raises:
        LoadFailed: if it refuses a call or a connection.
    """
    begin = time.monotonic()
    end = begin + seconds
    opened = []
    try:
        for _ in range(connections):
            _, connection = await place.connect(
                lambda: Connection(load.method, load.message, depth=depth, until=lambda: end)
            )
            opened.append(connection)
        await asyncio.gather(*(connection.finished for connection in opened))
        took = time.monotonic() - begin
    finally:
        for connection in opened:
            connection.close()
    latencies = sorted(latency for connection in opened for latency in connection.latencies)
    return Sample(
        load.name,
        per_second=len(latencies) * load.units / took,
        median_ms=statistics.median(latencies) * 1000,
        p99_ms=latencies[len(latencies) * 99 // 100] * 1000,
        bytes_each=sum(connection.received for connection in opened) // len(latencies),
    )
