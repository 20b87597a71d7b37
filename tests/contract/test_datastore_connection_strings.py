"""SPIRE's configuration of a database, as it is written in the field, and what is said when it is wrong."""

import ssl
from datetime import timedelta
from pathlib import Path

import psycopg
import pymysql
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from server.datastore.config import DatabaseType, SqlConfig
from server.datastore.database import Database
from server.datastore.mysql import MySqlBackend
from server.datastore.postgres import PostgresBackend
from server.datastore.sqlite import SqliteBackend
from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.block import Block
from tests.support.certificates import ca, leaf

pytest_plugins = ["tests.support.database_fixtures"]


def config(kind, connection_string="x", **fields):
    return SqlConfig(database_type=DatabaseType(kind), connection_string=connection_string, **fields)


def sqlite_uri(text):
    return SqliteBackend(config("sqlite3"), text)._uri


def postgres(text, **fields):
    return PostgresBackend(config("postgres", **fields), text)._parameters


def mysql(text, **fields):
    return MySqlBackend(config("mysql", **fields), text)._arguments


def test_the_keys_are_spires():
    read = Block.parse(
        """
        database_type = "mysql"
        connection_string = "u:p@tcp(db:3306)/spire?parseTime=true"
        ro_connection_string = "u:p@tcp(replica:3306)/spire?parseTime=true"
        root_ca_path = "/ca.pem"
        client_cert_path = "/cert.pem"
        client_key_path = "/key.pem"
        max_open_conns = 50
        max_idle_conns = 10
        conn_max_lifetime = "5m"
        disable_migration = true
        """
    ).read(SqlConfig)
    assert read == SqlConfig(
        database_type=DatabaseType.MYSQL,
        connection_string="u:p@tcp(db:3306)/spire?parseTime=true",
        ro_connection_string="u:p@tcp(replica:3306)/spire?parseTime=true",
        root_ca_path=Path("/ca.pem"),
        client_cert_path=Path("/cert.pem"),
        client_key_path=Path("/key.pem"),
        max_open_conns=50,
        max_idle_conns=10,
        conn_max_lifetime=timedelta(minutes=5),
        disable_migration=True,
    )
    assert "u:p" not in repr(read)


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("./data/datastore.sqlite3", "file:./data/datastore.sqlite3"),
        ("/opt/spire/data.db", "file:/opt/spire/data.db"),
        ("file:data.db", "file:data.db"),
        ("file:/data.db?mode=ro", "file:/data.db?mode=ro"),
        ("file:///data.db", "file:///data.db"),
        ("file://localhost/data.db", "file://localhost/data.db"),
        ("data.db?_busy_timeout=1000&cache=shared&nolock=1", "file:data.db?nolock=1"),
        ("/with space/100%/#1.db", "file:/with%20space/100%25/%231.db"),
    ],
)
def test_a_file_is_named_by_path_or_uri(text, uri):
    assert sqlite_uri(text) == uri


@pytest.mark.parametrize("text", [":memory:", "file::memory:?cache=shared", "file:x?mode=memory", "", "?mode=ro"])
def test_a_database_in_memory_is_refused(text):
    with pytest.raises(InvalidConfig, match="connection_string: a database in memory would lose the registry"):
        sqlite_uri(text)


def test_a_file_is_no_url():
    with pytest.raises(InvalidConfig, match='unsupported scheme "mysql"'):
        sqlite_uri("mysql://data.db")


def test_a_file_has_no_replica():
    with pytest.raises(InvalidConfig, match="ro_connection_string: a SQLite database has no replica"):
        SqliteBackend(config("sqlite3", ro_connection_string="y"), "x")


@pytest.mark.parametrize(
    "text",
    [
        "dbname=spire user=steeple password='se cret' host=db port=5433 sslmode=verify-full",
        "postgresql://steeple:se%20cret@db:5433/spire?sslmode=verify-full",
        "postgres://steeple:se%20cret@db:5433/spire?sslmode=verify-full",
    ],
)
def test_postgres_is_named_by_words_or_url(text):
    wanted = {"dbname": "spire", "user": "steeple", "password": "se cret", "host": "db", "port": "5433"}
    assert postgres(text).items() >= {**wanted, "sslmode": "verify-full"}.items()


