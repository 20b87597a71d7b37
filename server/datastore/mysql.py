"""MySQL and MariaDB, through PyMySQL.

The connection string is the one of SPIRE's driver, ``user:password@tcp(host:3306)/database?parameter=value``.
Sessions are strict about values, whatever the server's default, and never wait long for a lock.
"""

import re
import ssl
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import pymysql
from pymysql.constants import CLIENT

from server.datastore.backend import PATIENCE, Failure
from server.datastore.config import SqlConfig
from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.durations import parse_duration

_DSN: Final = re.compile(
    r"(?:(?P<user>[^:]*?)(?::(?P<password>.*))?@)?"
    r"(?:(?P<net>\w+)(?:\((?P<address>[^()]*)\))?)?"
    r"/(?P<database>[^/?]*)(?:\?(?P<parameters>[^/]*))?",
    re.DOTALL,
)
_PORT: Final = 3306
_READ_TIMEOUT: Final = 60.0
_SQL_MODE: Final = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"
# MariaDB alone reads the comment: it ends a transaction that its server forgot, so that its locks do not stay.
_SESSION: Final = (
    "SET SESSION innodb_lock_wait_timeout = {seconds} /*M!100300 , SESSION idle_transaction_timeout = 30 */"
)
_KNOWN: Final = re.compile(
    "tls|timeout|readTimeout|writeTimeout|"
    # These have no meaning for our driver, or the datastore sets them itself.
    "parseTime|loc|charset|collation|allowNativePasswords|allowCleartextPasswords|allowOldPasswords|"
    "allowFallbackToPlaintext|allowAllFiles|checkConnLiveness|clientFoundRows|columnsWithAlias|interpolateParams|"
    "maxAllowedPacket|multiStatements|rejectReadOnly|timeTruncate|compress|connectionAttributes"
)
"""The parameters of SPIRE's driver."""
_FAILURES: Final = {
    1020: Failure.CONFLICT,  # record changed since it was read
    1021: Failure.FULL,
    1022: Failure.CONFLICT,
    1036: Failure.READ_ONLY,
    1040: Failure.CROWDED,
    1044: Failure.REFUSED,
    1045: Failure.REFUSED,
    1049: Failure.REFUSED,
    1062: Failure.CONFLICT,
    1114: Failure.FULL,
    1205: Failure.LOCKED,
    1213: Failure.CONFLICT,
    1226: Failure.CROWDED,
    1264: Failure.INVALID_VALUE,
    1290: Failure.READ_ONLY,
    1366: Failure.INVALID_VALUE,
    1406: Failure.INVALID_VALUE,
    1451: Failure.CONFLICT,
    1452: Failure.CONFLICT,
    1698: Failure.REFUSED,
    1792: Failure.READ_ONLY,
    1836: Failure.READ_ONLY,
    4161: Failure.LOST,  # MariaDB ended a transaction that stood idle
}
_CLIENT_ERRORS: Final = range(2000, 3000)
_GOING_AWAY: Final = frozenset({0, 1053, 1077, 1079, 1152, 1153, 1158, 1159, 1160, 1161, 1184, 1927, 1928})


class MySqlBackend:
    """A MySQL or MariaDB database."""

    dialect = "mysql+pymysql"
    errors: type[Exception] = pymysql.err.Error
    placeholder = "%s"
    inline = False
    file: Path | None = None
    engine_options: Mapping[str, Any] = {"isolation_level": "READ COMMITTED", "pool_pre_ping": True}

    def __init__(self, config: SqlConfig, connection_string: str) -> None:
        self._arguments = _arguments(connection_string, config)

    def connect(self, *, autocommit: bool = False, patience: float = PATIENCE) -> Any:  # noqa: ANN401  a DBAPI connection
        """Open a connection, on which a statement waits ``patience`` seconds, rounded up, for a lock."""
        return pymysql.connect(
            **self._arguments,
            autocommit=autocommit,
            charset="utf8mb4",
            client_flag=CLIENT.FOUND_ROWS,  # an UPDATE counts the rows that match, not those that changed
            sql_mode=_SQL_MODE,
            init_command=_SESSION.format(seconds=max(ceil(patience), 1)),
        )

    def failure_of(self, error: BaseException) -> tuple[Failure, str]:
        """Sort by the server's or the client library's error number."""
        number = error.args[0] if error.args and isinstance(error.args[0], int) else None
        if number is None:
            lost = isinstance(error, pymysql.err.InterfaceError | OSError)
            return (Failure.LOST if lost else Failure.OTHER), type(error).__name__
        if number in _CLIENT_ERRORS or number in _GOING_AWAY:
            return Failure.LOST, f"error {number}"
        return _FAILURES.get(number, Failure.OTHER), f"error {number}"


