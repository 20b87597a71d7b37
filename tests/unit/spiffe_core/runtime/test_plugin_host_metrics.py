"""What plugins measure."""

import pytest
from prometheus_client import generate_latest

from spiffe_core.api.spire.hostservice.common.metrics.v1 import metrics_pb2 as pb
from spiffe_core.errors import InvalidInput, ResourceExhausted
from spiffe_core.runtime import plugin_host_metrics
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.plugin_host_metrics import PluginMetrics


@pytest.fixture
def metrics():
    return Metrics("spire_server")


@pytest.fixture
def ask(metrics):
    service = PluginMetrics(metrics, now_ns=lambda: 5_000_000_000).service()
    return lambda name, request: service.handlers[name](request)


def lines(metrics):
    return [line for line in generate_latest(metrics.registry).decode().splitlines() if "words" in line]


def label(name, value):
    return pb.Label(name=name, value=value)


def test_what_a_plugin_measures_is_collected_with_the_rest(metrics, ask):
    ask("IncrCounter", pb.IncrCounterRequest(key=["words", "said"], val=2, labels=[label("a-b", "x")]))
    ask("IncrCounter", pb.IncrCounterRequest(key=["words", "said"], val=1, labels=[label("a-b", "x")]))
    ask("SetGauge", pb.SetGaugeRequest(key=["words.known"], val=7))
    ask("AddSample", pb.AddSampleRequest(key=["words", "length"], val=3))
    ask("MeasureSince", pb.MeasureSinceRequest(key=["words", "time"], time=4_000_000_000))
    ask("EmitKey", pb.EmitKeyRequest(key=["words", "key"], val=1))
    found = lines(metrics)
    for line in (
        'spire_server_words_said_total{a_b="x"} 3.0',
        "spire_server_words_known 7.0",
        "spire_server_words_length_sum 3.0",
        "spire_server_words_time_sum 1000.0",
    ):
        assert line in found
    assert not [line for line in found if "words_key" in line]


@pytest.mark.parametrize(
    ("name", "request_", "text"),
    [
        ("SetGauge", pb.SetGaugeRequest(key=["words"], val=1), "spire_server_words is a counter"),
        ("IncrCounter", pb.IncrCounterRequest(key=["words"], val=-1), "Counters can only be incremented"),
        ("IncrCounter", pb.IncrCounterRequest(key=["words"], val=1, labels=[label("b", "x")]), "label"),
        ("SetGauge", pb.SetGaugeRequest(key=["rpc"], val=1), "Duplicated"),
    ],
    ids=["kind", "negative", "labels", "ours"],
)
def test_what_contradicts_a_metric_that_is_there_is_refused(ask, name, request_, text):
    ask("IncrCounter", pb.IncrCounterRequest(key=["words"], val=1))
    with pytest.raises(InvalidInput, match=text):
        ask(name, request_)


def test_plugins_cannot_make_metrics_without_end(ask):
    for number in range(plugin_host_metrics.MOST_NAMES):
        ask("SetGauge", pb.SetGaugeRequest(key=[f"words{number}"], val=1))
    with pytest.raises(ResourceExhausted, match="one too many"):
        ask("SetGauge", pb.SetGaugeRequest(key=["more"], val=1))
    ask("SetGauge", pb.SetGaugeRequest(key=["words0"], val=2))
