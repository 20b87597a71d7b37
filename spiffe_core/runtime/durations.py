"""Durations as SPIRE's files and flags write them (Go's): ``1h30m``, ``500ms``, ``-1.5h``."""

import re
from datetime import timedelta
from typing import Final

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.gotext import quote

_NANOSECONDS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_LARGEST: Final = 2**63 - 1
"""Nanoseconds in the longest duration that Go can hold, 292 years."""
_PART: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")
_MAX_LENGTH: Final = 100


def parse_duration(text: str) -> timedelta:
    """Read a Go duration; a begun microsecond is counted in full.

    Raises:
        InvalidConfig: with Go's text if it is none.
    """
    invalid = InvalidConfig(f"time: invalid duration {quote(text[:_MAX_LENGTH])}")
    rest = text[1:] if text[:1] in {"-", "+"} else text
    if rest == "0":
        return timedelta()
    if not rest or len(text) > _MAX_LENGTH:
        raise invalid
    total = 0
    while rest:
        match = _PART.match(rest)
        assert match is not None  # it also matches nothing
        whole, fraction, unit = match.groups()
        if not whole and not fraction:
            raise invalid
        if not unit:
            raise InvalidConfig(f"time: missing unit in duration {quote(text)}")
        if unit not in _NANOSECONDS:
            raise InvalidConfig(f"time: unknown unit {quote(unit)} in duration {quote(text)}")
        fraction = fraction or ""
        total += int(whole + fraction) * _NANOSECONDS[unit] // 10 ** len(fraction)
        if total > _LARGEST:
            raise invalid
        rest = rest[match.end() :]
    value = timedelta(microseconds=-(-total // 1000))
    return -value if text.startswith("-") else value


def format_duration(value: timedelta) -> str:
    """A duration as Go prints it: ``24h0m0s``, ``1.5s``, ``2.003828ms``, ``0s``."""
    sign = "-" if value < timedelta() else ""
    microseconds = abs(value) // timedelta(microseconds=1)
    if microseconds < 10**6:
        return sign + _below_a_second(microseconds)
    seconds, fraction = divmod(microseconds, 10**6)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(seconds * 10**6 + fraction, 10**6)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else sign + text


def _below_a_second(microseconds: int) -> str:
    if not microseconds:
        return "0s"
    if microseconds < 1000:  # noqa: PLR2004  a millisecond
        return f"{microseconds}µs"
    return f"{_decimal(microseconds, 1000)}ms"


def _decimal(value: int, unit: int) -> str:
    """``value / unit`` in full, without trailing zeros."""
    whole, rest = divmod(value, unit)
    fraction = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)
