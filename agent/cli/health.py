"""``healthcheck`` of the agent."""

import click

from agent.cli.client import calls_workload_api
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Command
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.health import Unhealthy, check_health
from spiffe_core.runtime.cli.local_client import LocalClient


@click.command("healthcheck", cls=Command)
@flags.switch("shallow", "Has no effect")
@flags.switch("verbose", "Say what is done and why it failed")
@calls_workload_api
def healthcheck(client: LocalClient, shallow: bool, verbose: bool) -> None:  # noqa: ARG001, FBT001  flags
    """Determine whether the agent is healthy."""
    if verbose:
        click.echo("Checking agent health...")
    try:
        check_health(client, "agent", verbose=verbose)
    except Unhealthy as exc:
        raise CommandError(f"Agent is unhealthy: {exc}") from exc
    click.echo("Agent is healthy.")
