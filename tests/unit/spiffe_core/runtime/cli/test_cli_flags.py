"""Flags: the spellings of Go's flag package, its kinds of values, and its texts for what is wrong."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.output import old_output_flag, output_flag
from tests.support.cli_runs import Ran, run_cli

GIVEN: list[dict[str, Any]] = []
group = Group("do")
root = Group("program")
root.add_command(group)


@group.add("it", "Does it")
@flags.text("spiffeID", "An ID")
@flags.text("matchSelectorsOn", "How", "superset")
@flags.whole("x509SVIDTTL", "Seconds")
@flags.whole("ttl", "Seconds", 600)
@flags.switch("dryRun", "Do nothing")
@flags.repeated("dns", "A name")
@flags.duration("expiredFor", "How long", timedelta(days=30))
@flags.duration("timeout", "How long", timedelta(seconds=5), explain=True)
@flags.either("canReattest", "Three states")
@flags.commas("audience", "Several")
@output_flag
@old_output_flag
def it(**given: Any) -> None:
    GIVEN.append(given)


DEFAULTS = {
    "spiffe_id": "",
    "match_selectors_on": "superset",
    "x509_svid_ttl": 0,
    "ttl": 600,
    "dry_run": False,
    "dns": (),
    "expired_for": timedelta(days=30),
    "timeout": timedelta(seconds=5),
    "can_reattest": None,
    "audience": (),
    "output": "pretty",
    "format": None,
}


def given(*args: str) -> dict[str, Any]:
    """What the command gets that is not a default."""
    GIVEN.clear()
    assert run_cli(root, "program", "do", "it", *args) == Ran(0)
    [values] = GIVEN
    return {name: value for name, value in values.items() if value != DEFAULTS[name]}


def refusal(*args: str) -> str:
    """The first line of what a command line is refused with."""
    ran = run_cli(root, "program", "do", "it", *args)
    assert (ran.code, ran.out) == (1, "")
    first, _, usage = ran.err.partition("\n")
    assert usage.startswith("Usage of do it:\n  -audience value\n    \tSeveral\n")
    return first


def test_without_flags_there_are_defaults():
    assert given() == {}


@pytest.mark.parametrize(
    "args",
    [
        ["-spiffeID", "a=b"],
        ["-spiffeID=a=b"],
        ["--spiffeID", "a=b"],
        ["--spiffeID=a=b"],
        ["--spiffe-id", "a=b"],
        ["-spiffe-id=a=b"],
        ["-spiffeID", "x", "-spiffeID", "a=b"],
        ["-spiffeID", "a=b", "--"],
    ],
)
def test_a_flag_may_be_spelled_in_several_ways(args):
    assert given(*args) == {"spiffe_id": "a=b"}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-spiffeID", "-ttl"], {"spiffe_id": "-ttl"}),
        (["-spiffeID", "--"], {"spiffe_id": "--"}),
        (["-spiffeID", "☃ ü"], {"spiffe_id": "☃ ü"}),
        (["-spiffeID="], {}),
        (["-ttl", "-5"], {"ttl": -5}),
        (["-ttl", "0x10"], {"ttl": 16}),
        (["-ttl", "010"], {"ttl": 8}),
        (["-ttl", "1_000"], {"ttl": 1000}),
        (["--x509-svid-ttl=5"], {"x509_svid_ttl": 5}),
        (["-dryRun"], {"dry_run": True}),
        (["-dryRun=T"], {"dry_run": True}),
        (["-dryRun", "-dryRun=0"], {}),
        (["--dry-run", "-ttl", "5"], {"dry_run": True, "ttl": 5}),
        (["-dns", "a", "-dns", "b,c"], {"dns": ("a", "b,c")}),
        (["-expiredFor", "1h30m"], {"expired_for": timedelta(minutes=90)}),
        (["-expiredFor", "-1s"], {"expired_for": timedelta(seconds=-1)}),
        (["-timeout", "0"], {"timeout": timedelta()}),
        (["-canReattest", "true"], {"can_reattest": True}),
        (["-canReattest=false"], {"can_reattest": False}),
        (["-canReattest", "perhaps"], {}),
        (["-audience", "a,b"], {"audience": ("a", "b")}),
        (["-audience", "a", "-audience", "b"], {"audience": ("b",)}),
        (["-output", "json"], {"output": "json"}),
        (["-output", "JSON"], {"output": "json"}),
        (["-output", "prettyprint"], {"output": "prettyprint"}),
        (["-format", "json"], {"format": "json"}),
    ],
)
def test_a_value_is_read(args, expected):
    assert given(*args) == expected


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["-nope"], "flag provided but not defined: -nope"),
        (["--nope=1"], "flag provided but not defined: -nope"),
        (["-spiffeID"], "flag needs an argument: -spiffeID"),
        (["---ttl"], "bad flag syntax: ---ttl"),
        (["-=1"], "bad flag syntax: -=1"),
        (["-ttl", "abc"], 'invalid value "abc" for flag -ttl: parse error'),
        (["-ttl", "1.5"], 'invalid value "1.5" for flag -ttl: parse error'),
        (["-ttl", ""], 'invalid value "" for flag -ttl: parse error'),
        (["-ttl", str(2**63)], 'invalid value "9223372036854775808" for flag -ttl: value out of range'),
        (["-dryRun=maybe"], 'invalid boolean value "maybe" for -dryRun: parse error'),
        (["-expiredFor", "5"], 'invalid value "5" for flag -expiredFor: parse error'),
        (["-timeout", "5"], 'invalid value "5" for flag -timeout: time: missing unit in duration "5"'),
        (["-output", "xml"], 'invalid value "xml" for flag -output: bad formatter flag: unknown format option: "xml"'),
        (["stray"], "unexpected argument: stray"),
        (["-dryRun", "true"], "unexpected argument: true"),
        (["-"], "unexpected argument: -"),
        (["--", "x"], "unexpected argument: --"),
    ],
)
def test_a_wrong_flag_is_told_in_gos_words_with_the_usage(args, complaint):
    assert refusal(*args) == complaint


@pytest.mark.parametrize("spelling", ["-h", "-help", "--help"])
def test_help_shows_each_flag_with_its_kind_and_default(spelling):
    ran = run_cli(root, "program", "do", "it", spelling)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == (
        "Usage of do it:\n"
        "  -audience value\n    \tSeveral\n"
        "  -canReattest value\n    \tThree states\n"
        "  -dns value\n    \tA name\n"
        "  -dryRun\n    \tDo nothing\n"
        "  -expiredFor duration\n    \tHow long (default 720h0m0s)\n"
        "  -format value\n    \tFormer name of -output\n"
        '  -matchSelectorsOn string\n    \tHow (default "superset")\n'
        "  -output value\n    \tForm of the output, pretty or json.\n"
        "  -spiffeID string\n    \tAn ID\n"
        "  -timeout value\n    \tHow long (default 5s)\n"
        "  -ttl int\n    \tSeconds (default 600)\n"
        "  -x509SVIDTTL int\n    \tSeconds\n"
    )


@pytest.mark.parametrize(
    ("name", "kebab"),
    [
        ("spiffeID", "spiffe-id"),
        ("x509SVIDTTL", "x509-svid-ttl"),
        ("jwtSVIDIncludeJTI", "jwt-svid-include-jti"),
        ("disableX509SVIDPrefetch", "disable-x509-svid-prefetch"),
        ("disableSDSAPI", "disable-sds-api"),
        ("trustBundleUrl", "trust-bundle-url"),
        ("matchFederatesWithOn", "match-federates-with-on"),
        ("expandEnv", "expand-env"),
    ],
)
def test_a_flag_has_a_spelling_with_dashes(name: str, kebab: str):
    def nothing(**_: Any) -> None:
        """Take the flag."""

    flags.text(name, "")(nothing)
    declared: Sequence[Any] = nothing.__click_params__  # type: ignore[attr-defined]
    assert [flag.kebab for flag in declared] == [kebab]
