"""HCL 1 written from a tree of items: what a plugin outside this process is configured with.

The text says what the tree says, in its order, repetitions included; comments and layout are gone.  A block is
written as ``key { ... }``, so ``key "label" { ... }`` comes out as a block in a block, which HCL 1 takes for the same.
"""

import re
from collections.abc import Iterable
from typing import Final

from spiffe_core.runtime.gotext import quote
from spiffe_core.runtime.hcl import Item, Number, Object, Value

_WORD: Final = re.compile(r"[^\W\d][\w-]*")
_RESERVED: Final = frozenset({"true", "false"})
_INTERPOLATION: Final = re.compile(r"\$(?=\{)")


def hcl_text(items: Iterable[Item], depth: int = 0) -> str:
    """The items, one a line."""
    return "".join(f"{'    ' * depth}{_key(item.key)} {_body(item.value, depth)}\n" for item in items)


def _key(key: str) -> str:
    return key if _WORD.fullmatch(key) and key not in _RESERVED else _quoted(key)


def _body(value: Value, depth: int) -> str:
    return _value(value, depth) if isinstance(value, Object) else f"= {_value(value, depth)}"


def _value(value: Value, depth: int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Number):
        return value.text
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Object):
        return f"{{\n{hcl_text(value.items, depth + 1)}{'    ' * depth}}}" if value.items else "{}"
    return f"[{', '.join(_value(one, depth) for one in value)}]"


def _quoted(text: str) -> str:
    """A string.  A dollar sign before a brace is written as an escape, else HCL would take what follows as it is."""
    return _INTERPOLATION.sub(r"\\x24", quote(text))
