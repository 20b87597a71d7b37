"""What goes wrong with databases: each failure has its own text, nothing is half written, and work goes on after."""

import gc
import signal
import sqlite3
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pymysql
import pytest
import sqlalchemy as sa

from server.datastore.database import Database
from server.datastore.standings import WouldWait
from server.datastore.store import Datastore
from server.datastore.tables import BUNDLES
from spiffe_core.bundle import Bundle
from spiffe_core.errors import DatastoreUnavailable, InvalidInput
from tests.support.databases import sqlite_config
from tests.support.registry import TD, agent, entry, jwt_authority

pytest_plugins = ["tests.support.database_fixtures"]

SQLITE = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
POSTGRES = pytest.mark.parametrize("kind", [pytest.param("postgres", marks=pytest.mark.postgresql)], indirect=True)
MARIADB = pytest.mark.parametrize("kind", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)
SERVERS = pytest.mark.parametrize(
    "kind",
    [
        pytest.param("postgres", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
    indirect=True,
)
# PyMySQL leaves the socket of a connection that failed to the garbage collector: ``collected`` calls it in time.
LEAKS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected():
    yield
    gc.collect()


@pytest.fixture
def server(kind, request):
    return request.getfixturevalue(f"{kind}_server")


@pytest.fixture
def hasty(config, clock, datastore):
    """The same database, for which requests wait a fifth of a second, or a second where that is the least."""
    opened = Datastore(Database(config, clock, patience=0.2))
    yield opened
    opened.close()


def test_a_row_that_another_transaction_holds_is_locked(datastore, hasty):
    datastore.bundles.create(Bundle(TD))
    with datastore._database._begun() as connection:
        connection.execute(sa.update(BUNDLES).values(document=BUNDLES.c.document))
        with pytest.raises(DatastoreUnavailable, match="it is locked by another process or transaction"):
            hasty.bundles.append(TD, [], [jwt_authority("x")])
    assert hasty.bundles.append(TD, [], [jwt_authority("x")]).sequence_number == 1


@SQLITE
def test_a_transaction_of_this_process_that_does_not_end_locks_the_database_too(hasty):
    with hasty._database._begun(), ThreadPoolExecutor(1) as threads:
        writing = threads.submit(hasty.bundles.create, Bundle(TD))
        with pytest.raises(DatastoreUnavailable, match="it is locked"):
            writing.result()
    assert hasty.bundles.create(Bundle(TD))


def test_readers_do_not_wait_for_a_writer(datastore, other):
    one = datastore.agents.create_or_replace(agent())
    with datastore._database._begun() as connection:
        connection.execute(sa.update(BUNDLES).values(document=BUNDLES.c.document))
        assert other.agents.get(one.id) == one
        assert other.standings.read(one.id).cert_serial == "1"
        if other.standings.inline:
            assert other.standings.peek(one.id).cert_serial == "1"


@SQLITE
def test_a_glance_at_a_standing_never_waits(config, datastore):
    one = datastore.agents.create_or_replace(agent())
    assert datastore.standings.peek(one.id)
    datastore._database.close()
    datastore.standings._drop_idle()
    locker = sqlite3.connect(config.connection_string, isolation_level=None)
    locker.execute("PRAGMA locking_mode = EXCLUSIVE")
    locker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(WouldWait):
        datastore.standings.peek(one.id)
    locker.close()
    assert datastore.standings.peek(one.id)


def test_when_every_connection_is_in_use_the_text_says_so(config, clock, datastore):
    few = Datastore(Database(replace(config, max_open_conns=1), clock, patience=0.2))
    with few._database.read(), pytest.raises(DatastoreUnavailable, match="every database connection is in use"):
        few.ping()
    few.ping()
    few.close()


@contextmanager
def read_only(kind, server, config):
    """Make the database read-only: its file, itself, or its server."""
    if kind == "sqlite":
        yield replace(config, connection_string=f"file:{config.connection_string}?mode=ro")
        return
    name = config.connection_string.partition("dbname=")[2].partition(" ")[0]
    switch = {
        "postgres": f"ALTER DATABASE {name} SET default_transaction_read_only = %s",
        "mariadb": "SET GLOBAL read_only = %s",
    }[kind]
    server.run(switch % "on")
    try:
        yield config
    finally:
        server.run(switch % "off")


def test_a_read_only_database_is_read_and_a_write_says_why_not(request, config, clock, kind, datastore):
    one = datastore.agents.create_or_replace(agent())
    server = None if kind == "sqlite" else request.getfixturevalue(f"{kind}_server")
    with read_only(kind, server, config) as frozen_config:
        frozen = Datastore.open(frozen_config, clock)
        for act in (lambda: frozen.agents.ban(one.id), lambda: frozen.entries.create_batch([entry()])):
            with pytest.raises(DatastoreUnavailable, match="it is read-only"):
                act()
        assert frozen.agents.get(one.id) == one
        assert frozen.standings.read(one.id).cert_serial == "1"
        assert not frozen.changes.changes_since(frozen.changes.start())
        frozen.close()
    datastore.agents.ban(one.id)


@SQLITE
def test_a_full_disk_is_told_and_leaves_whole_batches_only(config, clock):
    full = Datastore(Database(replace(config, max_open_conns=1), clock))
    with full._database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 100}")
    batches = ([entry(f"/w{batch}/{number}") for number in range(100)] for batch in range(100))
    acknowledged = []
    with pytest.raises(DatastoreUnavailable, match="its disk is full"):
        acknowledged.extend(map(full.entries.create_batch, batches))
    made = full.entries.count()
    assert made == 100 * len(acknowledged) > 0
    with full._database.read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    full.entries.create_batch([entry("/one-more")])
    assert full.entries.count() == made + 1
    full.close()


def test_a_file_that_is_no_database_is_told_from_one_that_is_away(tmp_path, clock):
    (tmp_path / "junk").write_bytes(b"this is no database, and long enough to see it" * 100)
    with pytest.raises(DatastoreUnavailable, match="its file is damaged or is no database"):
        Datastore.open(sqlite_config(tmp_path / "junk"), clock)
    with pytest.raises(DatastoreUnavailable, match="it does not answer"):
        Datastore.open(sqlite_config(tmp_path / "no" / "folder"), clock)


@SERVERS
def test_a_refused_login_is_told_without_the_password(config, clock):
    wrong = replace(config, connection_string=config.connection_string.replace("-password", "-wrong"))
    with pytest.raises(DatastoreUnavailable, match="it refused the login; check user, password") as caught:
        Datastore.open(wrong, clock)
    assert "-wrong" not in "".join(traceback.format_exception(caught.value))
    assert "-wrong" not in repr(wrong)
    assert "-password" not in repr(config)


@SERVERS
def test_an_unknown_database_is_told(config, clock):
    name = config.connection_string.replace("steeple_", "unknown_")
    with pytest.raises(DatastoreUnavailable, match="it refused the login"):
        Datastore.open(replace(config, connection_string=name), clock)


@SERVERS
def test_a_value_that_cannot_be_stored_is_the_callers_fault(datastore):
    with pytest.raises(InvalidInput, match="a value cannot be stored"):
        datastore.agents.create_or_replace(agent(attestation_type="x" * 300))
    assert datastore.agents.count() == 0


def cut_connections(kind, server):
    """End every session of ours, as a server does that is restarted or a firewall that forgets."""
    if kind == "postgres":
        server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'steeple'")
        return
    connection = pymysql.connect(unix_socket=str(server._socket), user="root", autocommit=True)
    cursor = connection.cursor()
    cursor.execute("SELECT id FROM information_schema.processlist WHERE user = 'steeple'")
    for (number,) in cursor.fetchall():
        cursor.execute(f"KILL {number}")
    connection.close()


@SERVERS
def test_a_connection_that_was_cut_while_idle_is_not_noticed(kind, server, datastore):
    one = datastore.agents.create_or_replace(agent())
    feed = datastore.changes.start()
    for _ in range(3):
        assert datastore.standings.read(one.id)
        cut_connections(kind, server)
        assert datastore.standings.read(one.id).cert_serial == "1"
        assert datastore.agents.get(one.id)
        cut_connections(kind, server)
        datastore.agents.set_version(one.id, "1")
        assert datastore.changes.changes_since(feed)


@SERVERS
def test_a_connection_that_is_cut_during_a_transaction_undoes_it(kind, server, datastore):
    def work(write):
        write.connection.execute(sa.insert(BUNDLES), {"trust_domain": "half", "document": "{}"})
        cut_connections(kind, server)
        write.connection.execute(sa.insert(BUNDLES), {"trust_domain": "whole", "document": "{}"})

    with pytest.raises(DatastoreUnavailable, match="it does not answer"):
        datastore._database.write(work)
    assert datastore.bundles.count() == 0


@SERVERS
def test_a_connection_that_is_cut_at_the_commit_leaves_it_open_what_happened(kind, server, datastore):
    def work(write):
        write.connection.execute(sa.insert(BUNDLES), {"trust_domain": "half", "document": "{}"})
        cut_connections(kind, server)

    with pytest.raises(DatastoreUnavailable, match="whether the change was made is not known"):
        datastore._database.write(work)
    assert datastore.bundles.count() == 0


@LEAKS
@SERVERS
def test_work_goes_on_by_itself_when_a_stopped_server_is_back(kind, server, datastore):
    one = datastore.agents.create_or_replace(agent())
    datastore.standings.read(one.id)
    cursor = datastore.changes.start()
    server.stop(signal.SIGINT if kind == "postgres" else signal.SIGTERM)
    try:
        for act in (
            datastore.ping,
            lambda: datastore.agents.get(one.id),
            lambda: datastore.agents.ban(one.id),
            lambda: datastore.standings.read(one.id),
            lambda: datastore.changes.changes_since(cursor),
            lambda: datastore.lease("g").take("s", None),
            datastore.snapshots.take().__enter__,
        ):
            with pytest.raises(DatastoreUnavailable, match="it does not answer"):
                act()
    finally:
        server.start()
    datastore.ping()
    assert datastore.standings.read(one.id).cert_serial == "1"
    assert not datastore.changes.changes_since(cursor)
    datastore.agents.ban(one.id)
    assert datastore.changes.changes_since(cursor).agents == {one.id}


@LEAKS
@POSTGRES
def test_what_a_crashing_server_acknowledged_is_there_when_it_is_back(server, datastore):
    stop, made = threading.Event(), []

    def create():
        while not stop.is_set():
            try:
                datastore.entries.create_batch([entry(f"/w{len(made)}")])
            except DatastoreUnavailable:
                return
            made.append(f"/w{len(made)}")

    with ThreadPoolExecutor(1) as threads:
        creating = threads.submit(create)
        while len(made) < 20:
            pass
        server.stop(signal.SIGQUIT)
        stop.set()
        creating.result()
    server.start()
    stored = [one.spiffe_id.path for one in datastore.entries.list().items]
    assert stored[: len(made)] == made
    assert len(stored) <= len(made) + 1  # one may have been committed without an answer


def test_writers_that_overlap_in_many_rows_all_succeed_in_the_end(datastore, other):
    with ThreadPoolExecutor(4) as threads:
        batches = [[entry(f"/w{number * 5 % 7}") for number in range(shift, shift + 7)] for shift in range(8)]
        list(threads.map(lambda store, batch: store.entries.create_batch(batch), [datastore, other] * 4, batches))
        changed = [datastore.entries.list().items, datastore.entries.list().items[::-1]] * 4
        updates = [[(one, ["hint"]) for one in entries] for entries in changed]
        list(threads.map(lambda store, batch: store.entries.update_batch(batch), [datastore, other] * 4, updates))
    assert [one.revision_number for one in datastore.entries.list().items] == [8] * 7


def test_a_closed_datastore_answers_no_more_and_leaves_no_connection(config, clock):
    datastore = Datastore.open(config, clock)
    datastore.ping()
    datastore.standings.read(agent().id)
    datastore.changes.changes_since(datastore.changes.start())
    datastore.close()
    assert datastore._database._engine.pool.checkedin() == 0
    assert not any(datastore.standings._idle.values())
