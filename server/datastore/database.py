"""The database: its connections, and transactions that are whole or not at all.

A writing transaction is a function that is given a ``Write``.  It may run more than once: when another
transaction was first (a row that appeared meanwhile, a deadlock), it is rolled back and run again on what is
there now.  What it changes it tells the ``Write``, which appends one row to the change feed before the commit.

Errors of the driver end here, as ``DatastoreUnavailable`` with a text that says which.  After one, connections
are tested before use, so the next request succeeds when the database is back.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from server.datastore.backend import BUILT_IN, PATIENCE, Backend, Failure
from server.datastore.config import SqlConfig
from server.datastore.documents import dump
from server.datastore.tables import CHANGES
from server.datastore.writer_queue import WriterQueue
from spiffe_core.entries import EntryId
from spiffe_core.errors import AlreadyExists, DatastoreUnavailable, InvalidInput, SpiffeError
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.clock import Clock, unix

T = TypeVar("T")

ATTEMPTS: Final = 5
"""How often a writing transaction is run when others are first each time."""
MAX_NAMED: Final = 10_000
"""Most ids that one row of the change feed names; a larger change says: read everything again."""


class Write:
    """A writing transaction that is open, and what it has changed so far."""

    def __init__(self, connection: Connection, now: int) -> None:
        self.connection = connection
        self.now = now
        """Unix time at which the transaction began."""
        self._changed: dict[str, set[str]] = {}

    def changed_entries(self, ids: Iterable[EntryId]) -> None:
        """These entries were made, changed or deleted."""
        self._changed.setdefault("entries", set()).update(ids)

    def changed_agents(self, ids: Iterable[SpiffeId]) -> None:
        """These agents were made, changed or deleted."""
        self._changed.setdefault("agents", set()).update(map(str, ids))

    def changed_bundle(self, trust_domain: TrustDomain) -> None:
        """The bundle of that trust domain was made, changed or deleted."""
        self._changed.setdefault("bundles", set()).add(trust_domain.name)

    def changed_journal(self, group: str) -> None:
        """Records of that authority group were made, changed or deleted."""
        self._changed.setdefault("journal", set()).add(group)

    def append_change(self) -> None:
        """Append the row that tells readers of the change feed, if anything changed.

        It is the last statement before the commit: the shorter the time in which a number is taken and not
        visible, the less readers have to look for it.
        """
        what: dict[str, object] = {kind: sorted(ids) for kind, ids in self._changed.items() if ids}
        if sum(len(ids) for ids in self._changed.values()) > MAX_NAMED:
            what = {"reload": True}
        if what:
            text = dump(what)
            self.connection.execute(sa.insert(CHANGES), {"at": self.now, "what": text})


class Database:
    """The connections to one database and to its replica, if there is one.  Thread-safe.

    Each process opens its own, after it was forked.
    """

    def __init__(self, config: SqlConfig, clock: Clock, *, patience: float = PATIENCE) -> None:
        """Take the configuration, and how many seconds a request waits for a lock or a connection.

        Nothing is connected yet.

        Raises:
            InvalidConfig: if a connection string or certificate file cannot be read.
        """
        kind = BUILT_IN[config.database_type]
        self.backend: Backend = kind(config, config.connection_string)
        self._clock = clock
        self._engine = _engine(config, self.backend, patience)
        self._replica_backend, self._replica = self.backend, self._engine
        if config.ro_connection_string:
            self._replica_backend = kind(config, config.ro_connection_string)
            self._replica = _engine(config, self._replica_backend, patience)
        self._queue = WriterQueue(self.backend.file, patience)

    def now(self) -> int:
        """Unix time by the clock that stamps rows."""
        return unix(self._clock.now())

    @contextmanager
    def read(self, *, stale: bool = False) -> Iterator[Connection]:
        """A reading transaction; with ``stale``, on the replica if there is one.

        Raises:
            DatastoreUnavailable: if the database does not answer.
        """
        engine, backend = (self._replica, self._replica_backend) if stale else (self._engine, self.backend)
        with translated(backend), engine.connect() as connection:
            yield connection

    def write(self, work: Callable[[Write], T]) -> T:
        """Run ``work`` in a writing transaction and commit; its changes are durable when this returns.

        Raises:
            AlreadyExists: if what it would make is there, and it did not see it itself.
            InvalidInput: if a value cannot be stored.
            DatastoreUnavailable: if the database does not answer; then nothing was changed, unless the text
                says that this is not known.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._write_once(work)
            except DBAPIError as exc:
                if attempt == ATTEMPTS or self.backend.failure_of(_cause(exc))[0] is not Failure.CONFLICT:
                    raise translate(exc, self.backend) from exc
            except PoolTimeout as exc:
                raise translate(exc, self.backend) from exc
        raise AssertionError("the last attempt returns or raises")

    def _write_once(self, work: Callable[[Write], T]) -> T:
        with self._begun() as connection:
            write = Write(connection, self.now())
            result = work(write)
            write.append_change()
            try:
                connection.commit()
            except DBAPIError as exc:
                if self.backend.failure_of(_cause(exc))[0] is not Failure.LOST:
                    raise
                raise DatastoreUnavailable(
                    "the connection to the database was lost during a commit: "
                    "whether the change was made is not known; look before you repeat it"
                ) from exc
            return result

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        """A connection in a writing transaction, which is rolled back unless it was committed."""
        with self._queue.turn(), self._engine.connect() as opened:
            connection = opened.execution_options(writing=True)
            with self._queue.next():
                connection.begin()
            yield connection

    @contextmanager
    def write_connection(self) -> Iterator[Connection]:
        """A writing transaction for what is no change of the registry: the migration of its tables.

        Raises:
            DatastoreUnavailable: if the database does not answer.
        """
        with translated(self.backend), self._begun() as connection:
            yield connection
            connection.commit()

    def ping(self) -> None:
        """Ask the database for an answer.

        Raises:
            DatastoreUnavailable: if there is none.
        """
        with self.read() as connection:
            connection.execute(sa.select(sa.literal(1)))

    def close(self) -> None:
        """Close every connection that is not in use; those in use are closed when they are given back."""
        self._engine.dispose()
        self._replica.dispose()
        self._queue.close()


