"""The version of the tables: brought up to date when a server starts, and only ever forward.

A database that a newer Steeple has migrated is refused, since this version does not know what its tables mean;
so is SPIRE's own, whose tables have the same names and other contents.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from server.datastore.database import Database
from spiffe_core.errors import FailedPrecondition

VERSION_TABLE: Final = "steeple_schema"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = "steeple-migration"
_LOCK_NUMBER: Final = 0x53746565706C65  # PostgreSQL's locks have numbers
_SPIRE_TABLES: Final = frozenset({"registered_entries", "attested_node_entries"})


def migrate(database: Database, *, disabled: bool) -> None:
    """Bring the tables to this version; with ``disabled``, only look whether they are.

    Raises:
        FailedPrecondition: if they are of a newer version or not ours, or of an older one and ``disabled``.
        DatastoreUnavailable: if the database does not answer.
    """
    with database.read() as connection:
        if _is_current(connection, disabled=disabled):
            return
    with database.write_connection() as connection, _alone(connection):
        # Another server may have been first.
        if not _is_current(connection, disabled=disabled):
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def require_current(database: Database) -> None:
    """Make sure that there is a database and its tables are of this version; nothing is made.

    Raises:
        FailedPrecondition: if not.
        DatastoreUnavailable: if the database does not answer.
    """
    file = database.backend.file
    if file is not None and not file.exists():  # SQLite would make it
        raise FailedPrecondition(f"there is no database {file}: no server has run with this configuration yet")
    with database.read() as connection:
        if not _is_current(connection, disabled=False):
            raise FailedPrecondition(
                "the database has not the tables of this version: start the server, which brings them up to date"
            )


def _is_current(connection: Connection, *, disabled: bool) -> bool:
    scripts = ScriptDirectory.from_config(_config())
    head = scripts.get_current_head()
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    current = context.get_current_revision()
    if current == head:
        return True
    if current is None and _SPIRE_TABLES & set(sa.inspect(connection).get_table_names()):
        raise FailedPrecondition(
            "the database is SPIRE's own: Steeple keeps its registry in tables of its own; "
            "give it an empty database and create the entries there"
        )
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise FailedPrecondition(
            f'the database was migrated by a newer Steeple, to schema "{current}"; this version knows '
            f'"{head}" and no later one: start the newer version, or restore a backup from before the upgrade'
        )
    if disabled:
        raise FailedPrecondition(
            f'the database has schema "{current or "none"}" and this version needs "{head}", but '
            "disable_migration is set: start one server without it"
        )
    return False


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Keep other servers from migrating at the same time; in SQLite the writing transaction itself does."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_NUMBER)))
    if connection.dialect.name != "mysql":
        yield
        return
    connection.execute(sa.select(sa.func.get_lock(_LOCK, 60)))
    try:
        yield
    finally:
        connection.execute(sa.select(sa.func.release_lock(_LOCK)))
