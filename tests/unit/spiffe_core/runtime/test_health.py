"""Whether a process is ready and whether it is live, asked over HTTP as probes do."""

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
import structlog

from spiffe_core.errors import InvalidConfig, Unavailable
from spiffe_core.runtime.health import Health, HealthListener
from spiffe_core.runtime.settings import HealthChecks
from tests.support.clock import FakeClock


class Part:
    """A part of a process that can be unwell."""

    def __init__(self) -> None:
        self.error: str | None = None

    async def check(self) -> None:
        if self.error is not None:
            raise Unavailable(self.error)


def config_at(port: int) -> HealthChecks:
    return HealthChecks(listener_enabled=True, bind_address="127.0.0.1", bind_port=port)


@contextmanager
def listener(health: Health) -> Iterator[HealthListener]:
    with closing(socket.socket()) as reserved:  # bound and not listening, it keeps the port for who may reuse it
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        with closing(HealthListener(config_at(reserved.getsockname()[1]), health)) as opened:
            yield opened


def ask(opened: HealthListener, path: str) -> tuple[int, object]:
    with closing(http.client.HTTPConnection("127.0.0.1", opened.port, timeout=10)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if response.status != 404 else None


async def test_a_process_is_not_ready_before_its_first_check():
    health = Health({"part": Part().check}, FakeClock())
    assert not health.is_ready()
    assert health.is_live()
    assert health.report() == {"part": {"err": "not checked yet"}}


async def test_a_process_is_ready_while_all_checks_pass():
    part, other = Part(), Part()
    health = Health({"part": part.check, "other": other.check}, FakeClock())
    await health.check()
    assert health.is_ready()
    part.error = "out of order"
    await health.check()
    assert not health.is_ready()
    assert health.is_live()
    assert health.report() == {"part": {"err": "out of order"}, "other": {}}
    part.error = None
    await health.check()
    assert health.is_ready()


async def test_only_what_changes_is_logged():
    part = Part()
    health = Health({"part": part.check}, FakeClock())
    with structlog.testing.capture_logs() as logs:
        for error in (None, None, "ill", "ill", "worse", None, None):
            part.error = error
            await health.check()
    assert [(line["event"], line.get("error")) for line in logs] == [
        ("Health check passed", None),
        ("Health check failed", "ill"),
        ("Health check failed", "worse"),
        ("Health check passed", None),
    ]


async def test_a_process_whose_loop_is_stuck_is_neither_live_nor_ready():
    clock = FakeClock()
    health = Health({"part": Part().check}, clock)
    await health.check()
    clock.advance(29.9)
    assert health.is_ready()
    clock.advance(0.1)
    assert not health.is_live()
    assert not health.is_ready()


async def test_probes_are_answered_over_http():
    part = Part()
    health = Health({"part": part.check}, FakeClock())
    await health.check()
    with listener(health) as opened:
        assert await asyncio.to_thread(ask, opened, "/ready") == (200, {"part": {}})
        part.error = "out of order"
        await health.check()
        assert await asyncio.to_thread(ask, opened, "/ready") == (500, {"part": {"err": "out of order"}})
        assert await asyncio.to_thread(ask, opened, "/live?verbose") == (200, {"part": {"err": "out of order"}})
        assert (await asyncio.to_thread(ask, opened, "/elsewhere"))[0] == 404


async def test_a_stuck_loop_does_not_keep_probes_from_being_answered():
    clock = FakeClock()
    health = Health({"part": Part().check}, clock)
    await health.check()
    clock.advance(60)
    with listener(health) as opened:
        assert ask(opened, "/live") == (500, {"part": {}})  # on the loop's own thread: nothing else runs


async def test_an_address_that_is_taken_is_named():
    health = Health({}, FakeClock())
    with listener(health) as opened:
        text = f"cannot listen on 127.0.0.1:{opened.port}: Address already in use"
        with pytest.raises(InvalidConfig, match=text):
            HealthListener(config_at(opened.port), health)
