"""Fixtures for tests of what is kept in a database, on each kind of database.

A test module names this in ``pytest_plugins``, so that a server that was started serves all of them.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from server.datastore.config import SqlConfig
from server.datastore.store import Datastore
from tests.support.clock import FakeClock
from tests.support.databases import SERVERS, DatabaseServer, MariaDbServer, PostgresServer, empty, sqlite_config

KINDS = [
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.postgresql),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    yield from _served(PostgresServer)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDbServer]:
    yield from _served(MariaDbServer)


def _served(start: Callable[[], DatabaseServer]) -> Iterator[DatabaseServer]:
    server = start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SqlConfig]:
    """The configuration of a migrated database of a kind, one a session: migrating takes longer than emptying."""
    made: dict[str, SqlConfig] = {}

    def config_of(kind: str) -> SqlConfig:
        if kind not in made:
            if kind in SERVERS:
                made[kind] = request.getfixturevalue(f"{kind}_server").new_config()
            else:
                made[kind] = sqlite_config(tmp_path_factory.mktemp("migrated") / "datastore.sqlite3")
            Datastore.open(made[kind], FakeClock()).close()
        return made[kind]

    return config_of


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(kind: str, migrated: Callable[[str], SqlConfig], tmp_path: Path, clock: FakeClock) -> SqlConfig:
    """A database of that kind with the tables of today and nothing in them."""
    config = migrated(kind)
    if kind == "sqlite":
        path = tmp_path / "datastore.sqlite3"
        shutil.copy(config.connection_string, path)
        return replace(config, connection_string=str(path))
    empty(config, clock)
    return config


@pytest.fixture
def open_datastore(config: SqlConfig, clock: FakeClock) -> Iterator[Callable[[], Datastore]]:
    """Opens the test's database, as one more server would."""
    opened: list[Datastore] = []

    def open_one() -> Datastore:
        opened.append(Datastore.open(config, clock))
        return opened[-1]

    yield open_one
    for datastore in opened:
        datastore.close()


@pytest.fixture
def datastore(open_datastore: Callable[[], Datastore]) -> Datastore:
    return open_datastore()


@pytest.fixture
def other(open_datastore: Callable[[], Datastore]) -> Datastore:
    """The same database, as another server has it."""
    return open_datastore()
