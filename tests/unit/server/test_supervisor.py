"""The supervisor of several workers, when the system has no room for one."""

import os
import resource
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import structlog

from server.config import server_config
from server.workers import Supervisor
from spiffe_core.runtime.block import Block
from spiffe_core.runtime.files import private_folder
from spiffe_core.runtime.levels import SharedLevelSwitch


@pytest.fixture
def supervisor():
    with private_folder() as folder:
        text = f"""
        server {{ trust_domain = "example.org" data_dir = "{folder}" socket_path = "{folder}/api.sock" workers = 2 }}
        plugins {{ DataStore "sql" {{ plugin_data {{}} }} KeyManager "disk" {{}} }}
        """
        config = server_config(Block.parse(text))
        made = Supervisor(config, SharedLevelSwitch(config.log_level))
        yield made
        for listener in made._local:
            listener.close()
        made._limits.close()
        os.close(made._alive)
        os.close(made._lifeline)


def number_open():
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def descriptors(free):
    """A block in which no more than so many descriptors are free."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    newest = os.open("/dev/null", os.O_RDONLY)
    taken = [newest]
    resource.setrlimit(resource.RLIMIT_NOFILE, (newest + 50, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(free):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


@pytest.mark.parametrize("free", range(5))
async def test_a_worker_that_cannot_be_started_for_now_is_no_reason_to_end(supervisor, free):
    before = number_open()
    with structlog.testing.capture_logs() as lines, descriptors(free):
        assert not await supervisor._start(0)
    assert [line["event"] for line in lines] == ["Worker cannot be started"]
    assert "Too many open files" in lines[0]["error"]
    assert number_open() == before
