"""An agent's standing: the one read that every call of an agent costs, so that a ban holds on the next call.

It is one look-up by a unique index, on connections of its own that are in no transaction and keep the statement
prepared.  On SQLite it takes a few microseconds and can be made on an event loop: ``peek`` never waits for a
lock.  Across a network it takes a round trip, and belongs in a thread: ``read``.
"""

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from server.datastore.backend import PATIENCE, Failure
from server.datastore.database import Database, translate
from server.datastore.tables import AGENTS
from spiffe_core.errors import Unavailable
from spiffe_core.ids import SpiffeId

_TRIES: Final = 2


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides whether an agent's call is let in.  Serial numbers are decimal text."""

    cert_serial: str
    """Of its current SVID; empty when it is banned."""
    new_cert_serial: str
    """Of a renewed SVID that was not used yet, or empty."""
    cert_not_after: int
    can_reattest: bool

    @property
    def banned(self) -> bool:
        """Whether an operator banned it."""
        return not self.cert_serial


class WouldWait(Unavailable):
    """The answer cannot be had at once: ask in a thread."""


class Standings:
    """Reads standings.  Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._backend = database.backend
        columns = ("cert_serial", "new_cert_serial", "cert_not_after", "can_reattest")
        self._query = f"SELECT {', '.join(columns)} FROM {AGENTS.name} WHERE id = {self._backend.placeholder}"  # noqa: S608
        # Pushing and popping are atomic; the newest connection, whose caches are warm, is used first.
        self._idle: dict[bool, deque[Any]] = {True: deque(), False: deque()}
        self._closed = False

    @property
    def inline(self) -> bool:
        """Whether ``peek`` may be called on an event loop: the database is a file on this machine."""
        return self._backend.inline

    def peek(self, agent_id: SpiffeId) -> Standing | None:
        """The standing, or None if there is no such agent, without waiting.  Only where ``inline``.

        Raises:
            WouldWait: if the database is locked at this moment, or is in trouble: ``read`` tells.
        """
        connection = None
        try:
            connection = self._take(patient=False)
            found = self._fetch(connection, agent_id)
        except self._backend.errors as exc:
            _discard(connection)
            raise WouldWait("the database cannot answer at once") from exc
        self._give_back(connection, patient=False)
        return found

    def read(self, agent_id: SpiffeId) -> Standing | None:
        """The standing, or None if there is no such agent.

        Raises:
            DatastoreUnavailable: if the database does not answer.
        """
        for attempt in range(1, _TRIES + 1):
            connection = None
            try:
                connection = self._take(patient=True)
                found = self._fetch(connection, agent_id)
            except self._backend.errors as exc:
                _discard(connection)
                # A server that was restarted is noticed by the connection that it cut; nothing was changed.
                if attempt == _TRIES or self._backend.failure_of(exc)[0] is not Failure.LOST:
                    raise translate(exc, self._backend) from exc
                self._drop_idle()
            else:
                self._give_back(connection, patient=True)
                return found
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        self._drop_idle()

    def _take(self, *, patient: bool) -> Any:  # noqa: ANN401  a DBAPI connection
        try:
            return self._idle[patient].pop()
        except IndexError:
            return self._backend.connect(autocommit=True, patience=PATIENCE if patient else 0.0)

    def _give_back(self, connection: Any, *, patient: bool) -> None:  # noqa: ANN401  a DBAPI connection
        self._idle[patient].append(connection)
        if self._closed:
            self._drop_idle()

    def _fetch(self, connection: Any, agent_id: SpiffeId) -> Standing | None:  # noqa: ANN401  a DBAPI connection
        cursor = connection.cursor()
        cursor.execute(self._query, (str(agent_id),))
        rows = cursor.fetchall()  # all, so that SQLite's statement, and with it the reader's lock, ends here
        if not rows:
            return None
        serial, new_serial, not_after, can_reattest = rows[0]
        return Standing(_text(serial), _text(new_serial), not_after, bool(can_reattest))

    def _drop_idle(self) -> None:
        for idle in self._idle.values():
            with suppress(IndexError):  # none is left; another thread may take the last one
                while True:
                    _discard(idle.pop())


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


def _discard(connection: Any) -> None:  # noqa: ANN401  a DBAPI connection
    if connection is not None:
        connection.close()
