"""Host service ``Metrics``: what plugins measure, among the metrics of the process that runs them.

The parts of a key are joined, as are those of SPIRE's own metrics: ``["attestor", "failed"]`` of a server is
``spire_server_attestor_failed``.  Prometheus has no place for a key without a meaning (EmitKey); it is passed over.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from google.protobuf.empty_pb2 import Empty
from prometheus_client import Counter, Gauge, Summary

from spiffe_core.api.services import service_in
from spiffe_core.api.spire.hostservice.common.metrics.v1 import metrics_pb2
from spiffe_core.errors import InvalidInput, ResourceExhausted
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.plugin_host_services import Handler, HostService

C = TypeVar("C", Counter, Gauge, Summary)

MOST_NAMES: Final = 500
"""How many metrics all plugins together may have: each costs memory for ever."""
_UNFIT: Final = re.compile(r"[^a-zA-Z0-9_]")
_NANOSECONDS_A_MILLISECOND: Final = 1e6


class PluginMetrics:
    """``spire.hostservice.common.metrics.v1.Metrics``.  Thread-safe."""

    def __init__(self, metrics: Metrics, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._metrics = metrics
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._known: dict[str, Counter | Gauge | Summary] = {}

    def service(self) -> HostService:
        """The service for plugins."""
        handlers: dict[str, Handler] = {
            "SetGauge": self._set_gauge,
            "EmitKey": lambda _: Empty(),
            "IncrCounter": self._increment,
            "AddSample": self._add_sample,
            "MeasureSince": self._measure_since,
        }
        return HostService(service_in(metrics_pb2.DESCRIPTOR), handlers)

    def _set_gauge(self, request: metrics_pb2.SetGaugeRequest) -> Empty:
        def made(name: str, about: str, labels: Sequence[str]) -> Gauge:
            mode: Any = "mostrecent"
            return Gauge(name, about, labels, registry=self._metrics.registry, multiprocess_mode=mode)

        return self._change(Gauge, made, request, lambda gauge: gauge.set(request.val))

    def _increment(self, request: metrics_pb2.IncrCounterRequest) -> Empty:
        def made(name: str, about: str, labels: Sequence[str]) -> Counter:
            return Counter(name, about, labels, registry=self._metrics.registry)

        return self._change(Counter, made, request, lambda counter: counter.inc(request.val))

    def _add_sample(self, request: metrics_pb2.AddSampleRequest) -> Empty:
        return self._change(Summary, self._summary, request, lambda summary: summary.observe(request.val))

    def _measure_since(self, request: metrics_pb2.MeasureSinceRequest) -> Empty:
        milliseconds = (self._now_ns() - request.time) / _NANOSECONDS_A_MILLISECOND
        return self._change(Summary, self._summary, request, lambda summary: summary.observe(milliseconds))

    def _summary(self, name: str, about: str, labels: Sequence[str]) -> Summary:
        return Summary(name, about, labels, registry=self._metrics.registry)

    def _change(
        self,
        kind: type[C],
        made: Callable[[str, str, Sequence[str]], C],
        request: Any,  # noqa: ANN401  any of the messages
        change: Callable[[C], None],
    ) -> Empty:
        """Change the metric that a request names; it is made if there is none."""
        name = f"{self._metrics.prefix}_{_fit('_'.join(request.key))}"
        labels = {_fit(label.name): label.value for label in request.labels}
        with self._lock:
            try:
                metric = self._known.get(name)
                if metric is None:
                    if len(self._known) >= MOST_NAMES:
                        raise ResourceExhausted(f"plugins have {MOST_NAMES} metrics already; {name} is one too many")
                    metric = self._known[name] = made(name, "Of a plugin", sorted(labels))
                if not isinstance(metric, kind):
                    raise InvalidInput(f"metric {name} is a {type(metric).__name__.lower()}")
                change(metric.labels(**labels) if labels else metric)
            except ValueError as exc:
                raise InvalidInput(f"metric {name}: {exc}") from exc
        return Empty()


def _fit(name: str) -> str:
    return _UNFIT.sub("_", name) or "_"
