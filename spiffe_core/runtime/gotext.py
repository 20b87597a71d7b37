"""Values in the text that Go gives them, which is the interface wherever people and scripts read SPIRE's output."""

import os
from collections.abc import Iterable
from datetime import datetime
from typing import Final

_ESCAPES: Final = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    '"': '\\"',
    "\\": "\\\\",
}


def quote(text: str) -> str:
    """The text between double quotes, with Go's escapes (``%q``)."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x20 or code == 0x7F:  # noqa: PLR2004  ASCII control characters
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004  the basic plane


def time_text(moment: datetime) -> str:
    """An aware time in its own zone: ``2026-11-22 05:00:00 +0000 UTC``, with a fraction only if there is one."""
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    return f"{moment:%Y-%m-%d %H:%M:%S}{fraction} {moment:%z} {moment:%Z}"


def time_rfc3339(moment: datetime) -> str:
    """An aware time as ``2026-11-22T05:00:00.25Z``, with a fraction only if there is one."""
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    offset = f"{moment:%z}"
    zone = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:5]}"
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}{zone}"


def list_text(values: Iterable[object]) -> str:
    """A list as ``[a b]``."""
    return f"[{' '.join(map(str, values))}]"


def read_error(path: str | os.PathLike[str], exc: OSError) -> str:
    """Why a file could not be read; Go opens a folder, and fails when it reads from it."""
    return os_error("read" if isinstance(exc, IsADirectoryError) else "open", path, exc)


def os_error(verb: str, path: str | os.PathLike[str], exc: OSError) -> str:
    """What the operating system refused: ``open /etc/x: permission denied``."""
    reason = exc.strerror or str(exc) or "input/output error"
    return f"{verb} {os.fspath(path)}: {reason[:1].lower()}{reason[1:]}"
