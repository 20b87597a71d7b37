"""Flags as SPIRE has them: ``-spiffeID v``, ``-spiffeID=v``, ``--spiffeID v``, and also ``--spiffe-id v``.

Each function declares one flag of a command, as a decorator.  The command gets its value under the name in
snake case (``spiffe_id``).  Values are read as Go's flag package does, with its texts for those that are wrong.
"""

import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Final

import click

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.cli.errors import UsageFault
from spiffe_core.runtime.durations import format_duration, parse_duration
from spiffe_core.runtime.gotext import quote
from spiffe_core.runtime.hcl import Number
from spiffe_core.runtime.scalars import read_scalar

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

_WORDS: Final = re.compile(r"X509|SVID|TTL|SDS|API|JTI|ID|[A-Z][a-z]+|[a-z0-9]+")
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class Flag(click.Option):
    """One flag, by its name in SPIRE's command line."""

    def __init__(self, name: str, kind: "Kind", text: str, **more: Any) -> None:  # noqa: ANN401  click's own
        self.go_name = name
        self.kebab = "-".join(_WORDS.findall(name)).lower()
        self.kind = kind
        super().__init__([f"--{self.kebab}"], type=kind, help=text, **more)

    @property
    def usage(self) -> str:
        """The two lines that help shows, in the form of Go's flag package."""
        label = f" {self.kind.label}" if self.kind.label else ""
        default = self.kind.shown_default(self.default)
        return f"  -{self.go_name}{label}\n    \t{self.help}{f' (default {default})' if default else ''}"


class Kind(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """What values a flag takes."""

    name = "value"
    label = "value"
    """The word for the value in help; empty for a flag that stands alone."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """Read one value, which is text unless it is a default."""
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except ValueError as exc:
            name = param.go_name if isinstance(param, Flag) else self.name
            raise UsageFault(self.complaint(value, name, str(exc)), ctx) from None

    def read(self, text: str) -> object:
        """The value, or ValueError with what is wrong."""
        return text

    def complaint(self, value: str, name: str, reason: str) -> str:
        """The text for a value that is wrong."""
        return f"invalid value {quote(value)} for flag -{name}: {reason}"

    def shown_default(self, default: object) -> str:
        """The default as help shows it; empty if it is nothing to speak of."""
        return str(default) if isinstance(default, int) and default else ""


class _Text(Kind):
    label = "string"

    def shown_default(self, default: object) -> str:
        return quote(default) if isinstance(default, str) and default else ""


class _Whole(Kind):
    label = "int"

    def read(self, text: str) -> object:
        try:
            return read_scalar(Number(text), int)
        except InvalidConfig as exc:
            raise ValueError("value out of range" if "range" in str(exc) else "parse error") from None


class _Switch(Kind):
    label = ""

    def read(self, text: str) -> object:
        if text not in _TRUE | _FALSE:
            raise ValueError("parse error")
        return text in _TRUE

    def complaint(self, value: str, name: str, reason: str) -> str:
        return f"invalid boolean value {quote(value)} for -{name}: {reason}"

    def shown_default(self, default: object) -> str:  # noqa: ARG002  false goes without saying
        return ""


class _Duration(Kind):
    def __init__(self, *, explain: bool) -> None:
        self._explain = explain
        self.label = "value" if explain else "duration"

    def read(self, text: str) -> object:
        try:
            return parse_duration(text)
        except InvalidConfig as exc:
            raise ValueError(str(exc) if self._explain else "parse error") from None

    def shown_default(self, default: object) -> str:
        return format_duration(default) if isinstance(default, timedelta) and default else ""


class _OneOf(Kind):
    def __init__(self, values: Iterable[str], complaint: str) -> None:
        self._values = frozenset(values)
        self._complaint = complaint

    def read(self, text: str) -> object:
        if text.lower() not in self._values:
            raise ValueError(f"{self._complaint}: {quote(text)}")
        return text.lower()

    def shown_default(self, default: object) -> str:  # noqa: ARG002  the text says it
        return ""


class _Either(Kind):
    def read(self, text: str) -> object:
        return text


class _Commas(Kind):
    def read(self, text: str) -> object:
        return tuple(text.split(","))


def text(name: str, help_text: str, default: str = "") -> Decorator:
    """A text."""
    return _flag(Flag(name, _Text(), help_text, default=default))


def whole(name: str, help_text: str, default: int = 0) -> Decorator:
    """A whole number of 64 bits."""
    return _flag(Flag(name, _Whole(), help_text, default=default))


def switch(name: str, help_text: str) -> Decorator:
    """True where it stands alone or as ``-name=true``; false if absent or ``-name=false``."""
    return _flag(Flag(name, _Switch(), help_text, default=False))


def repeated(name: str, help_text: str) -> Decorator:
    """A tuple of texts, one for each time that the flag is given."""
    return _flag(Flag(name, _Either(), help_text, multiple=True))


def duration(name: str, help_text: str, default: timedelta = timedelta(), *, explain: bool = False) -> Decorator:
    """A Go duration; with ``explain`` an error says what is wrong with one."""
    return _flag(Flag(name, _Duration(explain=explain), help_text, default=default))


def either(name: str, help_text: str) -> Decorator:
    """True, False, or None if it is absent or neither ``true`` nor ``false``: SPIRE's filter with three states."""

    def known(_ctx: click.Context, _param: click.Parameter, value: str | None) -> bool | None:
        return {"true": True, "false": False}.get(value or "")

    return _flag(Flag(name, _Either(), help_text, default=None, callback=known))


def commas(name: str, help_text: str) -> Decorator:
    """A tuple of texts, given as one text with commas between."""
    return _flag(Flag(name, _Commas(), help_text, default=()))


def one_of(name: str, help_text: str, values: Iterable[str], default: str | None, *, complaint: str) -> Decorator:
    """One of some words, in any case; another is refused with ``complaint`` and the word."""
    return _flag(Flag(name, _OneOf(values, complaint), help_text, default=default))


def _flag(flag: Flag) -> Decorator:
    """Attach the flag as click's own decorators do."""

    def attach(function: Function) -> Function:
        if not hasattr(function, "__click_params__"):
            function.__click_params__ = []  # type: ignore[attr-defined]
        function.__click_params__.append(flag)  # type: ignore[attr-defined]
        return function

    return attach
