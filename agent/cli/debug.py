"""``debug getinfo`` of the agent, over its admin socket."""

from datetime import UTC, datetime, timedelta

import click

from agent.cli.client import calls_admin_api
from spiffe_core.api.spire.api.agent.debug.v1 import debug_pb2
from spiffe_core.runtime.cli.chain_text import chain_text
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.local_client import LocalClient
from spiffe_core.runtime.cli.output import JSON, echo_json, output_flag
from spiffe_core.runtime.durations import format_duration
from spiffe_core.runtime.gotext import time_rfc3339

debug = Group("debug")


@debug.add("getinfo", "Prints what the agent knows of itself")
@output_flag
@calls_admin_api
def getinfo(client: LocalClient, output: str) -> None:
    """Print uptime, last synchronisation, counts and the agent's own SVID."""
    info = client.call(debug_pb2.DESCRIPTOR, "GetInfo", debug_pb2.GetInfoRequest(), debug_pb2.GetInfoResponse)
    if output == JSON:
        echo_json(info)
        return
    synced = time_rfc3339(datetime.fromtimestamp(info.last_sync_success, UTC)) if info.last_sync_success else "(never)"
    click.echo("Agent Debug Info:")
    click.echo(f"  Uptime:                          {format_duration(timedelta(seconds=info.uptime))}")
    click.echo(f"  Last Sync Success:               {synced}")
    click.echo(f"  Cached X.509 SVIDs:              {info.cached_x509_svids_count}")
    click.echo(f"  Cached JWT SVIDs:                {info.cached_jwt_svids_count}")
    click.echo(f"  Cached SVID Store X.509 SVIDs:   {info.cached_svidstore_x509_svids_count}")
    click.echo(chain_text(info.svid_chain), nl=False)
