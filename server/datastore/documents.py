"""Lists in one column: JSON in ASCII, binary members as base64."""

import base64
import json
from collections.abc import Iterable
from typing import Any, Final

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def dump(content: object) -> str:
    """The content as a document, as short as it can be."""
    return _encode(content) if content else ("{}" if isinstance(content, dict) else "[]")


def load(text: str) -> Any:  # noqa: ANN401  whoever reads a column knows what it wrote
    """The content of a document."""
    return json.loads(text)


def dump_binary(members: Iterable[bytes]) -> str:
    """Binary values as a document."""
    return dump([to_text(member) for member in members])


def load_binary(text: str) -> tuple[bytes, ...]:
    """Binary values from their document."""
    return tuple(map(from_text, load(text)))


def to_text(value: bytes) -> str:
    """A binary value as a member of a document."""
    return base64.b64encode(value).decode()


def from_text(text: str) -> bytes:
    """A binary value from the member of a document that holds it."""
    return base64.b64decode(text)
