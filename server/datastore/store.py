"""The datastore as a server holds it: one database, and a door for each noun."""

from collections.abc import Iterable
from typing import Self

from server.datastore.agents import Agents
from server.datastore.bundles import Bundles
from server.datastore.changes import ChangeFeed
from server.datastore.config import SqlConfig
from server.datastore.database import Database
from server.datastore.entries import Entries
from server.datastore.join_tokens import JoinTokens
from server.datastore.journal import GroupJournal, GroupLease, prune_groups
from server.datastore.schema import migrate, require_current
from server.datastore.snapshot import Snapshots
from server.datastore.standings import Standings
from spiffe_core.runtime.clock import Clock


class Datastore:
    """Everything that must outlive a process.  Thread-safe; each process opens its own, after it was forked."""

    def __init__(self, database: Database) -> None:
        """Take a database whose tables are of this version."""
        self._database = database
        self.bundles = Bundles(database)
        self.entries = Entries(database)
        self.agents = Agents(database)
        self.standings = Standings(database)
        self.join_tokens = JoinTokens(database)
        self.changes = ChangeFeed(database)
        self.snapshots = Snapshots(database)

    @classmethod
    def open(cls, config: SqlConfig, clock: Clock) -> Self:
        """Connect, and bring the tables up to date.

        Raises:
            InvalidConfig: if the configuration cannot be used.
            FailedPrecondition: if the tables are of a newer version, or of an older one that may not be migrated.
            DatastoreUnavailable: if the database does not answer.
        """
        database = Database(config, clock)
        try:
            migrate(database, disabled=config.disable_migration)
        except BaseException:
            database.close()
            raise
        return cls(database)

    @classmethod
    def open_beside(cls, config: SqlConfig, clock: Clock) -> Self:
        """Connect to the database of a server, which has made it; nothing in it is changed by that.

        Raises:
            InvalidConfig: if the configuration cannot be used.
            FailedPrecondition: if there is no database, or its tables are of another version.
            DatastoreUnavailable: if the database does not answer.
        """
        database = Database(config, clock)
        try:
            require_current(database)
        except BaseException:
            database.close()
            raise
        return cls(database)

    def journal(self, group: str) -> GroupJournal:
        """The authority journal of that group."""
        return GroupJournal(self._database, group)

    def lease(self, group: str) -> GroupLease:
        """The lease of that group."""
        return GroupLease(self._database, group)

    def prune_journals(self, before: int) -> Iterable[str]:
        """Delete the journals of groups of which nothing has lived since that Unix time; their names."""
        return prune_groups(self._database, before)

    def ping(self) -> None:
        """Ask the database for an answer.

        Raises:
            DatastoreUnavailable: if there is none.
        """
        self._database.ping()

    def close(self) -> None:
        """Close every connection."""
        self.standings.close()
        self.changes.close()
        self._database.close()