def _engine(config: SqlConfig, backend: Backend, patience: float) -> Engine:
    idle = max(config.max_idle_conns, 1)  # for SQLAlchemy 0 means "no limit"
    if config.max_open_conns > 0:
        idle = min(idle, config.max_open_conns)
    lifetime = config.conn_max_lifetime
    engine = sa.create_engine(
        f"{backend.dialect}://",
        creator=partial(backend.connect, patience=patience),
        poolclass=QueuePool,
        pool_size=idle,
        max_overflow=config.max_open_conns - idle if config.max_open_conns > 0 else -1,
        pool_timeout=patience,
        pool_recycle=int(lifetime.total_seconds()) if lifetime else -1,
        hide_parameters=True,
        **backend.engine_options,
    )
    if engine.name == "sqlite":
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _begin_sqlite(connection: Connection) -> None:
    """Begin as what it is: a transaction that turns from reading to writing could fail half-way."""
    writing = connection.get_execution_options().get("writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def translated(backend: Backend) -> Iterator[None]:
    """A block in which the driver and SQLAlchemy raise what callers can act on."""
    try:
        yield
    except (DBAPIError, PoolTimeout, backend.errors) as exc:
        raise translate(exc, backend) from exc


def _cause(exc: BaseException) -> BaseException:
    """The driver's error, which SQLAlchemy may have wrapped."""
    return exc.orig if isinstance(exc, DBAPIError) and exc.orig else exc


def translate(exc: BaseException, backend: Backend) -> SpiffeError:
    """The error for callers that an error of the driver, or of SQLAlchemy, stands for."""
    if isinstance(exc, PoolTimeout):
        return DatastoreUnavailable("every database connection is in use; raise max_open_conns, or look for what hangs")
    failure, code = backend.failure_of(_cause(exc))
    if isinstance(exc, DBAPIError) and exc.connection_invalidated:
        failure = Failure.LOST
    if failure is Failure.INVALID_VALUE:
        return InvalidInput(f"a value cannot be stored in the database ({code})")
    if failure is Failure.CONFLICT and not isinstance(exc, sa.exc.IntegrityError):
        failure = Failure.LOCKED
    if failure is Failure.CONFLICT:
        return AlreadyExists(f"what would be made conflicts with what is there ({code})")
    return DatastoreUnavailable(f"the database is unavailable: {failure.value} ({code})")
