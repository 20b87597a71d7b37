"""What a server shows over HTTP to those who look after it, of one process and of several: health and metrics."""

import json
import os
import signal

import pytest

from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from tests.support.probes import free_port, get
from tests.support.server_processes import ServerProcess, server_process, wait_until

COUNTED = 'spire_server_rpc_total{method="/spire.api.server.bundle.v1.Bundle/CountBundles",status="OK"}'


def metric(port: int, name: str) -> str:
    """The value of a metric, as it is told."""
    lines = get(port, "/metrics")[1].splitlines()
    return next((line.removeprefix(name).strip() for line in lines if line.startswith(name)), "")


async def count_at(server: ServerProcess, pid: int) -> None:
    async with server.admin(pid) as admin:
        await admin.call(bundle_pb2, "CountBundles")


@pytest.mark.parametrize(
    ("workers", "checks"),
    [(1, {"catalog.datastore": {}, "server.ca": {}, "key_manager": {}}), (2, {"server": {}})],
    ids=["one", "two"],
)
async def test_health_and_metrics_are_served_for_all_processes_together(tmp_path, workers, checks):
    probes, metrics = free_port(), free_port()
    keys = f"""
        KeyManager "disk" {{ plugin_data {{ keys_path = "{tmp_path}/keys.json" }} }}
    """
    more = f"""
        }}
        health_checks {{ listener_enabled = true bind_address = "127.0.0.1" bind_port = {probes} }}
        telemetry {{ Prometheus {{ host = "127.0.0.1" port = {metrics} }}
    """
    with server_process(workers=workers, server=more, key_manager=keys) as server:
        server.start()
        wait_until(lambda: get(probes, "/ready") == (200, json.dumps(checks)))
        assert get(probes, "/live") == (200, json.dumps(checks))
        assert get(probes, "/nowhere")[0] == 404
        for pid in server.pids:
            await count_at(server, pid)
        wait_until(lambda: metric(metrics, COUNTED) == f"{workers}.0")
        if workers == 2:
            victim, _ = server.pids
            os.kill(victim, signal.SIGKILL)
            lame = (500, json.dumps({"server": {"err": "1 of 2 workers serve"}}))
            wait_until(lambda: get(probes, "/ready") == lame)
            assert get(probes, "/live")[0] == 200
            wait_until(lambda: get(probes, "/ready")[0] == 200)
            assert metric(metrics, COUNTED) == "2.0", "what an ended worker counted stays counted"
        assert server.end() == 0
