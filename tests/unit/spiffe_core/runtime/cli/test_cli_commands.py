"""Groups of commands, their help and exit codes, and that nothing that goes wrong ends in a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from spiffe_core.errors import InvalidSpiffeId
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Group, Lazy, run
from spiffe_core.runtime.cli.errors import CommandError, PlainError
from tests.support.cli_runs import Ran, agent_cli, run_cli, server_cli

ROOT = Path(__file__).parents[5]

root = Group("program", {"late": Lazy("tests.support.late_command:late", "Comes late")})
things = Group("thing")
root.add_command(things)
fetch = Group("fetch", default="one")
root.add_command(fetch)

FAILURES = {
    "command": CommandError("it failed"),
    "plain": PlainError("it failed"),
    "ours": InvalidSpiffeId("no ID"),
    "system": FileNotFoundError(2, "No such file or directory", "/x"),
    "interrupt": KeyboardInterrupt(),
    "bug": ZeroDivisionError("by zero"),
}


@things.add("break", "Breaks")
@flags.text("how", "How it breaks")
def break_(how: str) -> None:
    raise FAILURES[how]


@things.add("say", "Says something")
def say() -> None:
    click.echo("something")


@fetch.add("one", "Fetches one")
@flags.text("what", "What to fetch")
def one(what: str) -> None:
    click.echo(f"one {what}")


@pytest.mark.parametrize(
    ("how", "ran"),
    [
        ("command", Ran(1, err="Error: it failed\n")),
        ("plain", Ran(1, err="it failed\n")),
        ("ours", Ran(1, err="Error: no ID\n")),
        ("system", Ran(1, err="Error: [Errno 2] No such file or directory: '/x'\n")),
        ("interrupt", Ran(130, err="\n")),
        ("bug", Ran(1, err="Error: internal error: ZeroDivisionError: by zero; please report this bug\n")),
    ],
)
def test_what_goes_wrong_in_a_command_is_told_in_one_line(how, ran):
    assert run_cli(root, "program", "thing", "break", "-how", how) == ran


def test_a_command_without_trouble_ends_with_0():
    assert run_cli(root, "program", "thing", "say") == Ran(0, out="something\n")


TOP = (
    "Usage: program [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n"
    "    fetch    \n    late     Comes late\n    thing    \n\n"
)
SUB = (
    "This command is accessed by using one of the subcommands below.\n\n"
    "Subcommands:\n    break    Breaks\n    say      Says something\n"
)


@pytest.mark.parametrize(
    ("args", "ran"),
    [
        ([], Ran(127, err=TOP)),
        (["nope"], Ran(127, err=TOP)),
        (["-nope"], Ran(127, err=TOP)),
        (["-h"], Ran(0, err=TOP)),
        (["--help"], Ran(0, err=TOP)),
        (["thing"], Ran(1, err=SUB)),
        (["thing", "nope"], Ran(1, err=SUB)),
        (["thing", "-help"], Ran(0, err=SUB)),
    ],
)
def test_who_names_no_command_is_shown_which_there_are(args, ran):
    ended = run_cli(root, "program", *args)
    assert (ended.code, ended.out, ended.err.rstrip("\n")) == (ran.code, ran.out, ran.err.rstrip("\n"))


@pytest.mark.parametrize(
    ("args", "ran"),
    [
        (["fetch"], Ran(0, out="one \n")),
        (["fetch", "-what", "x"], Ran(0, out="one x\n")),
        (["fetch", "one", "-what", "x"], Ran(0, out="one x\n")),
        (["fetch", "two"], Ran(1, err="This command is accessed by using one of the subcommands below.")),
    ],
)
def test_a_group_may_mean_one_of_its_commands_when_none_is_named(args, ran):
    ended = run_cli(root, "program", *args)
    assert (ended.code, ended.out) == (ran.code, ran.out)
    assert ended.err.startswith(ran.err)


@pytest.mark.parametrize("flag", ["-version", "--version", "-v"])
def test_the_version_is_told(flag):
    ran = server_cli()(flag)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err[0].isdigit()


SERVER = {
    "agent": ["ban", "count", "evict", "list", "purge", "show"],
    "bundle": ["count", "delete", "list", "set", "show"],
    "debug": ["getinfo"],
    "entry": ["count", "create", "delete", "show", "update"],
    "experimental": ["bundle"],
    "experimental bundle": ["delete", "list", "set", "show"],
    "jwt": ["mint"],
    "keys": ["check", "list", "show"],
    "logger": ["get", "reset", "set"],
    "token": ["generate"],
    "x509": ["mint"],
}
AGENT = {
    "api": ["fetch", "validate", "watch"],
    "api fetch": ["jwt", "x509"],
    "api validate": ["jwt"],
    "debug": ["getinfo"],
    "logger": ["get", "reset", "set"],
}


@pytest.mark.parametrize(
    ("cli", "groups", "alone"),
    [
        (server_cli(), SERVER, ["healthcheck", "run", "validate"]),
        (agent_cli(), AGENT, ["healthcheck", "run", "validate"]),
    ],
    ids=["server", "agent"],
)
def test_every_command_is_there_and_has_help(cli, groups, alone):
    top = _names(cli("-h").err)
    assert top == sorted([*alone, *(name for name in groups if " " not in name)])
    for name, commands in groups.items():
        assert _names(cli(*name.split(), "-h").err) == commands
        for command in commands:
            if f"{name} {command}" not in groups:
                assert cli(*name.split(), command, "-h").err.startswith(f"Usage of {name} {command}:\n")
    for name in alone:
        assert cli(name, "-h").err.startswith(f"Usage of {name}:\n")


def _names(help_text: str) -> list[str]:
    return [line.split()[0] for line in help_text.splitlines() if line.startswith("    ")]


def test_help_does_not_load_what_the_command_needs():
    script = (
        "import sys; from spiffe_core.runtime.cli.commands import run; from server.cli.main import root\n"
        "code = run(root, 'steeple-server', ['run', '-h'])\n"
        "sys.exit(code or [name for name in ('grpc', 'sqlalchemy', 'cryptography') if name in sys.modules] or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr


def test_a_reader_that_left_is_no_reason_for_a_traceback():
    read, write = os.pipe()
    os.close(read)
    script = (
        "import click; from spiffe_core.runtime.cli.commands import Group, run\n"
        "root = Group('p'); group = Group('g'); root.add_command(group)\n"
        "group.add('say', '')(lambda: [click.echo('x' * 1000) for _ in range(1000)])\n"
        "raise SystemExit(run(root, 'p', ['g', 'say']))"
    )
    try:
        ended = subprocess.run(
            [sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_a_command_that_is_imported_late_is_called():
    assert run_cli(root, "program", "late") == Ran(0, out="late\n")


def test_the_exit_code_is_the_commands_own():
    lazy = Group("program")
    lazy.add("fail", "Fails")(lambda: 3)
    assert run(lazy, "program", ["fail"]) == 3


@pytest.mark.parametrize("arg", ["x\udcff", "-how=\ud800"])
def test_an_argument_that_is_no_text_is_refused(arg):
    ran = run_cli(root, "program", "thing", "break", arg)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith('Error: argument "')
    assert ran.err.endswith(" is no UTF-8 text\n")


@pytest.mark.parametrize(
    "command", [["bundle", "set", "-id", "other.test"], ["entry", "create", "-data", "-"]], ids=["bundle", "entries"]
)
def test_a_closed_standard_input_is_told_as_such(command):
    ended = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "server.cli.main", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "Error: standard input is closed\n")
