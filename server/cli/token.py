"""``token generate``."""

import click

from server.cli.client import calls_server
from spiffe_core.api.convert.ids import id_to_pb
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.types.jointoken_pb2 import JoinToken
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.local_client import LocalClient
from spiffe_core.runtime.cli.numbers import int32
from spiffe_core.runtime.cli.output import JSON, echo_json, output_flag

token = Group("token")


@token.add("generate", "Generates a join token")
@flags.whole("ttl", "Seconds until the token expires", 600)
@flags.text("spiffeID", "SPIFFE ID that the token's agent is given beside its own (optional)")
@output_flag
@calls_server
def generate(client: LocalClient, ttl: int, spiffe_id: str, output: str) -> None:
    """Make a join token."""
    agent_id = id_to_pb(SpiffeId.parse(spiffe_id)) if spiffe_id else None
    request = agent_pb2.CreateJoinTokenRequest(ttl=int32(ttl, "TTL"), agent_id=agent_id)
    made = client.call(agent_pb2.DESCRIPTOR, "CreateJoinToken", request, JoinToken)
    if output == JSON:
        echo_json(made)
        return
    click.echo(f"Token: {made.value}")
    if not spiffe_id:
        click.echo("Warning: Missing SPIFFE ID.")
