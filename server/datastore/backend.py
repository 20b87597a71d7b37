"""What a database is to the datastore: how one connects to it, and what its errors mean.

Everything else is the same SQL everywhere.  A backend opens DBAPI connections itself, so that no password is in
an engine's URL, and sorts its driver's errors into a few kinds by code; the driver's own text, which may quote
stored values or the connection string, goes into no error of ours.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, Protocol

from server.datastore.config import DatabaseType, SqlConfig

PATIENCE: Final = 5.0
"""Seconds that a request waits for a lock or a connection."""


class Failure(Enum):
    """Why the database did not do it; the value says it to people."""

    LOCKED = "it is locked by another process or transaction; the request may be sent again"
    READ_ONLY = "it is read-only; look for a failed disk, a standby server, or the file's permissions"
    FULL = "its disk is full; make room"
    LOST = "it does not answer; check that it runs and can be reached"
    REFUSED = "it refused the login; check user, password and database name in connection_string"
    CROWDED = "it has no connection left; raise its limit or lower max_open_conns"
    DAMAGED = "its file is damaged or is no database; restore it from a backup"
    INVALID_VALUE = "a value cannot be stored"
    CONFLICT = "another transaction was first"
    OTHER = "it failed"


class Backend(Protocol):
    """One kind of database at one place.  Thread-safe."""

    dialect: str
    """SQLAlchemy's name of dialect and driver."""
    errors: type[Exception]
    """The root of the driver's errors."""
    placeholder: str
    """How the driver marks a parameter in a statement."""
    inline: bool
    """Whether a read of one row is so quick that an event loop may wait for it."""
    file: Path | None
    """The database's file, if it is one that its users lock themselves."""
    engine_options: Mapping[str, Any]
    """What SQLAlchemy's ``create_engine`` is told beside."""

    def connect(self, *, autocommit: bool = False, patience: float = PATIENCE) -> Any:  # noqa: ANN401  a DBAPI connection
        """Open a connection, on which a statement waits ``patience`` seconds for a lock, or a little longer."""

    def failure_of(self, error: BaseException) -> tuple[Failure, str]:
        """What an error of the driver means, and its code."""


def _sqlite(config: SqlConfig, connection_string: str) -> Backend:
    from server.datastore.sqlite import SqliteBackend  # noqa: PLC0415  a server loads one driver

    return SqliteBackend(config, connection_string)


def _postgres(config: SqlConfig, connection_string: str) -> Backend:
    from server.datastore.postgres import PostgresBackend  # noqa: PLC0415  a server loads one driver

    return PostgresBackend(config, connection_string)


def _mysql(config: SqlConfig, connection_string: str) -> Backend:
    from server.datastore.mysql import MySqlBackend  # noqa: PLC0415  a server loads one driver

    return MySqlBackend(config, connection_string)


BUILT_IN: Final[Mapping[DatabaseType, Callable[[SqlConfig, str], Backend]]] = {
    DatabaseType.SQLITE: _sqlite,
    DatabaseType.POSTGRES: _postgres,
    DatabaseType.MYSQL: _mysql,
}
"""Every kind of database.  A backend raises InvalidConfig for a connection string that it cannot read."""
