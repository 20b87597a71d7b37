"""The log: its two formats, its level, its file, and what it never shows."""

import json
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from spiffe_core.api.spire.api.types.logger_pb2 import LogLevel
from spiffe_core.errors import InvalidConfig, NotFound
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime import log as log_module
from spiffe_core.runtime.log import Level, LevelSwitch, Log, Logger, bound_fields, configure, get_logger, process_log
from spiffe_core.runtime.settings import LogFormat
from spiffe_core.runtime.stdlib_log import forward_stdlib_logging

WHEN = datetime(2026, 11, 22, 5, 0, 0, 250_000, tzinfo=UTC)


@pytest.fixture
def log(monkeypatch, tmp_path) -> Iterator[Callable[..., Path]]:
    """Configures the process's log with a file, which it returns; time stands still, in UTC."""
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr(process_log, "_now", lambda: WHEN)
    before = structlog.get_config()

    def start(level: Level | LevelSwitch = Level.INFO, **more: object) -> Path:
        configure(level=level, file=tmp_path / "log", **more)  # type: ignore[arg-type]
        return tmp_path / "log"

    yield start
    process_log.configure()
    structlog.configure(**before)


def test_a_text_line_is_logruss(log):
    file = log()
    get_logger(subsystem_name="ca_manager").info(
        "X.509 authority activated",
        authority_id="ab12",
        spiffe_id=SpiffeId.parse("spiffe://example.org/a"),
        expiration=WHEN,
        ttl=timedelta(hours=1),
        selectors=["unix:uid:0", "a b"],
        count=3,
        ok=True,
        nothing=None,
        empty="",
        quoted='say "hi"\n',
    )
    assert file.read_text() == (
        'time="2026-11-22T05:00:00.25Z" level=info msg="X.509 authority activated" authority_id=ab12 count=3 empty= '
        'expiration="2026-11-22 05:00:00.25 +0000 UTC" nothing="<nil>" ok=true quoted="say \\"hi\\"\\n" '
        'selectors="[unix:uid:0 a b]" spiffe_id="spiffe://example.org/a" subsystem_name=ca_manager ttl=1h0m0s\n'
    )


def test_a_json_line_is_logruss(log):
    file = log(format=LogFormat.JSON)
    get_logger().warning("Clock skewed", by=timedelta(seconds=2), at=WHEN, ids=("a", "b"), n=1, of={"x": WHEN})
    assert json.loads(file.read_text()) == {
        "level": "warning",
        "msg": "Clock skewed",
        "time": "2026-11-22T05:00:00.25Z",
        "by": "2s",
        "at": "2026-11-22T05:00:00.25Z",
        "ids": ["a", "b"],
        "n": 1,
        "of": {"x": "2026-11-22T05:00:00.25Z"},
    }
    assert file.read_text().startswith('{"at":"2026-11-22T05:00:00.25Z","by":"2s","ids":["a","b"],"level":"warning",')


@pytest.mark.parametrize("form", list(LogFormat))
def test_a_field_cannot_take_the_place_of_the_lines_own(log, form):
    file = log(format=form)
    get_logger().info("Seen", level="x", msg="y", time="z")
    line = file.read_text()
    assert all(f"fields.{name}" in line for name in ("level", "msg", "time"))


METHODS = ("trace", "debug", "info", "warning", "error", "fatal")


@pytest.mark.parametrize(
    ("level", "written"),
    [
        (Level.TRACE, METHODS),
        (Level.INFO, METHODS[2:]),
        (Level.WARN, METHODS[3:]),
        (Level.FATAL, METHODS[5:]),
        (Level.PANIC, ()),
    ],
)
def test_only_what_the_level_lets_through_is_written(log, level, written):
    file = log(level)
    logger = get_logger()
    for method in METHODS:
        getattr(logger, method)("x")
    assert [line.split()[1] for line in file.read_text().splitlines()] == [f"level={name}" for name in written]
    assert logger.enabled(Level.INFO) == (level >= Level.INFO)


def test_the_level_may_change_while_the_process_runs(log):
    switch = LevelSwitch(Level.INFO)
    file = log(switch)
    logger = get_logger()
    logger.debug("one")
    switch.set(Level.DEBUG)
    logger.debug("two")
    assert (switch.current, switch.launch) == (Level.DEBUG, Level.INFO)
    switch.reset()
    logger.debug("three")
    assert file.read_text().count("\n") == 1
    assert "msg=two" in file.read_text()


@pytest.mark.parametrize("name", ["DEBUG", "debug", "Debug"])
def test_a_level_is_read_in_any_case(name):
    assert Level.parse(name) is Level.DEBUG


def test_warning_is_warn_and_no_other_word_is_a_level():
    assert Level.parse("warning") is Level.parse("warn") is Level.WARN
    assert Level.WARN.label == "warning"
    with pytest.raises(InvalidConfig, match=r'^not a valid logrus Level: "loud"$'):
        Level.parse("loud")


def test_the_numbers_of_levels_are_the_apis():
    assert {level.name: level.value for level in Level} == {k: v for k, v in LogLevel.items() if v}


def test_bound_fields_go_with_every_line(log):
    file = log()
    logger = get_logger()
    with bound_fields(request_id="r1"):
        logger.info("in")
    logger.info("out")
    first, second = file.read_text().splitlines()
    assert "request_id=r1" in first
    assert "request_id" not in second


