"""The log of a process: structured lines, in SPIRE's formats and with its field names.

A process has one log, which ``configure`` sets up; loggers made before, with ``get_logger`` or structlog's function
of that name, follow it.  An event is a constant text in the past tense, and what varies are fields:
``log.info("Agent attested", spiffe_id=...)``.  Fields bound with ``bound_fields`` go with every line of the same
task, such as an RPC's ``request_id``.

Lines go to standard output, as SPIRE's do, or to a file that is opened again when it was rotated away.  A line
that cannot be written is lost: logging never stops a server.  A call below the level in force costs one
comparison.
"""

import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.typing import EventDict, WrappedLogger

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.gotext import os_error
from spiffe_core.runtime.levels import Level, LevelSwitch
from spiffe_core.runtime.log_lines import caller, cut, error_text, json_line, text_line, traceback_text, without_secrets
from spiffe_core.runtime.settings import LogFormat

__all__ = ["Level", "LevelSwitch", "Log", "Logger", "bound_fields", "configure", "get_logger", "process_log"]

bound_fields = bound_contextvars
"""``with bound_fields(request_id=...):`` adds the fields to every line that its body and its tasks write."""

_STANDARD_OUTPUT: Final = 1
_FILE_MODE: Final = 0o640

ExcInfo = bool | BaseException | tuple[type[BaseException], BaseException, TracebackType | None]


class Log:
    """Where lines go, in which format, and from which level on."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.level = LevelSwitch(Level.INFO)
        self._now = now
        self._line = text_line
        self._source_location = False
        self._descriptor = _STANDARD_OUTPUT
        self._file: Path | None = None

    def configure(
        self,
        *,
        level: Level | LevelSwitch = Level.INFO,
        format: LogFormat = LogFormat.TEXT,  # noqa: A002  the name that the configuration gives it
        file: Path | None = None,
        source_location: bool = False,
    ) -> None:
        """Say how lines are written from now on; a ``LevelSwitch`` may be shared with other processes.

        Raises:
            InvalidConfig: if the file cannot be opened.
        """
        descriptor = _STANDARD_OUTPUT
        if file is not None:
            try:
                descriptor = _open(file)
            except OSError as exc:
                raise InvalidConfig(f"log_file: {os_error('open', file, exc)}") from exc
        self.close()
        self._descriptor, self._file = descriptor, file
        self.level = level if isinstance(level, LevelSwitch) else LevelSwitch(level)
        self._line = json_line if format is LogFormat.JSON else text_line
        self._source_location = source_location

    def reopen(self) -> None:
        """Open the log file anew, after it was rotated away; if that fails, go on with the old one and say so."""
        if self._file is None:
            return
        try:
            descriptor = _open(self._file)
            os.dup2(descriptor, self._descriptor, inheritable=False)  # a line that is being written keeps its target
            os.close(descriptor)
        except OSError as exc:
            get_logger().error("failed to rotate log after signal", error=os_error("open", self._file, exc))

    def close(self) -> None:
        """Let go of the file; lines go to standard output again."""
        if self._descriptor != _STANDARD_OUTPUT:
            os.close(self._descriptor)
        self._descriptor, self._file = _STANDARD_OUTPUT, None

    def render(self, _logger: WrappedLogger, method: str, event: EventDict) -> str:
        """The last structlog processor: the line."""
        text = str(event.pop("event"))
        exc_info = event.pop("exc_info", None)
        if exc_info:
            _explain(event, exc_info, details=self.level.current >= Level.DEBUG)
        if self._source_location:
            event.update(caller())
        fields = {key: cut(value) for key, value in without_secrets(event).items()}
        return self._line(self._now().astimezone(), method, text, fields)

    def write(self, line: str) -> None:
        """Write one line."""
        data = memoryview(f"{line}\n".encode(errors="backslashreplace"))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return  # nobody is left to be told


process_log: Final = Log()
"""The log of this process."""


class Logger(structlog.BoundLoggerBase):
    """Writes events with fields to the process's log; ``bind`` and ``new`` are structlog's."""

    _logger: Log

    def enabled(self, level: Level) -> bool:
        """Whether events of that level are written, for whoever would compute fields in vain."""
        return self._logger.level.current >= level

    def trace(self, event: str, **fields: object) -> None:
        """Log at level trace."""
        if self._logger.level.current >= Level.TRACE:
            self._log("trace", event, fields)

    def debug(self, event: str, **fields: object) -> None:
        """Log at level debug."""
        if self._logger.level.current >= Level.DEBUG:
            self._log("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log at level info."""
        if self._logger.level.current >= Level.INFO:
            self._log("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log at level warning."""
        if self._logger.level.current >= Level.WARN:
            self._log("warning", event, fields)

    def error(self, event: str, *, exc_info: ExcInfo | None = None, **fields: object) -> None:
        """Log at level error; ``exc_info`` says why in the field ``error``, and where at level debug."""
        if self._logger.level.current >= Level.ERROR:
            self._log("error", event, {**fields, "exc_info": exc_info})

    def exception(self, event: str, **fields: object) -> None:
        """Log at level error with the exception that is being handled."""
        self.error(event, exc_info=True, **fields)

    def critical(self, event: str, **fields: object) -> None:
        """Log at level fatal, under the name that Python's loggers have for it."""
        self.fatal(event, **fields)

    def fatal(self, event: str, **fields: object) -> None:
        """Log at level fatal; it ends nothing."""
        if self._logger.level.current >= Level.FATAL:
            self._log("fatal", event, fields)

    def _log(self, method: str, event: str, fields: Mapping[str, object]) -> None:
        try:
            args, _ = self._process_event(method, event, dict(fields))
        except structlog.DropEvent:
            return  # structlog's means to capture events in tests
        self._logger.write(args[0])


_PROCESSORS: Final[list[Any]] = [merge_contextvars, process_log.render]


def get_logger(**fields: object) -> Logger:
    """A logger of the process's log with fields that go with each of its lines, such as ``subsystem_name``."""
    return Logger(process_log, _PROCESSORS, dict(fields))


def configure(
    *,
    level: Level | LevelSwitch,
    format: LogFormat = LogFormat.TEXT,  # noqa: A002  the name that the configuration gives it
    file: Path | None = None,
    source_location: bool = False,
) -> None:
    """Set up the log of this process, for structlog's own loggers too.

    Raises:
        InvalidConfig: if the file cannot be opened.
    """
    process_log.configure(level=level, format=format, file=file, source_location=source_location)
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=Logger,
        context_class=dict,
        logger_factory=lambda *_: process_log,
        cache_logger_on_first_use=True,
    )


def _explain(event: EventDict, exc_info: ExcInfo, *, details: bool) -> None:
    """Put the exception's text, and its traceback if there shall be details, into the event."""
    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    else:
        error = exc_info[1] if isinstance(exc_info, tuple) else sys.exc_info()[1]
    if error is None:
        return
    event.setdefault("error", error_text(error))
    if details:
        event["traceback"] = traceback_text(error)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
