"""A command that a group of tests imports when it is called."""

import click

from spiffe_core.runtime.cli.commands import Command


@click.command("late", cls=Command)
def late() -> None:
    """Come late."""
    click.echo("late")