def test_structlogs_own_loggers_write_to_the_same_log(log):
    early = structlog.get_logger()
    file = log()
    early.info("from structlog", a=1)
    structlog.get_logger().bind(b=2).error("bound")
    assert [line.partition("level=")[2] for line in file.read_text().splitlines()] == [
        'info msg="from structlog" a=1',
        "error msg=bound b=2",
    ]
    with structlog.testing.capture_logs() as captured:
        get_logger().info("captured")
    assert captured == [{"event": "captured", "log_level": "info"}]


@pytest.mark.parametrize("form", list(LogFormat))
def test_what_a_caller_sent_makes_no_line_of_megabytes(log, form):
    file = log(Level.INFO, format=form)
    get_logger().info("x", text="a" * 2**20, many=["b" * 2**20] * 2**10, pair=("c" * 2**20, 1))
    line = file.read_text()
    assert len(line) < 2**18
    assert all(
        kept in line for kept in ("a" * 2**14, "[1048576 characters]", "b" * 2**10, "[1024 values]", "c" * 2**10)
    )


@pytest.mark.parametrize("form", list(LogFormat))
def test_secrets_and_raw_bytes_are_withheld(log, form):
    file = log(Level.TRACE, format=form)
    get_logger(pin="1234").info(
        "x", join_token="token-value", password="pw-value", private_key="key-value", raw=b"\x00secret-bytes"
    )
    line = file.read_text()
    assert not any(secret in line for secret in ("1234", "token-value", "pw-value", "key-value", "secret-bytes"))
    assert "[13 bytes]" in line


def fail() -> None:
    raise NotFound("no such agent")


def test_an_exception_is_told_in_one_line(log):
    file = log()
    try:
        fail()
    except NotFound:
        get_logger().exception("Lookup failed")
    assert file.read_text().endswith('level=error msg="Lookup failed" error="no such agent"\n')


def test_where_an_exception_came_from_is_told_at_level_debug(log):
    file = log(Level.DEBUG)
    try:
        {}["x"]
    except KeyError as exc:
        get_logger().error("Lookup failed", exc_info=exc)
    (line,) = file.read_text().splitlines()
    assert """error="KeyError: 'x'" traceback="Traceback (most recent call last):\\n""" in line


def test_an_error_may_be_a_field(log):
    file = log()
    get_logger().warning("Push failed", error=NotFound("gone"))
    get_logger().warning("Push failed", error=TimeoutError())
    assert [line.partition("error=")[2] for line in file.read_text().splitlines()] == ["gone", "TimeoutError"]


def test_the_source_is_told_if_it_is_asked_for(log):
    file = log(source_location=True)
    get_logger().info("x")
    assert ' file="test_log.py:' in file.read_text()
    assert "test_the_source_is_told_if_it_is_asked_for" in file.read_text()


def test_lines_go_to_standard_output_without_a_file(capfd):
    Log().write("a line")
    assert capfd.readouterr() == ("a line\n", "")


def test_a_rotated_file_is_opened_again(log):
    file = log()
    get_logger().info("one")
    file.rename(file.with_suffix(".1"))
    get_logger().info("two")
    process_log.reopen()
    get_logger().info("three")
    assert file.with_suffix(".1").read_text().count("\n") == 2
    assert file.read_text().count("\n") == 1
    assert file.stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_signal_may_open_the_file_again(log):
    file = log()
    before = signal.signal(signal.SIGUSR2, lambda *_: process_log.reopen())
    try:
        file.rename(file.with_suffix(".1"))
        os.kill(os.getpid(), signal.SIGUSR2)
        get_logger().info("after")
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert "msg=after" in file.read_text()


def test_a_file_that_cannot_be_opened_again_leaves_the_old_one(log, monkeypatch):
    file = log()

    def refuse(path: Path) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(log_module, "_open", refuse)
    process_log.reopen()
    assert file.read_text().endswith(
        f'level=error msg="failed to rotate log after signal" error="open {file}: permission denied"\n'
    )


def test_a_log_file_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(InvalidConfig) as caught:
        Log().configure(file=tmp_path / "no" / "log")
    assert str(caught.value) == f"log_file: open {tmp_path}/no/log: no such file or directory"


def test_a_line_that_cannot_be_written_is_lost_and_nothing_else():
    log = Log()
    log.configure(file=Path("/dev/full"))
    log.write("x")
    log.close()


def test_text_that_is_no_unicode_is_written_somehow(log):
    file = log()
    get_logger().info("x", name="\udcff")
    assert '"\\udcff"' in file.read_text()


def test_libraries_log_into_the_same_log(log):
    root = logging.getLogger()
    before = root.handlers, root.level
    file = log()
    try:
        forward_stdlib_logging()
        logging.getLogger("grpc").warning("slow %s", "disk")
        logging.getLogger("grpc").info("chatter")
        logging.getLogger("sqlalchemy").error("broke", exc_info=ValueError("why"))
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", UserWarning, stacklevel=1)
    finally:
        root.handlers, level = before
        root.setLevel(level)
        logging.captureWarnings(capture=False)
    lines = [line.partition("level=")[2] for line in file.read_text().splitlines()]
    assert lines[0] == 'warning msg="slow disk" Logger=grpc'
    assert lines[1] == 'error msg=broke Logger=sqlalchemy error="ValueError: why"'
    assert "UserWarning: old" in lines[2]
    assert len(lines) == 3


def test_a_logger_is_structlogs_with_our_methods():
    assert isinstance(get_logger(a=1).bind(b=2), Logger)
