"""``debug getinfo`` of the server."""

from datetime import timedelta

import click

from server.cli.client import calls_server
from spiffe_core.api.spire.api.server.debug.v1 import debug_pb2
from spiffe_core.runtime.cli.chain_text import chain_text
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.local_client import LocalClient
from spiffe_core.runtime.cli.output import JSON, echo_json, output_flag
from spiffe_core.runtime.durations import format_duration

debug = Group("debug")


@debug.add("getinfo", "Prints what the server knows of itself")
@output_flag
@calls_server
def getinfo(client: LocalClient, output: str) -> None:
    """Print uptime, counts and the server's own SVID."""
    info = client.call(debug_pb2.DESCRIPTOR, "GetInfo", debug_pb2.GetInfoRequest(), debug_pb2.GetInfoResponse)
    if output == JSON:
        echo_json(info)
        return
    click.echo("Server Debug Info:")
    click.echo(f"  Uptime:                  {format_duration(timedelta(seconds=info.uptime))}")
    click.echo(f"  Registered Agents:       {info.agents_count}")
    click.echo(f"  Registration Entries:    {info.entries_count}")
    click.echo(f"  Federated Bundles:       {info.federated_bundles_count}")
    click.echo(chain_text(info.svid_chain), nl=False)
