"""The tables' version, on every kind of database: made, checked, brought forward, and refused when it is newer."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from server.datastore.database import Database
from server.datastore.schema import VERSION_TABLE
from server.datastore.store import Datastore
from server.datastore.tables import METADATA
from spiffe_core.errors import FailedPrecondition
from tests.support.databases import sqlite_config

pytest_plugins = ["tests.support.database_fixtures"]


@pytest.fixture
def new_config(kind, request, tmp_path):
    """A database with no tables."""
    if kind == "sqlite":
        return sqlite_config(tmp_path / "new.sqlite3")
    return request.getfixturevalue(f"{kind}_server").new_config()


@pytest.fixture
def database(new_config, clock):
    opened = Database(new_config, clock)
    yield opened
    opened.close()


def set_version(database, version):
    with database.write_connection() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'")


def tables(database):
    with database.read() as connection:
        return set(sa.inspect(connection).get_table_names())


def test_a_new_database_gets_the_tables_that_the_code_knows(new_config, clock, database):
    Datastore.open(new_config, clock).close()
    assert tables(database) == {*METADATA.tables, VERSION_TABLE}
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_a_database_of_today_is_opened_again_as_it_is(new_config, clock):
    first = Datastore.open(new_config, clock)
    cursor = first.changes.start()
    first.close()
    second = Datastore.open(replace(new_config, disable_migration=True), clock)
    assert second.changes.start() == cursor
    second.close()


def test_servers_that_start_at_once_on_a_new_database_migrate_it_once(new_config, clock):
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: Datastore.open(new_config, clock), range(4)))
    assert {datastore.changes.start() for datastore in opened} == {opened[0].changes.start()}
    for datastore in opened:
        datastore.ping()
        datastore.close()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(new_config, clock, database):
    Datastore.open(new_config, clock).close()
    set_version(database, "9999")
    with pytest.raises(FailedPrecondition) as caught:
        Datastore.open(new_config, clock)
    assert 'migrated by a newer Steeple, to schema "9999"' in str(caught.value)
    assert "start the newer version" in str(caught.value)
    set_version(database, "0001")
    Datastore.open(new_config, clock).close()


def test_a_database_that_must_not_be_migrated_is_refused_untouched(new_config, clock, database):
    with pytest.raises(FailedPrecondition, match='the database has schema "none" and this version needs "0001"'):
        Datastore.open(replace(new_config, disable_migration=True), clock)
    assert tables(database) == set()


def test_spires_own_database_is_refused_untouched(new_config, clock, database):
    with database.write_connection() as connection:
        connection.exec_driver_sql("CREATE TABLE registered_entries (id INTEGER)")
    with pytest.raises(FailedPrecondition, match="the database is SPIRE's own"):
        Datastore.open(new_config, clock)
    assert tables(database) == {"registered_entries"}


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_migration_that_is_cut_short_leaves_an_empty_file(new_config, clock, database):
    locker = sqlite3.connect(new_config.connection_string)

    def cut_short():
        with database.write_connection() as connection:
            METADATA.create_all(connection)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        cut_short()
    locker.close()
    assert tables(database) == set()
    Datastore.open(new_config, clock).close()


# -- opened beside a server


def test_a_database_is_opened_beside_its_server_as_it_is(new_config, clock):
    with (
        closing(Datastore.open(new_config, clock)) as server,
        closing(Datastore.open_beside(new_config, clock)) as beside,
    ):
        lease = server.lease("group").take("server", None)
        assert beside.lease("group").lease() == lease


def test_beside_a_server_nothing_is_migrated(new_config, clock, database):
    with database.write_connection() as connection:
        connection.exec_driver_sql("CREATE TABLE unrelated (number INTEGER)")
    with pytest.raises(FailedPrecondition, match="has not the tables of this version: start the server"):
        Datastore.open_beside(new_config, clock)
    assert tables(database) == {"unrelated"}


def test_a_database_that_a_newer_server_has_migrated_is_refused_beside_it_too(new_config, clock, database):
    Datastore.open(new_config, clock).close()
    set_version(database, "9999")
    with pytest.raises(FailedPrecondition, match='was migrated by a newer Steeple, to schema "9999"'):
        Datastore.open_beside(new_config, clock)


def test_a_database_file_that_is_not_there_is_not_made(tmp_path, clock):
    path = tmp_path / "none.sqlite3"
    with pytest.raises(FailedPrecondition, match=r"there is no database .*: no server has run with this configuration"):
        Datastore.open_beside(sqlite_config(path), clock)
    assert list(tmp_path.iterdir()) == []
