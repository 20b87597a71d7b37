"""How JOSE spells bytes and objects: base64url without padding, JSON with unique names; each read strictly.

Both readers accept one spelling of a value.  Lenient ones let two validators read one text differently, and
let anybody alter a signed token without breaking its signature (RFC 7515 §2, §4; RFC 7517 §4).
"""

import base64
import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


def encode_base64url(data: bytes) -> str:
    """The bytes in base64url, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_base64url(text: object) -> bytes:
    """The bytes that a JSON string spells.

    Raises:
        ValueError: if it is no string, or not the one base64url spelling of any bytes.
    """
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text):
        raise ValueError("no base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64url(data) != text:
        raise ValueError("base64url with stray bits")
    return data


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401  JSON may be anything; callers check what it is
    """The value of a JSON text.

    Raises:
        ValueError: if it is no JSON, no UTF-8, holds a string that is no Unicode text (half a surrogate pair),
            names a member twice, nests too deep, or has a number that JSON has not (NaN) or nobody can need.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if r"\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def _unique(members: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a member name occurs twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
