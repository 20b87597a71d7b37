"""Command lines run in this process: what they print, where, and the exit code."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent.cli.main import root as agent_root
from server.cli.main import root as server_root
from spiffe_core.runtime.cli.commands import Group, run

_MASKS: Final = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC"), "<time>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<rfc3339>"),
    (re.compile(r"-----BEGIN ([A-Z ]+)-----\n.*?\n-----END \1-----", re.DOTALL), r"<\1>"),
    (re.compile(r"\bey[\w-]+\.[\w-]+\.[\w-]+"), "<jwt>"),
    (re.compile(r"after [0-9.]+[mµ]?s\b"), "after <while>"),
)


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def masked(self) -> "Ran":
        """The same with ``<time>``, ``<uuid>`` and so on for what is another each time."""
        return Ran(self.code, _masked(self.out), _masked(self.err))


@dataclass(frozen=True)
class CommandLine:
    """The commands of a program, with some arguments that each call ends in."""

    root: Group
    program: str
    ending: tuple[str, ...] = ()

    def __call__(self, *args: object, stdin: str | bytes = "") -> Ran:
        """Run a command."""
        return run_cli(self.root, self.program, *args, *self.ending, stdin=stdin)


def server_cli(*ending: object) -> CommandLine:
    """The commands of ``steeple-server``."""
    return CommandLine(server_root, "steeple-server", tuple(map(str, ending)))


def agent_cli(*ending: object) -> CommandLine:
    """The commands of ``steeple-agent``."""
    return CommandLine(agent_root, "steeple-agent", tuple(map(str, ending)))


def run_cli(root: Group, program: str, *args: object, stdin: str | bytes = "") -> Ran:
    """Run a command line whose standard input holds that text."""
    out, err = io.StringIO(), io.StringIO()
    with _input(stdin), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(root, program, [str(arg) for arg in args])
    return Ran(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _input(content: str | bytes) -> Iterator[None]:
    before = sys.stdin
    data = content.encode() if isinstance(content, str) else content
    sys.stdin = io.TextIOWrapper(io.BytesIO(data))
    try:
        yield
    finally:
        sys.stdin = before


@contextlib.contextmanager
def umask_kept() -> Iterator[None]:
    """Put the process's umask back: ``run`` tightens it."""
    before = os.umask(0o022)
    os.umask(before)
    try:
        yield
    finally:
        os.umask(before)


def _masked(text: str) -> str:
    for pattern, shown in _MASKS:
        text = pattern.sub(shown, text)
    return text
