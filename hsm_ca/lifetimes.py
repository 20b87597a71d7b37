"""When certificates begin and end, and when an authority is replaced.  Pure arithmetic on given times."""

from datetime import datetime, timedelta
from typing import Final

BACKDATE: Final = timedelta(seconds=10)
"""By how much a certificate's beginning lies before its making, for clocks that are behind (SPIRE's value)."""
_PREPARE_AT_MOST: Final = timedelta(days=30)
_ACTIVATE_AT_MOST: Final = timedelta(days=7)
KEEP_EXPIRED: Final = timedelta(hours=24)
"""How long an expired authority stays in the bundle, and its key in the module."""
FORGET_AFTER: Final = timedelta(days=14)
"""How long after its expiry a destroyed authority stays in the journal."""


def certificate_validity(now: datetime, ttl: timedelta, issuer_not_after: datetime) -> tuple[datetime, datetime]:
    """Not-before and not-after of a certificate: backdated, and never past its issuer's end."""
    return now - BACKDATE, min(now + ttl, issuer_not_after)


def prepare_at(issued_at: datetime, not_after: datetime) -> datetime:
    """From when on an authority's successor is prepared: half of its life before the end, 30 days at most."""
    return not_after - min((not_after - issued_at) / 2, _PREPARE_AT_MOST)


def activate_at(issued_at: datetime, not_after: datetime) -> datetime:
    """From when on the successor signs: a sixth of the authority's life before the end, 7 days at most."""
    return not_after - min((not_after - issued_at) / 6, _ACTIVATE_AT_MOST)


def longest_svid(ca_ttl: timedelta) -> timedelta:
    """The longest SVID lifetime that an authority of this lifetime can always grant in full."""
    return min(ca_ttl / 6, _ACTIVATE_AT_MOST)
