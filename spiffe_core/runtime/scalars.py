"""Single values of configuration files, by the type that is asked for: what SPIRE takes, and quoted booleans."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from spiffe_core.errors import InvalidConfig, SpiffeError
from spiffe_core.runtime.durations import parse_duration
from spiffe_core.runtime.gotext import list_text, quote
from spiffe_core.runtime.hcl import Number, Object, Value

_OCTAL: Final = re.compile(r"[+-]?0[0-7_]+")
_INTEGER: Final = re.compile(r"[+-]?[0-9a-zA-Z_]{1,64}", re.ASCII)
_RANGE: Final = range(-(2**63), 2**63)


def read_scalar(value: Value, kind: Any, *, secret: bool = False) -> object:  # noqa: ANN401  an annotation
    """The value as ``kind``, which is one of those that ``spiffe_core.runtime.block`` names.

    Raises:
        InvalidConfig: saying what is wrong with it, without the value itself if it is ``secret``.
    """
    try:
        return _read(value, kind)
    except SpiffeError as exc:
        if secret:
            raise InvalidConfig("is malformed") from None
        raise InvalidConfig(str(exc)) from exc


def _read(value: Value, kind: Any) -> object:  # noqa: ANN401  an annotation
    if isinstance(value, Object | tuple):
        raise InvalidConfig(f"must be a single value, not a {'block' if isinstance(value, Object) else 'list'}")
    if kind is bool:
        return _boolean(value)
    if isinstance(value, bool):
        raise InvalidConfig(f"must be {'a number' if kind in {int, float} else 'text in double quotes'}, not a boolean")
    text = value.text if isinstance(value, Number) else value
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return _member(text, kind)
    reader: Callable[[str], object] = _READERS.get(kind) or kind.parse
    return reader(text)


def _boolean(value: Value) -> bool:
    if isinstance(value, str) and value in {"true", "false"}:
        return value == "true"
    if not isinstance(value, bool):
        raise InvalidConfig("must be true or false")
    return value


def _integer(text: str) -> int:
    """A whole number of 64 bits, in Go's notations."""
    try:
        if not _INTEGER.fullmatch(text):
            raise ValueError(text)  # noqa: TRY301  the same answer as int()'s own
        number = int(text.replace("_", ""), 8) if _OCTAL.fullmatch(text) else int(text, 0)
    except ValueError:
        raise InvalidConfig(f"{quote(text[:80])} is no whole number") from None
    if number not in _RANGE:
        raise InvalidConfig(f"{text} is out of range")
    return number


def _float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise InvalidConfig(f"{quote(text[:80])} is no number") from None
    if not math.isfinite(number):
        raise InvalidConfig(f"{text[:80]} is out of range")
    return number


def _member(text: str, kind: type[StrEnum]) -> StrEnum:
    try:
        return kind(text.lower())
    except ValueError:
        raise InvalidConfig(f"{quote(text[:80])} is unknown; must be one of {list_text(kind)}") from None


def _path(text: str) -> Path:
    if "\0" in text:
        raise InvalidConfig("a path cannot hold a null character")
    return Path(text)


_READERS: Final[Mapping[Any, Callable[[str], object]]] = {
    str: str,
    int: _integer,
    float: _float,
    Path: _path,
    timedelta: parse_duration,
}
