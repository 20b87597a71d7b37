"""The tables of settings in the documentation, made from the dataclasses that read the settings.

A page is written by hand and names a dataclass where its table is to stand:

    <!-- settings: keymanagers.disk:DiskConfig -->
    <!-- end of settings -->

What lies between the two lines is replaced.  A name comes from the field, its description from the text below the
field (its attribute docstring), its default from the dataclass: so a page says what the program does.  A plugin that is
built in has a page, ``docs/plugins/<type>_<name>.md`` in lower case, with the table of its data if it takes any.

    python -m scripts.settings --check    every table is current, every dataclass that a file can hold has one
    python -m scripts.settings --write    writes the tables
"""

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import timedelta
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

from spiffe_core.runtime.config import PluginType
from spiffe_core.runtime.levels import Level

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = Path("docs")
PROCESSES: Final = ("server.config:ServerBlock", "agent.config:AgentBlock")
"""The dataclasses of the blocks that have the settings of a process; other blocks of the file are named by pages."""
SHARED: Final = ("spiffe_core.runtime.settings:Telemetry", "spiffe_core.runtime.settings:HealthChecks")

_TABLE: Final = re.compile(r"(<!-- settings: (\S+) -->\n)(.*?)(<!-- end of settings -->\n)", re.DOTALL)
_HEAD: Final = "| setting | value | default | |\n|---|---|---|---|\n"
_KINDS: Final = {str: "text", int: "number", bool: "`true` or `false`", Path: "path", timedelta: "duration"}
_UNITS: Final = ((3600, "h"), (60, "m"), (1, "s"))


class Unreadable(Exception):
    """A page names what there is not, or a setting has no description; the text says where."""


def table(name: str) -> str:
    """The table of the dataclass ``module:Class``, with what it refuses and what it takes without effect.

    Raises:
        Unreadable: if there is no such dataclass, or one of its fields has no description.
    """
    kind = _load(name)
    texts, hints = _descriptions(kind), get_type_hints(kind)
    rows = []
    for field in fields(kind):
        if field.name not in texts:
            raise Unreadable(f"{name}.{field.name} has no description")
        rows.append(_row(field, hints[field.name], texts[field.name]))
    if not rows:
        return "It has no settings.\n"
    text = _HEAD + "".join(rows)
    for member, title in (("NOT_SUPPORTED", "Refused"), ("WITHOUT_EFFECT", "Taken without effect, with a warning")):
        reasons: Mapping[str, str] = getattr(kind, member, {})
        if reasons:
            text += f"\n{title}:\n\n" + "".join(f"- {keys}: {why}\n" for why, keys in _by_reason(reasons).items())
    return text


def _by_reason(reasons: Mapping[str, str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for key, why in reasons.items():
        found[why] = f"{found[why]}, `{key}`" if why in found else f"`{key}`"
    return found


def filled(text: str) -> str:
    """A page with its tables made anew.

    Raises:
        Unreadable: if one of them cannot be made.
    """
    return _TABLE.sub(lambda found: f"{found[1]}\n{table(found[2])}\n{found[4]}", text)


def pages(root: Path) -> Iterator[Path]:
    """The pages that have tables."""
    for path in sorted((root / DOCS).rglob("*.md")):
        if "<!-- settings:" in path.read_text():
            yield path


def plugins() -> Iterator[tuple[Path, str]]:
    """The page of each built-in plugin, and the dataclass of its data, if it takes any."""
    for process in PROCESSES:
        types: Sequence[PluginType] = import_module(process.partition(":")[0]).PLUGIN_TYPES
        for kind in types:
            for name, data in kind.built_in.items():
                yield DOCS / "plugins" / f"{kind.name}_{name}.md".lower(), data


def missing(root: Path) -> Iterator[str]:
    """What has no page or table and should have one."""
    named = {found[2] for path in pages(root) for found in _TABLE.finditer(path.read_text())}
    for name in (*PROCESSES, *SHARED):
        for wanted in (name, *_blocks_in(_load(name))):
            if wanted not in named:
                yield f"no page has a table for {wanted}"
    for path, data in dict.fromkeys(plugins()):
        if not (root / path).exists():
            yield f"there is no {path}"
        elif data and data not in {found[2] for found in _TABLE.finditer((root / path).read_text())}:
            yield f"{path} has no table for {data}"


def _load(name: str) -> type[Any]:
    module, _, attribute = name.partition(":")
    try:
        kind = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise Unreadable(f"there is no {name}") from exc
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise Unreadable(f"{name} is no dataclass")
    return kind


def _descriptions(kind: type[Any]) -> Mapping[str, str]:
    """The attribute docstrings of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for node, after in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[ast.unparse(node.target)] = " ".join(str(after.value.value).split()).replace("``", "`")
    return found


def _row(field: "Field[Any]", hint: Any, text: str) -> str:  # noqa: ANN401  an annotation
    if "deprecated" in field.metadata:
        text += f" *Deprecated: {field.metadata['deprecated']}.*"
    cells = (f"`{field.metadata.get('key', field.name)}`", _value(hint), _default(field, hint), text)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _value(hint: Any) -> str:  # noqa: ANN401  an annotation
    """What is written behind the name."""
    if isinstance(hint, UnionType):
        (hint,) = (one for one in get_args(hint) if one is not NoneType)
    if get_origin(hint) is tuple:
        return f"list of {_value(get_args(hint)[0])}"
    if is_dataclass(hint) and not hasattr(hint, "parse"):
        return "block"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "name"
    return _KINDS.get(hint, "text")


def _default(field: "Field[Any]", hint: Any) -> str:  # noqa: ANN401  an annotation
    if field.default_factory is not MISSING:
        return "as below" if _value(hint) == "block" else f"`{field.default_factory()}`"
    value = field.default
    if value is MISSING:
        return "**required**"
    if value in {None, "", ()} or value == Path():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, Level):
        value = value.name.lower()
    return f"`{_duration(value) if isinstance(value, timedelta) else value}`"


def _duration(value: timedelta) -> str:
    """As short as a file may have it: `24h`, `1h30m`, `0s`."""
    rest, text = int(value.total_seconds()), ""
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _blocks_in(kind: type[Any]) -> Iterator[str]:
    """The dataclasses of the blocks inside a block."""
    for hint in get_type_hints(kind).values():
        for one in get_args(hint) or (hint,):
            if isinstance(one, type) and is_dataclass(one) and not hasattr(one, "parse"):
                yield f"{one.__module__}:{one.__name__}"
                yield from _blocks_in(one)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Check or write, as the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.settings", description="Tables of settings.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="fail unless every table is there and current")
    what.add_argument("--write", action="store_true", help="write the tables")
    options = parser.parse_args(arguments)
    problems = list(missing(root))
    for path in pages(root):
        text = path.read_text()
        try:
            wanted = filled(text)
        except Unreadable as exc:
            problems.append(f"{path.relative_to(root)}: {exc}")
            continue
        if options.write:
            path.write_text(wanted)
        elif text != wanted:
            problems.append(f"{path.relative_to(root)} is stale: run make docs")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
