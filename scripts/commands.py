"""The page of the command lines, docs/commands.md, made from the commands themselves.

``python -m scripts.commands --check`` fails unless the page is current, ``--write`` writes it.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from agent.cli.main import root as agent
from server.cli.main import root as server
from spiffe_core.runtime.cli.commands import Command, Group
from spiffe_core.runtime.cli.flags import Flag

ROOT: Final = Path(__file__).parents[1]
DOCUMENT: Final = Path("docs/commands.md")
PROGRAMS: Final = (("steeple-server", server), ("steeple-agent", agent))

_COMMON: Final = frozenset({"instance", "output", "socketPath"})
_HEAD: Final = """\
# Commands

Made by `make docs` from the commands themselves; do not edit.

They are SPIRE's: the same names, flags, output and exit codes; only `keys` is ours. A flag may be written with one dash
or two, with `=` or without, and in kebab case: `-spiffeID ID`, `--spiffeID=ID`, `--spiffe-id ID`.

These flags are not repeated below:

| flag | value | |
|---|---|---|
| `-output` | `pretty` or `json` | form of the output; JSON has SPIRE's shape |
| `-socketPath` | path | socket of the program that is asked |
| `-instance` | text | takes the place of `%i` in the socket's path that `SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE` or \
`SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE` holds |

Where neither is given, the socket is the one in `SPIRE_SERVER_PRIVATE_SOCKET` or `SPIRE_AGENT_PUBLIC_SOCKET`, else
`/tmp/spire-server/private/api.sock` or `/tmp/spire-agent/public/api.sock`; `logger` and `debug` of an agent ask at
`/tmp/spire-agent/private/admin.sock`, which is served if `admin_socket_path` says so.
"""


def leaves(group: Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str, Command]]:
    """The commands below a group: name with all words, what it does, and the command."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, Group):
            yield from leaves(command, (*path, name))
        elif isinstance(command, Command):
            text = (command.help or command.short_help or "").strip().partition("\n")[0]
            yield " ".join((*path, name)), text, command


def render() -> str:
    """The page."""
    parts = [_HEAD]
    for program, root in PROGRAMS:
        parts.append(f"## {program}\n")
        for name, text, command in leaves(root):
            parts.append(f"### {program} {name}\n\n{text}\n")
            known = frozenset() if name in {"run", "validate"} else _COMMON  # where -socketPath is a setting
            own = (flag for flag in command.params if isinstance(flag, Flag) and flag.go_name not in known)
            flags = sorted(own, key=lambda flag: flag.go_name)
            if flags:
                parts.append("| flag | value | |\n|---|---|---|\n" + "".join(_row(flag) for flag in flags))
    return "\n".join(parts)


def _row(flag: Flag) -> str:
    default = flag.kind.shown_default(flag.default)
    text = f"{flag.help}{f' (default `{default}`)' if default else ''}".replace("|", "\\|")
    return f"| `-{flag.go_name}` | {flag.kind.label} | {text} |\n"


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Check or write, as the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.commands", description="The page of the command lines.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="fail unless the page is current")
    what.add_argument("--write", action="store_true", help=f"write {DOCUMENT}")
    options = parser.parse_args(arguments)
    page = root / DOCUMENT
    if options.write:
        page.write_text(render())
    elif not page.exists() or page.read_text() != render():
        print(f"{DOCUMENT} is stale: run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
