r"""HCL 1 as SPIRE reads it: text to a tree of items that keeps order, repetition and lines.

The language is the one of SPIRE's parser (hashicorp/hcl 1): ``key = value``, ``key "label" { ... }``, lists,
``#``, ``//`` and ``/* */`` comments, heredocs, commas allowed between items; a text that starts with ``{`` is
JSON.  Nothing is merged or converted here: a key given twice is two items, a number is its text.

It is a reader of its own because the tree of pyhcl cannot tell what SPIRE tells apart: pyhcl merges a plugin
declared twice into one, makes ``"\n"`` and ``"\\n"`` the same, takes ``log_level = DEBUG``, ``1 + 1`` and
``a: 1``, refuses a list of booleans, and knows no lines.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.hcl_tokens import END, Scanner, Token

MAX_LENGTH: Final = 1024 * 1024
"""Longest configuration text that is read, in characters."""
MAX_DEPTH: Final = 50
"""Deepest nesting of blocks and lists."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it is written; what it means depends on the field that it is read into."""

    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """``key = value`` or ``key { ... }``; ``key "label" { ... }`` is an item in an item.  Line 0: not known."""

    key: str
    value: "Value"
    line: int = 0


@dataclass(frozen=True, slots=True)
class Object:
    """The items between two braces, in their order, repetitions included."""

    items: tuple[Item, ...] = ()


Value = str | bool | Number | Object | tuple["Value", ...]


def parse(text: str) -> Object:
    """Read HCL 1, or JSON if the first character that is no space is ``{``.

    Raises:
        InvalidConfig: ``At LINE:COLUMN: ...`` with the first thing that is wrong.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidConfig(f"configuration is longer than {MAX_LENGTH} characters")
    if text.lstrip().startswith("{"):
        return _parse_json(text)
    return _Parser(Scanner(text.replace("\r\n", "\n"))).parse()


class _Parser:
    """Recursive descent over tokens that are read one ahead."""

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self._token = scanner.next()

    def parse(self) -> Object:
        return Object(self._items(END, 0))

    def _items(self, end: str, depth: int) -> tuple[Item, ...]:
        """Items up to the token ``end``, which is left unread."""
        found: list[Item] = []
        while self._token.kind != end:
            found.append(self._item(depth))
            if self._token.kind == ",":
                self._next()
        return tuple(found)

    def _item(self, depth: int) -> Item:
        line = self._scanner.line(self._token.at)
        keys: list[str] = []
        while self._token.kind in {"word", "string"}:
            keys.append(self._next().value)
        if not keys:
            raise self._wrong(f"expected a key, got {self._token}")
        name = " ".join(keys)
        if self._token.kind == "=":
            if len(keys) > 1:
                raise self._wrong(f"key '{name}' takes a block, not an assignment")
            self._next()
            return Item(keys[0], self._value(depth), line)
        if self._token.kind != "{":
            raise self._wrong(f"key '{name}' expected start of object ('{{') or assignment ('=')")
        value = self._object(depth + len(keys) - 1)
        for key in reversed(keys[1:]):
            value = Object((Item(key, value, line),))
        return Item(keys[0], value, line)

    def _value(self, depth: int) -> Value:
        match self._token.kind:
            case "{":
                return self._object(depth)
            case "[":
                return self._list(depth)
            case "string" | "heredoc":
                return self._next().value
            case "number":
                return Number(self._next().value)
            case "bool":
                return self._next().value == "true"
        hint = " (text needs double quotes)" if self._token.kind == "word" else ""
        raise self._wrong(f"expected a value, got {self._token}{hint}")

    def _object(self, depth: int) -> Object:
        self._open(depth)
        items = self._items("}", depth + 1)
        self._next()
        return Object(items)

    def _list(self, depth: int) -> tuple[Value, ...]:
        self._open(depth)
        found: list[Value] = []
        while self._token.kind != "]":
            if self._token.kind == ",":
                self._next()
                continue
            found.append(self._value(depth + 1))
            if self._token.kind not in {",", "]"}:
                raise self._wrong(f"expected comma or list end, got {self._token}")
        self._next()
        return tuple(found)

    def _open(self, depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise self._wrong(f"nested deeper than {MAX_DEPTH} levels")
        self._next()

    def _next(self) -> Token:
        """The current token, after which the next one is read."""
        token = self._token
        self._token = self._scanner.next()
        return token

    def _wrong(self, message: str) -> InvalidConfig:
        return self._scanner.error(self._token.at, message)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object's members in their order, repetitions included; never an array."""


def _parse_json(text: str) -> Object:
    try:
        tree = json.loads(text, object_pairs_hook=_Pairs, parse_int=Number, parse_float=Number, parse_constant=Number)
    except json.JSONDecodeError as exc:
        raise InvalidConfig(f"At {exc.lineno}:{exc.colno}: {exc.msg}") from exc
    except RecursionError:
        raise InvalidConfig(f"nested deeper than {MAX_DEPTH} levels") from None
    return Object(tuple(_json_items(tree, 0)))


def _json_items(pairs: _Pairs, depth: int) -> Iterable[Item]:
    """The members; a null says "not set"."""
    return (Item(key, _json_value(value, depth + 1)) for key, value in pairs if value is not None)


def _json_value(value: object, depth: int) -> Value:
    if depth > MAX_DEPTH:
        raise InvalidConfig(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, _Pairs):
        return Object(tuple(_json_items(value, depth)))
    if isinstance(value, list):
        return tuple(_json_value(one, depth + 1) for one in value if one is not None)
    assert isinstance(value, str | bool | Number)  # what the decoder's hooks leave
    return value
