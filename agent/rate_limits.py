"""Rate limits of the Workload API: a token bucket for each method and set of selectors (``experimental.ratelimit``).

A bucket holds what may be called in a second and is refilled at that rate; who finds it empty is refused at once,
as in SPIRE.  All processes with the same selectors share one.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from agent.config import RateLimit
from agent.gate import WORKLOAD_API
from agent.identities import Selectors
from spiffe_core.errors import Unavailable
from spiffe_core.runtime.metrics import Metrics

MOST: Final = 10_000
"""Buckets that are kept; the one that rested longest makes room."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    since: float


class RateLimits:
    """The buckets of one agent."""

    def __init__(self, limits: RateLimit, *, metrics: Metrics, monotonic: Callable[[], float]) -> None:
        per_second = {
            "FetchX509SVID": limits.fetch_x509_svid,
            "FetchJWTSVID": limits.fetch_jwt_svid,
            "FetchX509Bundles": limits.fetch_x509_bundles,
            "FetchJWTBundles": limits.fetch_jwt_bundles,
        }
        self.limits: Mapping[str, int] = {f"{WORKLOAD_API}{name}": rate for name, rate in per_second.items() if rate}
        """Calls a second, by the paths of the methods that are limited."""
        self._buckets: OrderedDict[tuple[str, Selectors], _Bucket] = OrderedDict()
        self._metrics = metrics
        self._monotonic = monotonic

    def take(self, path: str, selectors: Selectors) -> None:
        """Count a call.

        Raises:
            Unavailable: if there were too many.
        """
        limit = self.limits.get(path)
        if limit is None:
            return
        now = self._monotonic()
        bucket = self._buckets.setdefault((path, selectors), _Bucket(limit, now))
        self._buckets.move_to_end((path, selectors))
        if len(self._buckets) > MOST:
            self._buckets.popitem(last=False)
        bucket.tokens = min(bucket.tokens + (now - bucket.since) * limit, limit)
        bucket.since = now
        if bucket.tokens < 1:
            self._metrics.count("workload_api_rate_limit_exceeded", "Calls refused by a rate limit", method=path)
            raise Unavailable(f"rate limit exceeded for {path}")
        bucket.tokens -= 1
