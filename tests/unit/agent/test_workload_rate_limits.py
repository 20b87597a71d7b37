"""Rate limits of the Workload API."""

import pytest

from agent import rate_limits
from agent.config import RateLimit
from agent.rate_limits import RateLimits
from spiffe_core.entries import Selector
from spiffe_core.errors import Unavailable
from spiffe_core.runtime.metrics import Metrics
from tests.support.clock import FakeClock

PATH = "/SpiffeWorkloadAPI/FetchX509SVID"
OTHER = "/SpiffeWorkloadAPI/FetchJWTSVID"
WEB = frozenset({Selector("unix", "user:web"), Selector("unix", "uid:7")})
DB = frozenset({Selector("unix", "user:db")})


class Limited:
    """Limits on a clock in the test's hand."""

    def __init__(self, **limits: int) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics("spire_agent")
        self.limits = RateLimits(RateLimit(**limits), metrics=self.metrics, monotonic=self.clock.monotonic)

    def passes(self, selectors=WEB, path=PATH) -> bool:
        """Whether a call may be made."""
        try:
            self.limits.take(path, selectors)
        except Unavailable as exc:
            assert str(exc) == f"rate limit exceeded for {path}"  # noqa: PT017
            return False
        return True


def test_a_bucket_holds_the_calls_of_a_second_and_is_refilled_at_that_rate():
    limited = Limited(fetch_x509_svid=2)
    assert [limited.passes() for _ in range(3)] == [True, True, False]
    limited.clock.advance(0.5)
    assert [limited.passes() for _ in range(2)] == [True, False]
    limited.clock.advance(100)
    assert [limited.passes() for _ in range(3)] == [True, True, False]


def test_each_set_of_selectors_and_each_method_has_its_own_bucket():
    limited = Limited(fetch_x509_svid=1, fetch_jwt_svid=1)
    assert limited.passes()
    assert not limited.passes(frozenset(sorted(WEB, reverse=True)))
    assert limited.passes(DB)
    assert limited.passes(frozenset())
    assert limited.passes(path=OTHER)
    assert not limited.passes(path=OTHER)


def test_a_method_without_a_limit_is_not_limited():
    limited = Limited(fetch_jwt_svid=1)
    assert all(limited.passes() for _ in range(100))
    assert limited.limits.limits == {OTHER: 1}


def test_refusals_are_counted():
    limited = Limited(fetch_x509_svid=1)
    for _ in range(3):
        limited.passes()
    name, labels = "spire_agent_workload_api_rate_limit_exceeded_total", {"method": PATH}
    assert limited.metrics._registry.get_sample_value(name, labels) == 2


def test_buckets_do_not_pile_up():
    limited = Limited(fetch_x509_svid=1)
    for number in range(rate_limits.MOST + 10):
        limited.passes(frozenset({Selector("unix", f"uid:{number}")}))
    assert len(limited.limits._buckets) == rate_limits.MOST


@pytest.mark.parametrize("name", ["fetch_x509_svid", "fetch_jwt_svid", "fetch_x509_bundles", "fetch_jwt_bundles"])
def test_every_key_of_the_configuration_limits_a_method(name):
    assert len(Limited(**{name: 1}).limits.limits) == 1
