"""``jwt mint``."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import click

from server.cli.client import calls_server
from server.cli.x509 import warn_if_capped
from spiffe_core.api.convert.ids import id_to_pb
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.errors import InvalidJwtSvid
from spiffe_core.ids import SpiffeId
from spiffe_core.jwtsvid import parse_jwt_svid
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.local_client import LocalClient, RpcFailure
from spiffe_core.runtime.cli.numbers import seconds
from spiffe_core.runtime.cli.output import JSON, echo_json, output_flag
from spiffe_core.runtime.cli.written import PRIVATE
from spiffe_core.runtime.cli.written import write as write_file

jwt = Group("jwt")


@jwt.add("mint", "Mints a JWT-SVID")
@flags.text("spiffeID", "SPIFFE ID of the SVID")
@flags.duration("ttl", "Lifetime of the SVID, 0 for the server's default")
@flags.repeated("audience", "An audience of the SVID. Can be used more than once")
@flags.text("write", "File to write the token to, instead of standard output")
@output_flag
@calls_server
def mint(client: LocalClient, spiffe_id: str, ttl: timedelta, audience: Sequence[str], write: str, output: str) -> None:
    """Have a JWT-SVID signed."""
    if not spiffe_id:
        raise CommandError("spiffeID must be specified")
    if not audience:
        raise CommandError("at least one audience must be specified")
    subject = id_to_pb(SpiffeId.parse(spiffe_id))
    request = svid_pb2.MintJWTSVIDRequest(id=subject, audience=audience, ttl=seconds(ttl))
    try:
        answer = client.call(svid_pb2.DESCRIPTOR, "MintJWTSVID", request, svid_pb2.MintJWTSVIDResponse)
    except RpcFailure as exc:
        raise CommandError(f"unable to mint SVID: {exc}") from exc
    token = answer.svid.token
    if not token:
        raise CommandError("server response missing token")
    try:
        warn_if_capped("JWT-SVID", parse_jwt_svid(token).expires_at, ttl)
    except InvalidJwtSvid as exc:
        click.echo(f"Unable to determine JWT-SVID lifetime: {exc}", err=True)
    if write:
        write_file(Path(write), token.encode(), PRIVATE, "unable to write token: ")
        click.echo(f"JWT-SVID written to {write}")
    elif output == JSON:
        echo_json(answer)
    else:
        click.echo(token)
