"""``api fetch x509|jwt``, ``api validate jwt`` and ``api watch``: the Workload API, asked as a workload would."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

import click
from google.protobuf.message import Message
from grpc import StatusCode

from agent.cli.client import calls_workload_api, timeout_flag
from agent.cli.fetched import Fetched, fetched_of, fetched_text, write_fetched
from spiffe_core.api import workload_pb2
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.local_client import LocalClient, RpcFailure
from spiffe_core.runtime.cli.output import JSON, echo_json, json_text, old_output_flag, output_flag

M = TypeVar("M", bound=Message)

api = Group("api")
fetch = Group("fetch", default="x509")
validate = Group("validate")
api.add_command(fetch)
api.add_command(validate)
fetch.short_help = "Fetches X509-SVIDs, or a JWT-SVID, from the Workload API"
validate.short_help = "Validates a JWT-SVID"

_API: Final = workload_pb2.DESCRIPTOR
_HEADER: Final = (("workload.spiffe.io", "true"),)
_PAUSES: Final = (1, 2, 4, 8, 16, 30)
"""Seconds after which a watch that was broken off is begun again."""


@fetch.add("x509", "Fetches X509-SVIDs from the Workload API")
@flags.switch("silent", "Print nothing")
@flags.text("write", "Folder to write SVIDs, keys and bundles to (pretty output only)")
@timeout_flag
@output_flag
@calls_workload_api
def x509(client: LocalClient, silent: bool, write: str, timeout: timedelta, output: str) -> None:  # noqa: FBT001  flags
    """Fetch X509-SVIDs and verify them."""
    begun = time.monotonic()
    request = workload_pb2.X509SVIDRequest()
    answer = _first(client, "FetchX509SVID", request, workload_pb2.X509SVIDResponse, timeout)
    took = timedelta(seconds=time.monotonic() - begun)
    if output == JSON:
        echo_json(answer)
        return
    svids = fetched_of(answer, datetime.now(UTC))
    if not silent:
        click.echo(fetched_text(svids, took), nl=False)
    if write:
        write_fetched(svids, Path(write))


@fetch.add("jwt", "Fetches a JWT-SVID from the Workload API")
@flags.commas("audience", "Audiences of the SVID, with commas between")
@flags.text("spiffeID", "SPIFFE ID of the SVID (optional)")
@timeout_flag
@output_flag
@old_output_flag
@calls_workload_api
def jwt(
    client: LocalClient,
    audience: Sequence[str],
    spiffe_id: str,
    timeout: timedelta,
    output: str,
    format: str | None,  # noqa: A002
) -> None:
    """Fetch a JWT-SVID and the bundles by which such are verified."""
    if not audience:
        raise CommandError("audience must be specified")
    bundles = _first(
        client, "FetchJWTBundles", workload_pb2.JWTBundlesRequest(), workload_pb2.JWTBundlesResponse, timeout
    )
    request = workload_pb2.JWTSVIDRequest(audience=audience, spiffe_id=spiffe_id)
    svids = client.call(
        _API, "FetchJWTSVID", request, workload_pb2.JWTSVIDResponse, timeout=_seconds(timeout), metadata=_HEADER
    )
    if JSON in {output, format}:
        echo_json(svids, bundles)
        return
    for svid in svids.svids:
        click.echo(f"token({svid.spiffe_id}):\n\t{svid.svid}")
        if svid.hint:
            click.echo(f"hint({svid.spiffe_id}):\n\t{svid.hint}")
    for name, document in sorted(bundles.bundles.items()):
        click.echo(f"bundle({name}):\n\t{document.decode(errors='replace')}")


@validate.add("jwt", "Validates a JWT-SVID")
@flags.text("audience", "The audience that the SVID must have")
@flags.text("svid", "The SVID")
@timeout_flag
@output_flag
@calls_workload_api
def validate_jwt(client: LocalClient, audience: str, svid: str, timeout: timedelta, output: str) -> None:
    """Have the agent validate a JWT-SVID."""
    if not audience:
        raise CommandError("audience must be specified")
    if not svid:
        raise CommandError("svid must be specified")
    request = workload_pb2.ValidateJWTSVIDRequest(audience=audience, svid=svid)
    answer_type = workload_pb2.ValidateJWTSVIDResponse
    try:
        answer = client.call(_API, "ValidateJWTSVID", request, answer_type, timeout=_seconds(timeout), metadata=_HEADER)
    except RpcFailure as exc:
        if exc.code is StatusCode.INVALID_ARGUMENT:
            raise CommandError(f"SVID is not valid: {exc.description}") from exc
        raise CommandError(f"unable to validate JWT SVID: {exc}") from exc
    if output == JSON:
        echo_json(answer)
        return
    click.echo("SVID is valid.")
    click.echo(f"SPIFFE ID : {answer.spiffe_id}")
    click.echo(f"Claims    : {json_text(answer.claims)}")


@api.add("watch", "Prints X509-SVIDs from the Workload API whenever they change")
@calls_workload_api
def watch(client: LocalClient) -> None:
    """Print SVIDs until interrupted; a watch that breaks off is begun again."""
    pauses = iter(_PAUSES)
    while True:
        try:
            for svids, took in _updates(client):
                pauses = iter(_PAUSES)
                click.echo(fetched_text(svids, took), nl=False)
        except RpcFailure as exc:
            if exc.code is StatusCode.INVALID_ARGUMENT:
                raise
            click.echo(str(exc), err=True)
        except CommandError as exc:
            click.echo(str(exc), err=True)
        time.sleep(next(pauses, _PAUSES[-1]))


def _updates(client: LocalClient) -> Iterator[tuple[Sequence[Fetched], timedelta]]:
    """The SVIDs of each answer, and how long it took to come."""
    before = time.monotonic()
    request = workload_pb2.X509SVIDRequest()
    for answer in client.stream(_API, "FetchX509SVID", request, workload_pb2.X509SVIDResponse, metadata=_HEADER):
        now = time.monotonic()
        yield fetched_of(answer, datetime.now(UTC)), timedelta(seconds=now - before)
        before = now


def _first(client: LocalClient, name: str, request: Message, answer: type[M], timeout: timedelta) -> M:
    """The first answer of a stream."""
    for one in client.stream(_API, name, request, answer, timeout=_seconds(timeout), metadata=_HEADER):
        return one
    raise CommandError("EOF")


def _seconds(timeout: timedelta) -> float | None:
    """Seconds to wait; a timeout that is not positive is none."""
    return timeout.total_seconds() if timeout > timedelta() else None
