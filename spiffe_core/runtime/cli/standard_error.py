"""What the parts of a program log while a command uses them: on standard error, beside the command's own result."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
import structlog
from structlog.contextvars import merge_contextvars

from spiffe_core.runtime.log import Level, Log, Logger


class _StandardError(Log):
    def write(self, line: str) -> None:
        click.echo(line, err=True)


@contextmanager
def warnings_on_standard_error() -> Iterator[None]:
    """Write warnings and worse of structlog's loggers to standard error for the length of the block, and no more."""
    log = _StandardError()
    log.configure(level=Level.WARN)
    before = structlog.get_config()
    structlog.configure(
        processors=[merge_contextvars, log.render],
        wrapper_class=Logger,
        context_class=dict,
        logger_factory=lambda *_: log,
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)
