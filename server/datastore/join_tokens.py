"""Join tokens in the database, by the digest of their value: reading the table gives nobody a token.

The entry that is made with a token, if an ID is to go with it, does name it: it is parented to the agent's ID, which
ends with the token, as in SPIRE.  Who may read entries may use such a token until it is spent or expires.
"""

from hashlib import sha256

import sqlalchemy as sa

from server.datastore.database import Database, Write
from server.datastore.tables import JOIN_TOKENS
from spiffe_core.agents import JoinToken
from spiffe_core.errors import AlreadyExists


class JoinTokens:
    """The table of join tokens that were not used yet."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, token: JoinToken) -> None:
        """Store a token.

        Raises:
            AlreadyExists: if one of that value is waiting to be used.
        """
        values = {"digest": _digest(token.value), "expires_at": token.expires_at}

        def work(write: Write) -> None:
            there = sa.select(JOIN_TOKENS.c.expires_at).where(JOIN_TOKENS.c.digest == values["digest"])
            if write.connection.execute(there).first():
                raise AlreadyExists("join token already exists")
            write.connection.execute(sa.insert(JOIN_TOKENS), values)

        self._database.write(work)

    def take(self, value: str) -> JoinToken | None:
        """Use the token up: the first who takes it gets it, expired or not, and everybody else None."""
        mine = JOIN_TOKENS.c.digest == _digest(value)

        def work(write: Write) -> JoinToken | None:
            expires_at = write.connection.execute(
                sa.select(JOIN_TOKENS.c.expires_at).where(mine).with_for_update()
            ).scalar()
            if expires_at is None:
                return None
            write.connection.execute(sa.delete(JOIN_TOKENS).where(mine))
            return JoinToken(value, expires_at)

        return self._database.write(work)

    def prune(self, before: int) -> int:
        """Delete the tokens that expired before that Unix time; how many."""
        expired = sa.delete(JOIN_TOKENS).where(JOIN_TOKENS.c.expires_at < before)
        return self._database.write(lambda write: write.connection.execute(expired).rowcount)


def _digest(value: str) -> bytes:
    return sha256(value.encode()).digest()
