"""A block of a configuration file, and how a frozen dataclass is read from it by its annotations.

The rules are SPIRE's: names match in any case; of a scalar given twice the last counts, lists given twice
are joined, blocks given twice are merged; an empty text says "not set" wherever a plain text is not what is
asked for; numbers may be quoted.  Ours beside them: booleans may be quoted too, and a name that is not known
is an error wherever it stands.

Annotations that can be read: ``str``, ``int``, ``bool``, ``float``, ``Path``, ``timedelta`` (a Go duration), a
``StrEnum``, any class with ``parse(text)``, a nested dataclass, ``Block``, ``tuple[X, ...]`` of these, and ``X |
None``.  A field with ``repr=False`` is a secret: no error shows its value.  In a field's ``metadata``, ``key`` is
its name in the file where that differs, and ``deprecated`` says what to write instead.  A dataclass may also
name keys of SPIRE's that it has no field for: ``NOT_SUPPORTED`` are refused, ``WITHOUT_EFFECT`` are taken with a
warning, each with the reason; set to nothing, zero or false, both are passed over.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Final, Self, TypeVar, get_args, get_origin, get_type_hints

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime import hcl
from spiffe_core.runtime.hcl import Item, Number, Object, Value
from spiffe_core.runtime.scalars import read_scalar

T = TypeVar("T")


class Block:
    """One block: the items between two braces, and the dotted path to it, with which errors begin."""

    __slots__ = ("_items", "path")

    def __init__(self, items: Iterable[Item] = (), path: str = "") -> None:
        self._items = tuple(items)
        self.path = path

    @classmethod
    def parse(cls, text: str, path: str = "") -> Self:
        """Read HCL or JSON text.

        Raises:
            InvalidConfig: with the place of what is wrong.
        """
        return cls(hcl.parse(text).items, path)

    def __repr__(self) -> str:
        return f"<Block {self.path or 'of the file'}>"  # what is in it may be secret

    @property
    def items(self) -> tuple[Item, ...]:
        """What the block holds, in the order of the file."""
        return self._items

    def read(self, kind: type[T], *, warnings: list[str] | None = None, zero_is_unset: bool = False) -> T:
        """The dataclass ``kind``, with its defaults for what the block does not set.

        With ``zero_is_unset`` a number 0 is taken for "not set", as in SPIRE's own blocks.  ``warnings`` gets
        a text for each key that is deprecated or without effect.

        Raises:
            InvalidConfig: for a name that is not known, a value of a wrong type, a required name that is not
                set, or what the dataclass itself refuses; the text starts with the dotted path.
        """
        return _Reader([] if warnings is None else warnings, zero_is_unset=zero_is_unset).read(self, kind)

    def with_values(self, values: Mapping[str, str | int | bool]) -> "Block":
        """This block with values that take the place of its own, such as those of command-line flags."""
        return Block((*self._items, *(Item(name, _literal(value)) for name, value in values.items())), self.path)

    def with_defaults(self, values: Mapping[str, str | int | bool]) -> "Block":
        """This block with values for what it does not set itself."""
        return Block((*(Item(name, _literal(value)) for name, value in values.items()), *self._items), self.path)

    def path_of(self, name: str) -> str:
        """The dotted path of a name in this block."""
        return f"{self.path}.{name}" if self.path else name


def place(item: Item) -> str:
    """Where the item stands, to be put behind an error's text."""
    return f" (line {item.line})" if item.line else ""


def merged(items: Iterable[Item], path: str) -> tuple[Item, ...]:
    """The items of blocks of one name, one after the other; JSON writes several blocks as a list.

    Raises:
        InvalidConfig: if one of them is no block.
    """
    found: list[Item] = []
    for item in items:
        for value in item.value if isinstance(item.value, tuple) else (item.value,):
            if not isinstance(value, Object):
                raise InvalidConfig(f"{path}: must be a block {{ ... }}{place(item)}")
            found.extend(value.items)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Field:
    """How one field of a dataclass is read."""

    name: str
    key: str
    hint: Any
    required: bool
    secret: bool
    deprecated: str


@dataclass(frozen=True, slots=True)
class _Schema:
    fields: Mapping[str, _Field]
    """By name in the file, in lower case; so are the others."""
    not_supported: Mapping[str, str]
    without_effect: Mapping[str, str]


_UNSET: Final = object()


