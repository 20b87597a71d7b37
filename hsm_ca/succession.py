"""What to do next for the authorities of one use: a pure function of the journal and the time.

An authority is reserved, created, certified, published, activated, superseded, revoked and at last forgotten
(``hsm_ca.journal.State``).  Whatever was begun is finished first, so a server that was killed between two
steps goes on with the same key.  An active authority whose key does not show is *no* reason for a new one:
that is not even asked here.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from hsm_ca.journal import AuthorityRecord, State
from hsm_ca.lifetimes import BACKDATE, FORGET_AFTER, KEEP_EXPIRED, activate_at, prepare_at
from spiffe_core.runtime.clock import from_unix


class Step(StrEnum):
    """One step of an authority's life; each ends with a durable journal write."""

    RESERVE = "reserve"
    GENERATE = "generate"
    ABANDON = "abandon"
    CERTIFY = "certify"
    PUBLISH = "publish"
    ACTIVATE = "activate"
    DISCARD = "discard"
    SUPERSEDE = "supersede"
    REVOKE = "revoke"
    FORGET = "forget"


def next_step(records: Sequence[AuthorityRecord], now: datetime) -> tuple[Step, AuthorityRecord | None] | None:
    """The step that is due and the record that it concerns (RESERVE: none yet); None when nothing is due."""
    for record in records:
        if step := _unfinished(record):
            return step, record
    active = newest(records, State.ACTIVE)
    prepared = newest(records, State.PREPARED)
    for record in records:
        if record.state is State.ACTIVE and record is not active:
            return Step.SUPERSEDE, record
        if record.state is State.PREPARED and (record is not prepared or is_due(record, now)):
            return Step.DISCARD, record
    if prepared and (active is None or is_due(active, now)):
        return Step.ACTIVATE, prepared
    if prepared is None and (active is None or is_due(active, now) or now > prepare_at(*_life(active))):
        return Step.RESERVE, None
    return next((found for record in records if (found := _ending(record, now))), None)


def newest(records: Sequence[AuthorityRecord], state: State) -> AuthorityRecord | None:
    """The youngest authority in that state."""
    found = [record for record in records if record.state is state]
    return max(found, key=lambda record: (record.issued_at, record.key_id), default=None)


def _unfinished(record: AuthorityRecord) -> Step | None:
    if record.state is State.RESERVED:
        return Step.GENERATE
    if record.state is State.CREATED:
        return Step.CERTIFY
    if record.state is State.PREPARED and not record.published:
        return Step.PUBLISH
    return None


def _ending(record: AuthorityRecord, now: datetime) -> tuple[Step, AuthorityRecord] | None:
    end = from_unix(record.not_after)  # the end of year 9999 means "never" (RFC 5280 §4.1.2.5), and nothing is after it
    if record.state is State.OLD and now - KEEP_EXPIRED > end:
        return Step.REVOKE, record
    if record.state is State.REVOKED and now - FORGET_AFTER > end:
        return Step.FORGET, record
    return None


def is_due(record: AuthorityRecord, now: datetime) -> bool:
    """Whether the authority may not be, or become, the one that signs: another is due.

    It is too near its end, or lies in the future: the clock was ahead when it was made, and what it signs does not
    verify until its certificate begins.
    """
    issued_at, not_after = _life(record)
    return now > activate_at(issued_at, not_after) or now < issued_at - BACKDATE


def _life(record: AuthorityRecord) -> tuple[datetime, datetime]:
    return from_unix(record.issued_at), from_unix(record.not_after)
