"""The authority journal: which key serves which authority, in which state, and who may change that.

The journal is a table in the datastore, one per *authority group*: the servers that share a database and a
key manager.  One of them holds the group's lease and moves authorities; every write carries the epoch of
that lease and is refused when another server has taken it since, so a leader that slept cannot overwrite
its successor's decision.

A record begins before its key does: RESERVED names a key id that will be generated, and no id is ever
reserved twice.  A server killed between generating and recording finds the key again by that name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType, Protocol

from keymanagers.base import KeyId, KeyType
from spiffe_core.errors import FailedPrecondition

AuthorityId = NewType("AuthorityId", str)
"""X.509: lowercase hex of the CA certificate's subject key identifier.  JWT: the ``kid``."""


class Use(StrEnum):
    """What an authority signs."""

    X509 = "x509"
    JWT = "jwt"


class State(StrEnum):
    """Where an authority is in its life; *tainted* is a flag beside it."""

    RESERVED = "reserved"
    """A key id was chosen; the key may or may not exist."""
    CREATED = "created"
    """The key exists and is recorded; it has no certificate and is in no bundle."""
    PREPARED = "prepared"
    """Certified and in the bundle; it signs nothing yet."""
    ACTIVE = "active"
    """It signs."""
    OLD = "old"
    """It signs nothing any more; the bundle keeps it until what it signed has expired."""
    REVOKED = "revoked"
    """Out of the bundle; its key may be destroyed."""


NEXT: Final = {
    (State.RESERVED, "generate"): State.CREATED,
    (State.RESERVED, "abandon"): State.REVOKED,
    (State.CREATED, "certify"): State.PREPARED,
    (State.CREATED, "abandon"): State.REVOKED,
    (State.PREPARED, "activate"): State.ACTIVE,
    (State.PREPARED, "discard"): State.OLD,
    (State.ACTIVE, "supersede"): State.OLD,
    (State.OLD, "revoke"): State.REVOKED,
}
"""Every step there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityRecord:
    """One row of the journal.  Times are Unix seconds, 0 if not reached."""

    key_id: KeyId
    use: Use
    key_type: KeyType
    state: State
    reserved_at: int
    public_key: bytes = b""
    """PKIX DER; empty while RESERVED."""
    authority_id: AuthorityId = AuthorityId("")
    """Empty until PREPARED for X.509, until CREATED for JWT."""
    chain: tuple[bytes, ...] = ()
    """X.509: the CA certificate and then the upstream's intermediates, DER.  JWT: empty."""
    roots: tuple[bytes, ...] = ()
    """X.509: the certificates that the bundle must hold for its SVIDs to verify, DER.  JWT: empty."""
    issued_at: int = 0
    not_after: int = 0
    published: bool = False
    """Whether its authority was put in the bundle."""
    tainted: bool = False
    changed_at: int = 0


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What the table says of a group's lease: who holds it, since which takeover, and a count of renewals."""

    holder: str
    epoch: int
    beat: int


class StaleLease(FailedPrecondition):
    """A write came with an epoch that is over: another server leads the group now."""


class Journal(Protocol):
    """The journal of one authority group.  Each method is one transaction, durable when it returns.

    All raise ``DatastoreUnavailable`` when the database does not answer.
    """

    def records(self) -> Sequence[AuthorityRecord]:
        """Every record of the group, by ``reserved_at``, then ``key_id``."""

    def write(self, epoch: int, *records: AuthorityRecord) -> None:
        """Insert or replace the records by ``key_id``, all or none.

        Raises:
            StaleLease: if the group's lease is not of that epoch.
        """

    def forget(self, epoch: int, key_id: KeyId) -> None:
        """Delete the record of a key that was destroyed, or never came to be.

        Raises:
            StaleLease: if the group's lease is not of that epoch.
        """


class LeaseTable(Protocol):
    """The lease of one authority group.  Each method is one transaction."""

    def lease(self) -> LeaseState | None:
        """The row as it is now, or None if nobody ever held it."""

    def take(self, holder: str, seen: LeaseState | None) -> LeaseState | None:
        """Take the lease over from exactly the state that was seen: the new state, or None if it has changed."""

    def beat(self, held: LeaseState) -> LeaseState | None:
        """Renew: the new state, or None if the lease is no longer that holder's in that epoch."""

    def release(self, held: LeaseState) -> None:
        """Give the lease up: the holder becomes empty; nothing happens if it is no longer held."""
