"""PostgreSQL, through psycopg 3.

The connection string goes to libpq as it is, in either of its forms.  What is not said there: TLS is required,
as SPIRE's driver does (a Unix socket needs none), and waiting has an end, for the connection, for a lock and
for a peer that went away.  A transaction that its server forgot, because the process was stopped in the midst
of it, is ended by the database, so that its locks do not stay.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from server.datastore.backend import PATIENCE, Failure
from server.datastore.config import SqlConfig
from spiffe_core.errors import InvalidConfig

_DEFAULTS: Final = {"connect_timeout": "10", "tcp_user_timeout": "30000", "application_name": "steeple"}
_SESSION: Final = (
    "SELECT set_config('lock_timeout', %s, false), set_config('idle_in_transaction_session_timeout', '30s', false)"
)
_FAILURES: Final = {
    "25006": Failure.READ_ONLY,
    "53100": Failure.FULL,
    "53300": Failure.CROWDED,
    "55P03": Failure.LOCKED,
    "57014": Failure.LOCKED,
    "40001": Failure.CONFLICT,
    "40P01": Failure.CONFLICT,
    "3D000": Failure.REFUSED,
}
_CLASSES: Final = {
    "08": Failure.LOST,
    "22": Failure.INVALID_VALUE,
    "23": Failure.CONFLICT,
    "25": Failure.LOST,  # 25P03: the database ended a transaction that stood idle
    "28": Failure.REFUSED,
    "54": Failure.INVALID_VALUE,
    "57": Failure.LOST,
    "XX": Failure.DAMAGED,
}
# What a login was refused with is known only by the server's text, in English here and in most places.
_REFUSED: Final = re.compile(r"authentication failed|pg_hba\.conf|does not exist|no password supplied")
_CROWDED: Final = re.compile(r"too many clients|remaining connection slots|too many connections")


class PostgresBackend:
    """A PostgreSQL database."""

    dialect = "postgresql+psycopg"
    errors: type[Exception] = psycopg.Error
    placeholder = "%s"
    inline = False
    file: Path | None = None
    engine_options: Mapping[str, Any] = {"isolation_level": "READ COMMITTED", "pool_pre_ping": True}

    def __init__(self, config: SqlConfig, connection_string: str) -> None:
        if config.root_ca_path or config.client_cert_path or config.client_key_path:
            raise InvalidConfig(
                "root_ca_path, client_cert_path and client_key_path are for mysql; "
                "for postgres put sslrootcert, sslcert and sslkey in connection_string"
            )
        self._parameters = _parameters(connection_string)

    def connect(self, *, autocommit: bool = False, patience: float = PATIENCE) -> psycopg.Connection[Any]:
        """Open a connection, on which a statement waits ``patience`` seconds for a lock."""
        connection = psycopg.connect("", autocommit=True, **self._parameters)
        try:
            connection.execute(_SESSION, [f"{max(int(patience * 1000), 1)}ms"])
            connection.autocommit = autocommit
        except BaseException:
            connection.close()
            raise
        return connection

    def failure_of(self, error: BaseException) -> tuple[Failure, str]:
        """Sort by SQLSTATE, and a failed connection, which has none, by the server's text."""
        state = getattr(error, "sqlstate", None)
        if state:
            return _FAILURES.get(state) or _CLASSES.get(state[:2], Failure.OTHER), f"SQLSTATE {state}"
        if isinstance(error, psycopg.DataError):  # a value that the driver would not send
            return Failure.INVALID_VALUE, type(error).__name__
        text = str(error)
        if _REFUSED.search(text):
            return Failure.REFUSED, type(error).__name__
        if _CROWDED.search(text):
            return Failure.CROWDED, type(error).__name__
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return Failure.LOST, type(error).__name__
        return Failure.OTHER, type(error).__name__


def _parameters(connection_string: str) -> dict[str, Any]:
    try:
        given = conninfo_to_dict(connection_string)
    except psycopg.ProgrammingError as exc:
        # libpq's text may quote a piece of the password; only the name of an option is passed on.
        option = re.match(r'invalid (?:connection option|URI query parameter):? "(\w+)"', str(exc))
        detail = f'option "{option[1]}" is unknown' if option else 'give "dbname=... user=... host=..." or a URL'
        raise InvalidConfig(f"connection_string: no PostgreSQL connection string: {detail}") from None
    implied = {} if "PGSSLMODE" in os.environ else {"sslmode": "require"}
    return {**_DEFAULTS, **implied, **given, "client_encoding": "UTF8"}
