"""Warnings about lifetimes that do not fit: an SVID ends with its CA at the latest.

A CA is succeeded when a sixth of its life is left, at most seven days before its end, so what it signs just before
can live no longer than that.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

from spiffe_core.runtime.durations import format_duration

_SHARE: Final = 6
"""The CA is succeeded when the ``_SHARE``-th part of its life is left."""
_CAP: Final = timedelta(days=7)


def ttl_warnings(ca_ttl: timedelta, ttls: Mapping[str, timedelta | None]) -> Iterable[str]:
    """Advice for each lifetime, by its key, that may be cut short."""
    certain = min(ca_ttl / _SHARE, _CAP)
    for name, ttl in ttls.items():
        if ttl is None or ttl <= certain:
            continue
        text = f"server.{name} is too high: while CAs are rotated, SVIDs may live for {_short(certain)} only"
        if ttl <= _CAP:
            yield f"{text}; set it to {_short(certain)} or less, or ca_ttl to {_short(ttl * _SHARE)} or more"
        elif certain < _CAP:
            yield f"{text}; set it to {_short(_CAP)} or less, and ca_ttl to {_short(_CAP * _SHARE)} or more"
        else:
            yield f"{text}; set it to {_short(_CAP)} or less"


def _short(value: timedelta) -> str:
    """Whole seconds, without the zeros at the end: ``4h``."""
    text = format_duration(timedelta(seconds=value // timedelta(seconds=1)))
    text = text.removesuffix("0s") if text.endswith("m0s") else text
    return text.removesuffix("0m") if text.endswith("h0m") else text
