"""Real database servers for tests, each in a folder of its own, on a Unix socket, as a user without privileges.

A server is started once and serves many databases.  Where its program is missing, its tests are skipped, but in
continuous integration they fail.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Final

import psycopg
import pymysql
import pytest
import sqlalchemy as sa

from server.datastore.config import DatabaseType, SqlConfig
from server.datastore.database import Database
from server.datastore.tables import CHANGES, METADATA
from tests.support.clock import FakeClock

_START_SECONDS: Final = 30.0
_POSTGRES_FOLDERS: Final = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def program(name: str, folders: Sequence[Path] = (Path("/usr/sbin"),)) -> str:
    """Path of a program that must be installed; without it the test is skipped, or fails where CI is set."""
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")]))
    if found:
        return found
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed")
    pytest.skip(f"{name} is not installed")


class DatabaseServer(ABC):
    """A server process; it can be stopped and started again with its data."""

    def __init__(self, user: str) -> None:
        # Database servers refuse to run as root.
        self._user = user if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="steeple-db-"))  # short: a socket's path has 107 bytes
        if self._user:
            account = pwd.getpwnam(self._user)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        log = (self.folder / "log").open("ab")
        with log:
            self._process = self._popen(self._command(), log=log)
        give_up = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise AssertionError((self.folder / "log").read_text())
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the server and wait for its end."""
        if self._process:
            self._process.send_signal(how)
            self._process.wait(_START_SECONDS)
            self._process = None

    def close(self) -> None:
        """Stop the server and delete its data."""
        self.stop(self.ends_at_once)
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_config(self) -> SqlConfig:
        """The configuration for a database that is new and empty."""
        name = f"steeple_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        return self.config(name)

    ends_at_once: signal.Signals
    """The signal for a quick end, clients or no clients."""

    @abstractmethod
    def config(self, name: str) -> SqlConfig:
        """The configuration for the database of that name."""

    @abstractmethod
    def run(self, *statements: str) -> None:
        """Run statements as the database's administrator."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def _popen(self, command: list[str], log: "int | object" = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,  # type: ignore[arg-type]
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self.folder)},
        )

    def _prepare(self, command: list[str]) -> None:
        log_file = self.folder / "log"
        with log_file.open("ab") as log:
            if self._popen(command, log=log).wait(_START_SECONDS):
                raise AssertionError(log_file.read_text())


class PostgresServer(DatabaseServer):
    """PostgreSQL; its administrator needs no password, the role ``steeple`` does."""

    ends_at_once = signal.SIGINT

    def __init__(self) -> None:
        self._program = program("postgres", _POSTGRES_FOLDERS)
        initdb = program("initdb", _POSTGRES_FOLDERS)
        super().__init__("postgres")
        data = str(self.folder / "data")
        self._prepare([initdb, "-D", data, "-U", "admin", "--auth=trust", "-E", "UTF8", "--no-sync"])
        (self.folder / "data" / "pg_hba.conf").write_text("local all admin trust\nlocal all all scram-sha-256\n")
        self.start()
        self.run("CREATE ROLE steeple LOGIN PASSWORD 'pg-password' CREATEDB")

    def config(self, name: str) -> SqlConfig:
        return SqlConfig(
            database_type=DatabaseType.POSTGRES,
            connection_string=f"dbname={name} user=steeple password=pg-password host={self.folder}",
            max_open_conns=20,
        )

    def new_config(self) -> SqlConfig:
        config = super().new_config()
        name = config.connection_string.partition(" ")[0].removeprefix("dbname=")
        self.run(f"ALTER DATABASE {name} OWNER TO steeple")
        return config

    def run(self, *statements: str) -> None:
        with psycopg.connect(f"dbname=postgres user=admin host={self.folder}", autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def _command(self) -> list[str]:
        # Nothing here must outlive the machine: a killed client loses no commit without fsync either.
        options = {"fsync": "off", "listen_addresses": "", "max_connections": "60", "shared_buffers": "16MB"}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [self._program, "-D", str(self.folder / "data"), "-k", str(self.folder), *settings]

    def _answers(self) -> bool:
        try:
            self.run("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


class MariaDbServer(DatabaseServer):
    """MariaDB; its root needs no password, the user ``steeple`` does."""

    ends_at_once = signal.SIGTERM

    def __init__(self) -> None:
        self._program = program("mariadbd")
        install = program("mariadb-install-db")
        super().__init__("mysql")
        self._socket = self.folder / "socket"
        self._prepare(
            [
                install,
                "--no-defaults",
                f"--datadir={self.folder / 'data'}",
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
            ]
        )
        self.start()
        self.run("CREATE USER steeple@localhost IDENTIFIED BY 'my-password'")

    def config(self, name: str) -> SqlConfig:
        return SqlConfig(
            database_type=DatabaseType.MYSQL,
            connection_string=f"steeple:my-password@unix({self._socket})/{name}?parseTime=true",
            max_open_conns=20,
        )

    def new_config(self) -> SqlConfig:
        config = super().new_config()
        name = config.connection_string.rpartition("/")[2].partition("?")[0]
        self.run(f"GRANT ALL ON {name}.* TO steeple@localhost")
        return config

    def run(self, *statements: str) -> None:
        connection = pymysql.connect(unix_socket=str(self._socket), user="root", autocommit=True)
        try:
            for statement in statements:
                connection.cursor().execute(statement)
        finally:
            connection.close()

    def _command(self) -> list[str]:
        return [
            self._program,
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            f"--socket={self._socket}",
            "--skip-networking",
            "--skip-log-bin",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=16M",
            "--innodb-flush-log-at-trx-commit=2",  # a killed client loses no commit with it
        ]

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:  # PyMySQL leaks a socket on which nobody listens
            if probe.connect_ex(str(self._socket)):
                return False
        try:
            self.run("SELECT 1")
        except pymysql.err.OperationalError:
            return False
        return True


def sqlite_config(path: Path) -> SqlConfig:
    """The configuration for a database file."""
    return SqlConfig(database_type=DatabaseType.SQLITE, connection_string=str(path), max_open_conns=20)


def empty(config: SqlConfig, clock: FakeClock) -> None:
    """Delete what earlier tests left in a migrated database."""
    database = Database(config, clock)
    try:
        with database.write_connection() as connection:
            for table in reversed(METADATA.sorted_tables):
                connection.execute(sa.delete(table))
            connection.execute(sa.insert(CHANGES), {"at": database.now(), "what": "{}"})
    finally:
        database.close()


ServerFactory = Callable[[], DatabaseServer]
SERVERS: Final[dict[str, ServerFactory]] = {"postgres": PostgresServer, "mariadb": MariaDbServer}