def _arguments(connection_string: str, config: SqlConfig) -> dict[str, Any]:
    found = _DSN.fullmatch(connection_string)
    if not found:
        raise InvalidConfig(
            'connection_string: no MySQL connection string: give "user:password@tcp(host:3306)/database?parseTime=true"'
        )
    parameters = dict(parse_qsl(found["parameters"] or "", keep_blank_values=True))
    for name in parameters:
        if not _KNOWN.fullmatch(name):
            raise InvalidConfig(f'connection_string: parameter "{name[:40]}" is unknown')
    arguments: dict[str, Any] = {
        "user": found["user"] or None,
        # As bytes: PyMySQL would encode it as Latin-1, and quote it in the error when that fails.
        "password": (found["password"] or "").encode(),
        "database": unquote(found["database"]) or None,
        "connect_timeout": _seconds(parameters, "timeout") or 10.0,
        "read_timeout": _seconds(parameters, "readTimeout") or _READ_TIMEOUT,
        "write_timeout": _seconds(parameters, "writeTimeout") or _READ_TIMEOUT,
        **_address(found["net"] or "tcp", found["address"] or ""),
    }
    if context := _tls(parameters.get("tls", "false"), config):
        arguments["ssl"] = context
    return arguments


def _address(net: str, address: str) -> dict[str, Any]:
    if net == "unix":
        return {"unix_socket": address or "/tmp/mysql.sock"}  # noqa: S108  the default of SPIRE's driver
    if net != "tcp":
        raise InvalidConfig(f'connection_string: network "{net}" is unknown: it is tcp or unix')
    host, port = address, ""
    if not address.endswith("]") and ":" in address:
        host, _, port = address.rpartition(":")
    if port and not port.isdecimal():
        raise InvalidConfig("connection_string: the port is no number")
    return {"host": host.strip("[]") or "127.0.0.1", "port": int(port or _PORT)}


def _seconds(parameters: Mapping[str, str], name: str) -> float:
    try:
        return parse_duration(parameters[name]).total_seconds() if name in parameters else 0.0
    except InvalidConfig as exc:
        raise InvalidConfig(f"connection_string: {name}: {exc}") from exc


def _tls(mode: str, config: SqlConfig) -> ssl.SSLContext | None:
    """How the connection is protected: SPIRE's ``tls`` parameter, or the certificates of the configuration."""
    certificates = bool(config.client_cert_path and config.client_key_path)
    if not config.root_ca_path and not certificates:
        if mode in {"false", "preferred"}:  # PyMySQL itself uses TLS without verification where the server has it
            return None
        if mode not in {"true", "skip-verify"}:
            raise InvalidConfig(f'connection_string: tls is "{mode}": it is true, false, skip-verify or preferred')
    try:
        context = ssl.create_default_context(cafile=config.root_ca_path)
    except (OSError, ssl.SSLError) as exc:
        raise InvalidConfig(f"root_ca_path: cannot read CA certificates from {config.root_ca_path}: {exc}") from exc
    if certificates:
        try:
            context.load_cert_chain(str(config.client_cert_path), str(config.client_key_path))
        except (OSError, ssl.SSLError) as exc:
            raise InvalidConfig(f"client_cert_path and client_key_path: cannot be used: {exc}") from exc
    if mode == "skip-verify" and not config.root_ca_path:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