def test_postgres_needs_tls_and_has_an_end_of_waiting_unless_it_is_said(monkeypatch):
    monkeypatch.delenv("PGSSLMODE", raising=False)
    implied = {"sslmode": "require", "connect_timeout": "10", "tcp_user_timeout": "30000", "client_encoding": "UTF8"}
    assert postgres("dbname=x").items() >= implied.items()
    assert (
        postgres("dbname=x sslmode=disable connect_timeout=3").items()
        >= {
            "sslmode": "disable",
            "connect_timeout": "3",
        }.items()
    )
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert "sslmode" not in postgres("dbname=x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dbname=x search_path=y", 'option "search_path" is unknown'),
        ("postgres://u:secret@h/x?search_path=y", 'option "search_path" is unknown'),
        ("dbname=x password=se secret host=y", 'give "dbname=... user=... host=..." or a URL'),
        ("postgres://u:secret@[h/x", 'give "dbname=... user=... host=..." or a URL'),
    ],
)
def test_a_wrong_connection_string_of_postgres_is_not_repeated(text, said):
    with pytest.raises(InvalidConfig, match="no PostgreSQL connection string") as caught:
        postgres(text)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "spire:se:c@r/e(t@tcp(db:3307)/spire?parseTime=true",
            {"user": "spire", "password": b"se:c@r/e(t", "host": "db", "port": 3307, "database": "spire"},
        ),
        ("me@cloud:pw@tcp(db)/spire", {"user": "me@cloud", "password": b"pw", "host": "db", "port": 3306}),
        ("u@tcp([::1]:3306)/x", {"user": "u", "password": b"", "host": "::1", "port": 3306}),
        ("u@tcp([fe80::1])/x", {"host": "fe80::1", "port": 3306}),
        ("u:p@unix(/run/mysqld/mysqld.sock)/x", {"unix_socket": "/run/mysqld/mysqld.sock", "database": "x"}),
        ("u:p@/x", {"host": "127.0.0.1", "port": 3306}),
        ("tcp/x%2Fy", {"host": "127.0.0.1", "user": None, "database": "x/y"}),
        ("u:p\u00e9\u4e00@/x", {"password": "p\u00e9\u4e00".encode()}),
        ("u@/x?timeout=3s&readTimeout=1m30s&writeTimeout=500ms", {"connect_timeout": 3.0, "read_timeout": 90.0}),
        ("u@/x?charset=utf8mb4&loc=Local&collation=utf8mb4_bin", {"read_timeout": 60.0, "write_timeout": 60.0}),
    ],
)
def test_mysql_is_named_as_go_does(text, wanted):
    assert mysql(text).items() >= wanted.items()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("u:secret", "no MySQL connection string"),
        ("mysql://u:secret@db:3306/x", "no MySQL connection string"),
        ("u:secret@udp(db)/x", 'network "udp" is unknown'),
        ("u:secret@tcp(db:port)/x", "the port is no number"),
        ("u:secret@tcp(db)/x?sql_mode=ANSI", 'parameter "sql_mode" is unknown'),
        ("u:secret@tcp(db)/x?timeout=3", "connection_string: timeout: time: "),
        ("u:secret@tcp(db)/x?tls=maybe", 'tls is "maybe"'),
    ],
)
def test_a_wrong_connection_string_of_mysql_is_not_repeated(text, said):
    with pytest.raises(InvalidConfig) as caught:
        mysql(text)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.fixture
def pems(tmp_path):
    authority = ca()
    client = leaf(authority)
    paths = {name: tmp_path / f"{name}.pem" for name in ("root_ca", "client_cert", "client_key")}
    paths["root_ca"].write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    paths["client_cert"].write_bytes(client.certificate.public_bytes(Encoding.PEM))
    key = client.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    paths["client_key"].write_bytes(key)
    return {f"{name}_path": path for name, path in paths.items()}


def test_mysql_is_verified_by_the_configured_authorities(pems):
    context = mysql("u:p@tcp(db)/x", root_ca_path=pems["root_ca_path"])["ssl"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
    assert mysql("u:p@tcp(db)/x?tls=skip-verify", **pems)["ssl"].verify_mode is ssl.CERT_REQUIRED


def test_mysql_is_verified_unless_it_is_said_not_to_be():
    assert "ssl" not in mysql("u:p@tcp(db)/x")
    assert "ssl" not in mysql("u:p@tcp(db)/x?tls=false")
    assert mysql("u:p@tcp(db)/x?tls=true")["ssl"].check_hostname
    assert mysql("u:p@tcp(db)/x?tls=skip-verify")["ssl"].verify_mode is ssl.CERT_NONE


def test_certificate_files_that_cannot_be_used_are_named(pems, tmp_path):
    junk = tmp_path / "junk"
    junk.write_text("junk")
    for path in (junk, tmp_path / "missing"):
        with pytest.raises(InvalidConfig, match=f"root_ca_path: cannot read CA certificates from {path}"):
            mysql("u:p@tcp(db)/x", root_ca_path=path)
        with pytest.raises(InvalidConfig, match="client_cert_path and client_key_path: cannot be used"):
            mysql("u:p@tcp(db)/x", **{**pems, "client_key_path": path})


def test_postgres_takes_its_certificates_in_the_connection_string():
    with pytest.raises(InvalidConfig, match="put sslrootcert, sslcert and sslkey in connection_string"):
        postgres("dbname=x", root_ca_path=Path("/ca.pem"))


@pytest.mark.parametrize(
    ("limits", "size", "overflow"),
    [
        ({}, 100, 0),
        ({"max_open_conns": 20, "max_idle_conns": 5}, 5, 15),
        ({"max_open_conns": 3}, 3, 0),
        ({"max_open_conns": 0, "max_idle_conns": 4}, 4, -1),
        ({"max_idle_conns": 0}, 1, 99),
    ],
)
def test_the_pool_has_the_configured_size(limits, size, overflow, clock):
    pool = Database(config("sqlite3", "x", **limits), clock)._engine.pool
    assert (pool.size(), pool._max_overflow) == (size, overflow)
    assert pool._recycle == -1


def test_a_connection_lives_as_long_as_is_configured(clock):
    limited = config("sqlite3", "x", conn_max_lifetime=timedelta(minutes=2))
    assert Database(limited, clock)._engine.pool._recycle == 120


@pytest.mark.parametrize(
    ("kind", "text", "driver"),
    [
        ("postgres", "dbname=x password=secret", psycopg),
        ("mysql", "u:secret@tcp(db)/x", pymysql),
    ],
)
def test_no_password_is_in_what_an_engine_shows(kind, text, driver, clock):
    database = Database(config(kind, text), clock)
    shown = [repr(database._engine), str(database._engine.url), repr(database.backend), repr(config(kind, text))]
    assert driver.__name__
    assert all("secret" not in one for one in shown)
