"""How a command fails: one text on standard error and exit code 1, never a traceback."""

from typing import IO, Any, ClassVar

import click


class CommandError(click.ClickException):
    """A command cannot do what it was asked; prints ``Error: `` and the text."""

    prefix: ClassVar[str] = "Error: "

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the text."""
        click.echo(f"{self.prefix}{self.message}", file=file, err=True)


class PlainError(CommandError):
    """As ``CommandError``, but the text stands alone."""

    prefix = ""


class UsageFault(click.UsageError):
    """The flags are wrong; prints what is, and the command's usage."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the text and the usage."""
        click.echo(self.message, file=file, err=True)
        if self.ctx is not None:
            click.echo(self.ctx.get_help(), file=file, err=True)
