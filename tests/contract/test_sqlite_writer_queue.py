"""Several processes write to one SQLite file, and each has its turn."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from server.datastore.database import Database
from server.datastore.store import Datastore
from server.datastore.writer_queue import SUFFIX, WriterQueue
from spiffe_core.errors import DatastoreUnavailable
from tests.support.clock import FakeClock
from tests.support.databases import sqlite_config
from tests.support.registry import agent, entry

GREEDY = """
import sys
from pathlib import Path
from server.datastore.store import Datastore
from spiffe_core.runtime.clock import SystemClock
from tests.support.databases import sqlite_config
from tests.support.registry import entry

datastore = Datastore.open(sqlite_config(Path(sys.argv[1])), SystemClock())
made = 0
print("ready", flush=True)
while True:
    datastore.entries.create_batch([entry(f"/{sys.argv[2]}/{made}/{item}") for item in range(20)])
    made += 1
    print(made, flush=True)
"""
HASTY = 0.5


class Greedy:
    """A process that writes without ever pausing."""

    def __init__(self, path, name):
        self.output = path.with_name(f"{name}.out")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", GREEDY, path, name],
                stdout=output,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "PYTHONPATH": "."},
            )

    def batches(self):
        """How many batches it has committed; None before it has begun."""
        lines = self.output.read_text().split("\n")[:-1]
        return json.loads(lines[-1]) if len(lines) > 1 else 0 if lines else None

    def wait_for(self, batches):
        tick = threading.Event()
        while self.batches() is None or self.batches() < batches:
            assert self.process.poll() is None
            tick.wait(0.02)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "datastore.sqlite3"


@pytest.fixture
def hasty(path):
    """A datastore whose requests wait half a second for their turn."""
    Datastore.open(sqlite_config(path), FakeClock()).close()
    datastore = Datastore(Database(sqlite_config(path), FakeClock(), patience=HASTY))
    yield datastore
    datastore.close()


@pytest.fixture
def greedy(path):
    started = []

    def start(name):
        started.append(Greedy(path, name))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def test_processes_that_never_pause_overtake_nobody_for_long(path, greedy):
    datastore = Datastore.open(sqlite_config(path), FakeClock())
    others = [greedy("one"), greedy("two")]
    for one in others:
        one.wait_for(1)
    overtaken = []
    for number in range(60):
        before = sum(one.batches() for one in others)
        datastore.agents.create_or_replace(agent(f"a{number}"))
        overtaken.append(sum(one.batches() for one in others) - before)
    datastore.close()
    assert sum(overtaken) > 0  # the others did write meanwhile
    assert max(overtaken) < 25  # hundreds, were it not for the queue


def test_a_process_that_is_killed_in_the_queue_leaves_it(hasty, greedy):
    one = greedy("one")
    one.wait_for(3)
    one.process.kill()
    one.process.wait()
    assert hasty.entries.create_batch([entry("/after")])


def test_who_waits_for_the_lock_of_another_program_lets_none_pass_and_gives_up_in_time(hasty, path):
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatastoreUnavailable, match="it is locked by another process"):
        hasty.entries.create_batch([entry("/no")])
    locker.execute("ROLLBACK")
    locker.close()
    assert hasty.entries.create_batch([entry("/yes")])
    assert hasty.entries.count() == 1


def test_a_queue_that_does_not_move_is_a_locked_database(path):
    first, second = WriterQueue(path, HASTY), WriterQueue(path, 0.05)
    with (
        first.next(),
        pytest.raises(DatastoreUnavailable, match="it is locked by another process"),
        second.next(),
    ):
        raise AssertionError("nobody passes")
    with second.next():
        pass
    first.close()
    second.close()


def test_threads_of_one_process_take_turns_too(hasty):
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: hasty.agents.create_or_replace(agent(f"t{n}")), range(100)))
    assert len(made) == hasty.agents.count() == 100


def test_the_lock_file_is_private_and_beside_the_database(hasty, path):
    hasty.entries.create_batch([entry()])
    lock = path.with_name(path.name + SUFFIX)
    assert lock.stat().st_mode & 0o777 == 0o600
    assert lock.stat().st_size == 0


def test_where_no_lock_file_can_be_made_sqlite_decides_alone(tmp_path):
    queue = WriterQueue(tmp_path / "no" / "folder" / "database", HASTY)
    with queue.turn(), queue.next():
        assert not (tmp_path / "no").exists()
    queue.close()


@pytest.mark.parametrize("form", ["%s", "file:%s", "file:%s?_foreign_keys=1"])
def test_every_way_to_name_a_file_leads_to_one_queue(path, form):
    config = replace(sqlite_config(path), connection_string=form % path)
    database = Database(config, FakeClock())
    assert database.backend.file == path
    database.close()
