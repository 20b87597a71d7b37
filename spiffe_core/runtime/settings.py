"""What the files of servers and agents have in common: the log's format, ``telemetry`` and ``health_checks``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar, Final

from spiffe_core.errors import InvalidConfig

_PORTS: Final = range(1, 65536)


class LogFormat(StrEnum):
    """How log lines are written."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """The exporter of metrics for Prometheus."""

    host: str = "localhost"
    """Address to listen on."""
    port: int
    """Port to listen on."""

    NOT_SUPPORTED: ClassVar[Mapping[str, str]] = {
        "tls": "TLS for the exporter is not supported by this version",
    }

    def __post_init__(self) -> None:
        check_port("port", self.port)


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """The `telemetry` block: which metrics go where."""

    prometheus: Prometheus | None = field(default=None, metadata={"key": "Prometheus"})
    """Serve metrics for Prometheus; not served if the block is absent."""
    metric_prefix: str = field(default="", metadata={"key": "MetricPrefix"})
    """Prefix of every metric's name; `spire_server` or `spire_agent` if it is empty."""
    enable_trust_domain_label: bool = field(default=False, metadata={"key": "EnableTrustDomainLabel"})
    """Label every metric with the trust domain."""
    enable_hostname_label: bool = field(default=True, metadata={"key": "EnableHostnameLabel"})
    """Label every metric with the host's name."""
    allowed_prefixes: tuple[str, ...] = field(default=(), metadata={"key": "AllowedPrefixes"})
    """Only metrics that start with one of these are kept; `.` separates."""
    blocked_prefixes: tuple[str, ...] = field(default=(), metadata={"key": "BlockedPrefixes"})
    """Metrics that start with one of these are dropped."""
    allowed_labels: tuple[str, ...] = field(default=(), metadata={"key": "AllowedLabels"})
    """Only these labels are kept."""
    blocked_labels: tuple[str, ...] = field(default=(), metadata={"key": "BlockedLabels"})
    """These labels are dropped."""

    WITHOUT_EFFECT: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("DogStatsd", "Statsd", "M3", "InMem"), "metrics are only served for Prometheus"
    )


@dataclass(frozen=True, kw_only=True)
class HealthChecks:
    """The `health_checks` block: health over HTTP."""

    listener_enabled: bool = False
    """Serve health over HTTP."""
    bind_address: str = "localhost"
    """Address to listen on."""
    bind_port: int = 80
    """Port to listen on."""
    live_path: str = "/live"
    """Path that tells whether the process is alive."""
    ready_path: str = "/ready"
    """Path that tells whether it can do its work."""

    def __post_init__(self) -> None:
        check_port("bind_port", self.bind_port)


PROFILING: Final[Mapping[str, str]] = dict.fromkeys(
    ("profiling_enabled", "profiling_port", "profiling_freq", "profiling_names"),
    "there is no profiling endpoint",
)
"""Keys of ``server`` and ``agent`` blocks that are taken and do nothing, and why."""


def check_port(name: str, port: int) -> None:
    """Raise unless a server can listen on the port.

    Raises:
        InvalidConfig: starting with ``name``.
    """
    if port not in _PORTS:
        raise InvalidConfig(f"{name}: {port} is no port; must be 1 to 65535")


def check_positive(name: str, value: timedelta | int | None) -> None:
    """Raise if the value is set and not above zero.

    Raises:
        InvalidConfig: starting with ``name``.
    """
    if value is not None and value <= (timedelta() if isinstance(value, timedelta) else 0):  # type: ignore[operator]
        raise InvalidConfig(f"{name}: must be more than zero")
