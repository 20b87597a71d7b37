"""Metrics, for Prometheus to collect: calls by method and outcome, and whatever a process adds.

Where several worker processes serve one port, each writes to the folder that ``PROMETHEUS_MULTIPROC_DIR`` names
before this module is imported, and the one that is asked adds them up (prometheus_client's multiprocess mode).
"""

import os
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from spiffe_core.errors import InvalidConfig

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """The metrics of one process, all names starting with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._registry = CollectorRegistry()
        self._calls = Counter(f"{prefix}_rpc", "Calls ended", ["method", "status"], registry=self._registry)
        self._times = Histogram(
            f"{prefix}_rpc_seconds", "Time from admission to end", ["method"], buckets=_SECONDS, registry=self._registry
        )
        self._counters: dict[str, Counter] = {}
        # prometheus_client finds the child of a label set anew at each use; calls are too many for that
        self._by_call: dict[tuple[str, str], tuple[Counter, Histogram]] = {}

    @property
    def prefix(self) -> str:
        """With what all names start."""
        return self._prefix

    @property
    def registry(self) -> CollectorRegistry:
        """Where others of this process may put metrics of their own."""
        return self._registry

    def rpc(self, method: str, status: str, seconds: float) -> None:
        """A call has ended."""
        children = self._by_call.get((method, status))
        if children is None:
            children = self._by_call[method, status] = (
                self._calls.labels(method=method, status=status),
                self._times.labels(method=method),
            )
        children[0].inc()
        children[1].observe(seconds)

    def count(self, name: str, about: str, **labels: str) -> None:
        """Something has happened once more."""
        counter = self._counters.get(name)
        if counter is None:
            counter = Counter(f"{self._prefix}_{name}", about, sorted(labels), registry=self._registry)
            self._counters[name] = counter
        (counter.labels(**labels) if labels else counter).inc()

    def gauge(self, name: str, about: str, read: Callable[[], float]) -> None:
        """A value that is read when it is asked for; among workers, that of the one which is asked."""
        Gauge(f"{self._prefix}_{name}", about, registry=self._registry, multiprocess_mode="mostrecent").set_function(
            read
        )

    def serve(self, host: str, port: int) -> None:
        """Answer Prometheus at ``http://host:port/metrics``, in a thread.

        Raises:
            InvalidConfig: if the address cannot be listened on.
        """
        registry = self._registry
        if os.environ.get(MULTIPROCESS):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        try:
            start_http_server(port, addr=host, registry=registry)
        except OSError as exc:
            raise InvalidConfig(f"telemetry.Prometheus: cannot listen on {host}:{port}: {exc.strerror}") from exc
