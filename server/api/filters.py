"""What several services read alike: set filters, page sizes and the times of filters."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

from server.datastore.set_match import Match, SetMatch
from spiffe_core.errors import InvalidInput, SpiffeError
from spiffe_core.runtime.clock import unix

T = TypeVar("T")


def set_match(
    what: str, members: Iterable[Any], match: int, read: Callable[[Iterable[Any]], Iterable[T]], empty: str
) -> SetMatch[T]:
    """A set filter of a request.

    Raises:
        InvalidInput: if a member is malformed or there is none; the text starts with ``malformed <what> filter``.
    """
    try:
        found = frozenset(read(members))
        behaviour = Match(match)
    except (SpiffeError, ValueError) as exc:
        raise InvalidInput(f"malformed {what} filter: {exc}") from exc
    if not found:
        raise InvalidInput(f"malformed {what} filter: {empty}")
    return SetMatch(found, behaviour)


def expires_before(text: str) -> int | None:
    """Unix seconds of a time as the command line sends it: ``2006-01-02 15:04:05 -0700 -07``; None if empty.

    Raises:
        InvalidInput: if it is no such time.
    """
    if not text:
        return None
    moment, _, zone = text.rpartition(" ")
    try:
        parsed = datetime.strptime(moment, "%Y-%m-%d %H:%M:%S %z")
    except ValueError as exc:
        raise InvalidInput(
            f"malformed expiry filter: {text[:80]!r} is no time like 2006-01-02 15:04:05 -0700 -07"
        ) from exc
    if not zone.lstrip("+-").isdigit():
        raise InvalidInput(f"malformed expiry filter: {text[:80]!r} does not end with a numeric zone")
    return unix(parsed)
