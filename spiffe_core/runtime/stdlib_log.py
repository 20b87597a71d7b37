"""Lines of libraries that use Python's ``logging``, in the process's log: from warnings on, or all at level trace."""

import logging
from typing import Final

from spiffe_core.runtime.log import Level, get_logger, process_log

_LEVELS: Final = (
    (logging.CRITICAL, Level.FATAL),
    (logging.ERROR, Level.ERROR),
    (logging.WARNING, Level.WARN),
    (logging.INFO, Level.INFO),
)


class ForwardingHandler(logging.Handler):
    """Writes each record as a line whose ``Logger`` field names the library's logger."""

    def emit(self, record: logging.LogRecord) -> None:
        """Forward one record."""
        level = next((ours for theirs, ours in _LEVELS if record.levelno >= theirs), Level.DEBUG)
        if level > Level.WARN and process_log.level.current < Level.TRACE:
            return
        log = get_logger(Logger=record.name)
        write = {
            Level.FATAL: log.error,
            Level.ERROR: log.error,
            Level.WARN: log.warning,
            Level.INFO: log.info,
        }.get(level, log.debug)
        error = record.exc_info[1] if record.exc_info else None
        write(record.getMessage(), **({"exc_info": error} if error is not None else {}))


def forward_stdlib_logging() -> None:
    """Forward what libraries log, and Python's warnings, from now on."""
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.handlers = [ForwardingHandler()]
    root.setLevel(logging.DEBUG if process_log.level.launch >= Level.TRACE else logging.WARNING)
