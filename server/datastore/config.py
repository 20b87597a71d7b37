"""The configuration of DataStore "sql", with SPIRE's keys."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path


class DatabaseType(StrEnum):
    """The databases, under SPIRE's names."""

    SQLITE = "sqlite3"
    POSTGRES = "postgres"
    MYSQL = "mysql"


@dataclass(frozen=True, kw_only=True)
class SqlConfig:
    """plugin_data of DataStore "sql"."""

    database_type: DatabaseType
    """``sqlite3``, ``postgres``, or ``mysql``, which stands for MariaDB too."""
    connection_string: str = field(repr=False)
    """Where the database is; docs/plugins/datastore_sql.md shows the forms.  May hold a password."""
    ro_connection_string: str = field(default="", repr=False)
    """Where a replica is that may lag; the registry is read from it at start.  Not for sqlite3."""
    root_ca_path: Path | None = None
    """CA certificates, PEM, by which the server is verified (mysql only)."""
    client_cert_path: Path | None = None
    """Client certificate, PEM (mysql only)."""
    client_key_path: Path | None = None
    """Its private key, PEM (mysql only)."""
    max_open_conns: int = 100
    """Most connections at a time; 0 sets no limit."""
    max_idle_conns: int = 100
    """Most connections that stay open while nobody uses them."""
    conn_max_lifetime: timedelta | None = None
    """How long a connection is used; not set: for ever."""
    disable_migration: bool = False
    """Refuse to start on a database of an older version instead of bringing it up to date."""
