"""Log lines for a go-plugin host: JSON on standard error, which it writes into its own log.

The format is that of hashicorp/go-hclog: ``@level``, ``@message`` and ``@timestamp``, beside the event's fields.
"""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog
from structlog.typing import EventDict, WrappedLogger

from spiffe_core.runtime.log_lines import error_text, without_secrets

_LEVELS: Final = {"warning": "warn", "critical": "error", "exception": "error", "fatal": "error"}
_STANDARD_ERROR: Final = 2


class StandardError:
    """Writes whole lines; one that cannot be written is lost."""

    def write(self, line: str) -> None:
        """Write one line."""
        try:
            os.write(_STANDARD_ERROR, f"{line}\n".encode(errors="backslashreplace"))
        except OSError:
            return  # the host is gone

    debug = info = warning = error = critical = exception = fatal = write


def configure_log() -> None:
    """Write what this process logs, from level debug on, for the host: it has the last word on what is shown."""
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, renderer(lambda: datetime.now(UTC))],
        wrapper_class=structlog.BoundLogger,
        logger_factory=lambda *_: StandardError(),
        cache_logger_on_first_use=True,
    )


def renderer(now: Callable[[], datetime]) -> Callable[[WrappedLogger, str, EventDict], str]:
    """The structlog processor that makes lines."""

    def render(_logger: WrappedLogger, method: str, event: EventDict) -> str:
        text = str(event.pop("event"))
        error = event.pop("exc_info", None)
        if isinstance(error, BaseException):
            event.setdefault("error", error_text(error))
        head = {
            "@level": _LEVELS.get(method, method),
            "@message": text,
            "@timestamp": now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        return json.dumps({**head, **without_secrets(event)}, default=str)

    return render
