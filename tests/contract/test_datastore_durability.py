"""What a server acknowledged is there after kill -9, and several processes share one database."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from server.datastore import bundle_rows
from server.datastore.database import Database
from server.datastore.store import Datastore
from spiffe_core.bundle import Bundle
from tests.support.registry import TD, spiffe_id

pytest_plugins = ["tests.support.database_fixtures"]

PROGRAM = """
import json
import sys
from hsm_ca.journal import AuthorityRecord, State, Use
from keymanagers.base import KeyType
from server.datastore.config import DatabaseType, SqlConfig
from server.datastore.store import Datastore
from spiffe_core.runtime.clock import SystemClock
from tests.support.registry import TD, agent, entry, jwt_authority

config = json.loads(sys.stdin.readline())
name = config.pop("name")
config["database_type"] = DatabaseType(config["database_type"])
datastore = Datastore.open(SqlConfig(**config), SystemClock())
lease = datastore.lease(name).take("s", None)
for number in range(10**9):
    made = datastore.entries.create_batch([entry(f"/{name}/{number}/{item}") for item in range(3)])
    datastore.agents.create_or_replace(agent(f"{name}/{number}", "a:1"))
    datastore.bundles.append(TD, [], [jwt_authority(f"{name}-{number}")])
    record = AuthorityRecord(
        key_id=f"k{number}", use=Use.X509, key_type=KeyType.EC_P256, state=State.CREATED, reserved_at=number
    )
    datastore.journal(name).write(lease.epoch, record)
    print(json.dumps([outcome.entry.id for outcome in made]), flush=True)
"""


class Server:
    """A process that writes to the database and says what it has written."""

    def __init__(self, config, name):
        self.name = name
        settings = {k: v for k, v in asdict(config).items() if isinstance(v, str | int)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
        )
        self.process.stdin.write(json.dumps({**settings, "name": name}) + "\n")
        self.process.stdin.flush()
        self.rounds = []

    def run(self, rounds):
        self.rounds += [json.loads(self.process.stdout.readline()) for _ in range(rounds)]

    def kill(self):
        self.process.kill()
        self.rounds += [json.loads(line) for line in self.process.stdout if line.endswith("\n")]
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def assert_all_there(datastore, server):
    """Everything that the server acknowledged is stored, and each batch is whole."""
    assert server.rounds
    stored = {one.id for one in datastore.entries.list().items if one.spiffe_id.path.startswith(f"/{server.name}/")}
    assert stored >= {entry_id for ids in server.rounds for entry_id in ids}
    assert len(stored) % 3 == 0
    key_ids = {authority.id for authority in datastore.bundles.get(TD).jwt_authorities}
    records = {record.key_id for record in datastore.journal(server.name).records()}
    for number in range(len(server.rounds)):
        assert datastore.agents.get(spiffe_id(f"/spire/agent/{server.name}/{number}")).selectors
        assert f"{server.name}-{number}" in key_ids
        assert f"k{number}" in records


def test_what_was_acknowledged_survives_kill_9(config, clock):
    feed = Datastore.open(config, clock)
    start = feed.changes.start()
    server = Server(config, "one")
    server.run(15)
    server.kill()
    datastore = Datastore.open(config, clock)
    assert_all_there(datastore, server)
    changes = feed.changes.changes_since(start)
    assert changes.entries == {one.id for one in datastore.entries.list().items}
    datastore.close()
    feed.close()


def test_processes_that_write_to_one_database_at_once_lose_nothing(config, clock):
    servers = [Server(config, name) for name in ("one", "two")]
    for _ in range(8):
        for server in servers:
            server.run(1)
    for server in servers:
        server.kill()
    datastore = Datastore.open(config, clock)
    for server in servers:
        assert_all_there(datastore, server)
    datastore.close()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_file_is_kept_by_the_safest_settings(config, clock):
    database = Database(config, clock)
    with database.read() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    database.close()
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_transaction_that_fails_half_way_leaves_nothing(datastore):
    def work(write):
        bundle_rows.insert(write, Bundle(TD))
        write.append_change()
        raise RuntimeError("half way")

    start = datastore.changes.start()
    with pytest.raises(RuntimeError, match="half way"):
        datastore._database.write(work)
    assert datastore.bundles.count() == 0
    assert not datastore.changes.changes_since(start)
