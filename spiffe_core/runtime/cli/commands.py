"""Commands and groups of commands, with help and errors as SPIRE's command line has them.

A group knows its commands by name and imports the module of one only when it is called, so that help is quick
and ``steeple-server token generate`` does not load what ``run`` needs.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final, NoReturn

import click

from spiffe_core.errors import SpiffeError
from spiffe_core.runtime.cli.errors import CommandError, UsageFault
from spiffe_core.runtime.cli.flags import Flag

UNKNOWN_COMMAND: Final = 127
INTERRUPTED: Final = 130
_HELP: Final = frozenset({"h", "help"})


class Command(click.Command):
    """A command whose flags are read as Go's flag package reads them."""

    def __init__(self, name: str, **more: Any) -> None:  # noqa: ANN401  click's own
        super().__init__(name, **{**more, "add_help_option": False})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the flags into click's form, and let click go on."""
        known = {name: flag for flag in self._flags() for name in (flag.go_name, flag.kebab)}
        rest, found = list(args), []
        while rest:
            arg = rest.pop(0)
            name, equals, value = arg.lstrip("-").partition("=") if arg.startswith("-") else ("", "", "")
            if arg == "--" and not rest:
                break
            if not name or arg.startswith("---"):
                what = "bad flag syntax" if arg.startswith("-") and arg not in {"-", "--"} else "unexpected argument"
                raise UsageFault(f"{what}: {arg}", ctx)
            if name in _HELP and name not in known:
                click.echo(ctx.get_help(), err=True)
                ctx.exit()
            if name not in known:
                raise UsageFault(f"flag provided but not defined: -{name}", ctx)
            flag = known[name]
            if not equals:
                if not flag.kind.label:
                    value = "true"
                elif rest:
                    value = rest.pop(0)
                else:
                    raise UsageFault(f"flag needs an argument: -{name}", ctx)
            found.append(f"--{flag.kebab}={value}")
        return super().parse_args(ctx, found)

    def get_help(self, ctx: click.Context) -> str:
        """Usage in the form of Go's flag package, by name."""
        name = ctx.command_path.partition(" ")[2]
        flags = sorted(self._flags(), key=lambda flag: flag.go_name)
        return "\n".join([f"Usage of {name}:", *(flag.usage for flag in flags)])

    def _flags(self) -> list[Flag]:
        return [param for param in self.params if isinstance(param, Flag)]


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that is imported when it is called: ``module:attribute``."""

    where: str
    synopsis: str = ""


class Group(click.Group):
    """Commands under a common word; the root's are the program's."""

    def __init__(self, name: str, lazy: Mapping[str, Lazy] | None = None, *, default: str = "") -> None:
        """Take the commands that are imported when called, and which is meant when none is named."""
        super().__init__(name, add_help_option=False, no_args_is_help=False, invoke_without_command=True)
        self._lazy = dict(lazy or {})
        self._default = default

    def add(self, name: str, synopsis: str) -> Callable[[Callable[..., Any]], Command]:
        """Declare a command of this group; a decorator, above those of its flags."""

        def declare(function: Callable[..., Any]) -> Command:
            command = click.command(name, cls=Command, short_help=synopsis)(function)
            self.add_command(command)
            return command

        return declare

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, sorted."""
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name in self._lazy:
            module, _, attribute = self._lazy[cmd_name].where.partition(":")
            command = getattr(import_module(module), attribute)
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the command that is meant; without one, say which there are."""
        first = args[0] if args else ""
        if first.startswith("-") and first.lstrip("-") in _HELP:
            self._show_help(ctx, 0)
        if ctx.parent is None and first in {"-v", "-version", "--version"}:
            click.echo(version("steeple"), err=True)
            ctx.exit()
        if first not in self.list_commands(ctx):
            if not self._default or (first and not first.startswith("-")):
                self._show_help(ctx, UNKNOWN_COMMAND if ctx.parent is None else 1)
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        """The commands and what each is for, in the form of SPIRE's."""
        names = self.list_commands(ctx)
        width = max(map(len, names))
        lines = [f"    {name:<{width}}    {self._synopsis(name)}" for name in names]
        if ctx.parent is None:
            head = f"Usage: {ctx.info_name} [--version] [--help] <command> [<args>]\n\nAvailable commands are:"
            return "\n".join([head, *lines, ""])
        head = "This command is accessed by using one of the subcommands below.\n\nSubcommands:"
        return "\n".join([head, *lines])

    def _synopsis(self, name: str) -> str:
        if name in self._lazy:
            return self._lazy[name].synopsis
        return self.commands[name].short_help or ""

    def _show_help(self, ctx: click.Context, code: int) -> NoReturn:
        click.echo(self.get_help(ctx), err=True)
        ctx.exit(code)


def run(root: Group, program: str, args: Sequence[str]) -> int:
    """Run a command line; returns its exit code.  Nothing that goes wrong in it gets further than here."""
    try:
        _check_text(args)
        code = root.main(list(args), prog_name=program, standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except SpiffeError as exc:
        CommandError(str(exc)).show()
        return 1
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter shall not stumble over that when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as exc:
        CommandError(str(exc)).show()
        return 1
    except Exception as exc:  # noqa: BLE001  the border of the program: a bug is told in one line
        CommandError(f"internal error: {type(exc).__name__}: {exc}; please report this bug").show()
        return 1
    return code if isinstance(code, int) else 0


def _check_text(args: Sequence[str]) -> None:
    """Raise unless every argument is text, which neither messages nor terminals can do without."""
    for arg in args:
        try:
            arg.encode()
        except UnicodeEncodeError:
            shown = arg.encode(errors="backslashreplace").decode()
            raise CommandError(f'argument "{shown}" is no UTF-8 text') from None
