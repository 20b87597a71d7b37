"""Results of commands: pretty texts, or JSON with ``-output json``.

JSON is that of SPIRE's printer: protobuf's JSON under the fields' own names, unset scalars and lists included,
unset messages left out, keys sorted, on one line.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from spiffe_core.runtime.cli import flags

JSON: Final = "json"
PRETTY: Final = "pretty"
_EXPONENT: Final = 1e21
"""From here on Go writes numbers with an exponent."""


def output_flag(function: flags.Function) -> flags.Function:
    """Declare ``-output``; the command gets ``output``, which is ``json`` or ``pretty``."""
    return _flag("output", "Form of the output, pretty or json.", PRETTY)(function)


def old_output_flag(function: flags.Function) -> flags.Function:
    """Declare ``-format``, a former name of ``-output``; the command gets ``format``, None if it is not given."""
    return _flag("format", "Former name of -output", None)(function)


def _flag(name: str, text: str, default: str | None) -> flags.Decorator:
    words = ("pretty", "prettyprint", "json")
    return flags.one_of(name, text, words, default, complaint="bad formatter flag: unknown format option")


def echo_json(*results: Message | Mapping[str, Any]) -> None:
    """Print one result as an object, or several as an array."""
    texts = [json_text(result) for result in results]
    click.echo(_for_html(texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"))


def json_text(result: Message | Mapping[str, Any]) -> str:
    """One result as JSON; a message's keys are sorted, a mapping's keep their order."""
    if not isinstance(result, Message):
        return json.dumps(result, separators=(",", ":"), ensure_ascii=False)
    plain = MessageToDict(result, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return json.dumps(_whole(plain), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _whole(value: Any) -> Any:  # noqa: ANN401  whatever JSON holds
    """The value with its whole numbers written as such: those of a JWT's claims come as floats."""
    match value:
        case dict():
            return {key: _whole(one) for key, one in value.items()}
        case list():
            return [_whole(one) for one in value]
        case float() if value.is_integer() and abs(value) < _EXPONENT:
            return int(value)
    return value


def _for_html(text: str) -> str:
    """Go's JSON encoder writes these so that no browser takes them for markup."""
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def plural(count: int, one: str, many: str) -> str:
    """``1 entry``, ``2 entries``."""
    return f"{count} {one if count == 1 else many}"
