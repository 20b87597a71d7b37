"""What a log line looks like: logrus's text and JSON formats, and what may never stand in one."""

import json
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from spiffe_core.errors import SpiffeError
from spiffe_core.runtime.durations import format_duration
from spiffe_core.runtime.gotext import list_text, quote, time_rfc3339, time_text

if TYPE_CHECKING:
    from types import FrameType

_PLAIN: Final = re.compile(r"[A-Za-z0-9\-._/@^+]*")
_OWN_KEYS: Final = frozenset({"time", "level", "msg"})
_SECRETS: Final = frozenset(
    {"join_token", "jwt_svid", "passphrase", "password", "pin", "private_key", "secret", "svid", "token"}
)
"""Fields whose values are withheld, should a caller ever pass them."""
MAX_TEXT: Final = 16 * 1024
"""Most characters of one field that a line shows: some come from callers, who may send megabytes of them."""
_MAX_MEMBERS: Final = 100
_MAX_MEMBER: Final = 1024
_OF_THE_LOG: Final = ("spiffe_core.runtime.log", "structlog", "logging")


def text_line(time: datetime, level: str, message: str, fields: Mapping[str, object]) -> str:
    """``time="..." level=info msg="Agent attested" key=value``, the fields by name."""
    head = f"time={quote(time_rfc3339(time))} level={level} msg={_quoted(message)}"
    return " ".join([head, *(f"{_name(key)}={_quoted(_text(value))}" for key, value in sorted(fields.items()))])


def json_line(time: datetime, level: str, message: str, fields: Mapping[str, object]) -> str:
    """``{"key":"value","level":"info","msg":"Agent attested","time":"..."}``, all by name."""
    values = {_name(key): _plain(value) for key, value in fields.items()}
    line = {**values, "level": level, "msg": message, "time": time_rfc3339(time)}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def without_secrets(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields, with the values of those that by their name are secret, and of raw bytes, withheld."""
    return {
        key: "[withheld]" if key in _SECRETS else f"[{len(value)} bytes]" if isinstance(value, bytes) else value
        for key, value in fields.items()
    }


def cut(value: object) -> object:
    """The value, or the beginning of one that is too long for a line."""
    match value:
        case str():
            return _cut_text(value, MAX_TEXT)
        case list() | tuple():
            shown = [_cut_text(one, _MAX_MEMBER) if isinstance(one, str) else one for one in value[:_MAX_MEMBERS]]
            return shown if len(value) <= _MAX_MEMBERS else [*shown, f"[{len(value)} values]"]
    return value


def _cut_text(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}[{len(text)} characters]"


def error_text(error: BaseException) -> str:
    """What an exception says; one that is not of our tree says its type first."""
    text = str(error)
    if isinstance(error, SpiffeError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def traceback_text(error: BaseException) -> str:
    """Where an exception was raised, call by call, with what caused it."""
    return "".join(traceback.format_exception(error)).rstrip()


def caller() -> dict[str, str]:
    """Source file and line, and function, of whoever called the log."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  the interpreter's documented way
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_OF_THE_LOG):
        frame = frame.f_back
    if frame is None:
        return {}
    code = frame.f_code
    module = frame.f_globals.get("__name__", "")
    return {"file": f"{Path(code.co_filename).name}:{frame.f_lineno}", "func": f"{module}.{code.co_qualname}"}


def _name(key: str) -> str:
    """The name of a field, which is not one of the line's own."""
    return f"fields.{key}" if key in _OWN_KEYS else key


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quote(text)


def _text(value: object) -> str:
    """A value as Go prints it."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case datetime():
            return time_text(value.astimezone())
        case timedelta():
            return format_duration(value)
        case BaseException():
            return error_text(value)
        case list() | tuple() | set() | frozenset():
            return list_text(map(_text, value))
    return str(value)


def _plain(value: object) -> object:
    """A value as JSON has it."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case datetime():
            return time_rfc3339(value.astimezone())
        case list() | tuple() | set() | frozenset():
            return [_plain(one) for one in value]
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
    return _text(value)
