"""SQLite: one file, several threads and processes.

The file is in WAL mode, so readers never wait for the writer, and ``synchronous`` is FULL, so a commit that
returned survives a power cut.  Every writing transaction begins with BEGIN IMMEDIATE: it waits for the lock at
its beginning or not at all.
"""

import re
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from server.datastore.backend import PATIENCE, Failure
from server.datastore.config import SqlConfig
from spiffe_core.errors import InvalidConfig

_FAILURES: Final = {
    sqlite3.SQLITE_BUSY: Failure.LOCKED,
    sqlite3.SQLITE_LOCKED: Failure.LOCKED,
    sqlite3.SQLITE_READONLY: Failure.READ_ONLY,
    sqlite3.SQLITE_FULL: Failure.FULL,
    sqlite3.SQLITE_CANTOPEN: Failure.LOST,
    sqlite3.SQLITE_IOERR: Failure.LOST,
    sqlite3.SQLITE_CORRUPT: Failure.DAMAGED,
    sqlite3.SQLITE_NOTADB: Failure.DAMAGED,
    sqlite3.SQLITE_CONSTRAINT: Failure.CONFLICT,
    sqlite3.SQLITE_TOOBIG: Failure.INVALID_VALUE,
    sqlite3.SQLITE_MISMATCH: Failure.INVALID_VALUE,
}
_CHECKPOINT_PAGES: Final = 4000  # 16 MiB of log: a page that many commits change is copied back once
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PAUSE: Final = 0.02
_PRIMARY: Final = 0xFF  # an extended code's low byte is the primary code


class SqliteBackend:
    """A database file."""

    dialect = "sqlite+pysqlite"
    errors: type[Exception] = sqlite3.Error
    placeholder = "?"
    inline = True
    engine_options: Mapping[str, Any] = {}

    def __init__(self, config: SqlConfig, connection_string: str) -> None:
        if config.ro_connection_string:
            raise InvalidConfig("ro_connection_string: a SQLite database has no replica")
        self._uri = _uri(connection_string)
        self.file: Path | None = Path(unquote(self._uri.removeprefix("file:").partition("?")[0]))

    def connect(self, *, autocommit: bool = False, patience: float = PATIENCE) -> sqlite3.Connection:
        """Open the file, which is made if it is not there; transactions are begun by statements, never implicitly."""
        del autocommit
        connection = sqlite3.connect(
            self._uri, uri=True, timeout=patience, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            _use_wal(connection, patience)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def failure_of(self, error: BaseException) -> tuple[Failure, str]:
        """Sort by SQLite's primary result code."""
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # the module's own errors, such as a connection that was closed
            return Failure.OTHER, type(error).__name__
        return _FAILURES.get(code & _PRIMARY, Failure.OTHER), getattr(error, "sqlite_errorname", str(code))


def _use_wal(connection: sqlite3.Connection, patience: float) -> None:
    """Put the file in WAL mode, where it then stays."""
    # Two processes that meet here on a new file get SQLITE_BUSY at once: SQLite does not wait in this statement.
    give_up = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & _PRIMARY != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _uri(connection_string: str) -> str:
    """The file: URI of a path or URI; the options of SPIRE's own driver, which begin with "_", are left out."""
    name, _, query = connection_string.partition("?")
    scheme = _SCHEME.match(name)
    if scheme and scheme[1] != "file":
        raise InvalidConfig(f'connection_string: unsupported scheme "{scheme[1]}": give a path or a file: URI')
    uri = name if scheme else f"file:{quote(name)}"
    options = {k: v for k, v in parse_qsl(query) if not k.startswith("_") and k != "cache"}
    if unquote(uri) in {"file:", "file::memory:"} or options.get("mode") == "memory":
        raise InvalidConfig("connection_string: a database in memory would lose the registry; name a file")
    return f"{uri}?{urlencode(options)}".removesuffix("?")