class _Reader:
    """One reading of a block and of those in it."""

    def __init__(self, warnings: list[str], *, zero_is_unset: bool) -> None:
        self._warnings = warnings
        self._zero_is_unset = zero_is_unset

    def read(self, block: Block, kind: type[T]) -> T:
        schema = _schema(kind)  # type: ignore[arg-type]  # mypy does not know that a class is hashable
        found: dict[str, list[Item]] = {}
        for item in block.items:
            name = item.key.lower()
            if name not in schema.fields:
                self._check_foreign(block, item, schema)
            else:
                found.setdefault(name, []).append(item)
        values: dict[str, object] = {}
        for name, field in schema.fields.items():
            path = block.path_of(field.key)
            value = self._field(found.get(name, []), field, path)
            if value is not _UNSET:
                values[field.name] = value
                if field.deprecated:
                    self._warnings.append(f"{path} is deprecated: {field.deprecated}")
            elif field.required:
                raise InvalidConfig(f"{path} must be configured")
        try:
            return kind(**values)
        except InvalidConfig as exc:
            text = str(exc)
            named = text.partition(":")[0].lower() in schema.fields
            raise InvalidConfig(block.path_of(text) if named or not block.path else f"{block.path}: {text}") from exc

    def _check_foreign(self, block: Block, item: Item, schema: _Schema) -> None:
        """Raise or warn for a key that the dataclass has no field for."""
        name, path = item.key.lower(), block.path_of(item.key)
        if name in schema.not_supported:
            if _says_something(item.value):
                raise InvalidConfig(f"{path}: {schema.not_supported[name]}{place(item)}")
        elif name in schema.without_effect:
            if _says_something(item.value):
                self._warnings.append(f"{path} has no effect: {schema.without_effect[name]}")
        else:
            near = difflib.get_close_matches(name, [field.key for field in schema.fields.values()], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InvalidConfig(f"{path}: unknown configuration detected{place(item)}{hint}")

    def _field(self, items: list[Item], field: _Field, path: str) -> object:
        """What the items of one name say, or _UNSET."""
        if not items:
            return _UNSET
        if get_origin(field.hint) is tuple:
            hint = get_args(field.hint)[0]
            values = [self._element(one, item, hint, field, path) for item in items for one in _elements(item, path)]
            return tuple(values) or _UNSET
        if field.hint is Block:
            return Block(merged(items, path), path)
        if _is_block(field.hint):
            return self.read(Block(merged(items, path), path), field.hint)
        last = items[-1]
        if self._zero_is_unset and last.value == Number("0"):
            return _UNSET
        if last.value == "" and (field.required or field.hint is not str):
            return _UNSET
        return _scalar(last.value, last, field.hint, field, path)

    def _element(self, value: Value, item: Item, hint: Any, field: _Field, path: str) -> object:  # noqa: ANN401
        """One value of a list."""
        if _is_block(hint):
            return self.read(Block(merged([Item(item.key, value, item.line)], path), path), hint)
        return _scalar(value, item, hint, field, path)


def _scalar(value: Value, item: Item, hint: Any, field: _Field, path: str) -> object:  # noqa: ANN401  an annotation
    try:
        return read_scalar(value, hint, secret=field.secret)
    except InvalidConfig as exc:
        raise InvalidConfig(f"{path}: {exc}{place(item)}") from exc


def _elements(item: Item, path: str) -> tuple[Value, ...]:
    """The values of a list; a single block stands for a list of one."""
    if isinstance(item.value, tuple):
        return item.value
    if isinstance(item.value, Object):
        return (item.value,)
    raise InvalidConfig(f'{path}: must be a list, such as ["..."]{place(item)}')


@lru_cache(maxsize=256)
def _schema(kind: Any) -> _Schema:  # noqa: ANN401  a dataclass
    """What a file may set, from the dataclass."""
    hints = get_type_hints(kind)
    found = (
        _Field(
            name=field.name,
            key=field.metadata.get("key", field.name),
            hint=_without_none(hints[field.name]),
            required=field.default is MISSING and field.default_factory is MISSING,
            secret=not field.repr,
            deprecated=field.metadata.get("deprecated", ""),
        )
        for field in fields(kind)
    )
    return _Schema(
        {field.key.lower(): field for field in found},
        {name.lower(): why for name, why in getattr(kind, "NOT_SUPPORTED", {}).items()},
        {name.lower(): why for name, why in getattr(kind, "WITHOUT_EFFECT", {}).items()},
    )


def _says_something(value: Value) -> bool:
    """Whether a value is more than nothing, zero or false."""
    if isinstance(value, Number):
        return value.text != "0"
    return bool(value.items if isinstance(value, Object) else value)


def _is_block(hint: Any) -> bool:  # noqa: ANN401  an annotation
    """Whether a field of that type is written as a block: a dataclass, unless it reads itself from text."""
    return is_dataclass(hint) and not hasattr(hint, "parse")


def _without_none(hint: Any) -> Any:  # noqa: ANN401  an annotation
    if isinstance(hint, UnionType):
        (hint,) = (one for one in get_args(hint) if one is not NoneType)
    return hint


def _literal(value: str | int | bool) -> Value:  # noqa: FBT001  a value, not a switch
    return value if isinstance(value, str | bool) else Number(str(value))
