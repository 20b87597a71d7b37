"""Asking a process for its health (grpc.health.v1)."""

from typing import Final, cast

import click
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2

from spiffe_core.runtime.cli.local_client import LocalClient, RpcFailure
from spiffe_core.runtime.gotext import quote

_HEALTH: Final = cast("FileDescriptor", health_pb2.DESCRIPTOR)  # its stubs name the C implementation's class


class Unhealthy(Exception):
    """The process is not healthy, or cannot be asked."""


def check_health(client: LocalClient, who: str, *, verbose: bool) -> None:
    """Return if the process serves; with ``verbose``, say on standard error why it cannot be asked.

    ``who`` it is, a server or an agent, the error says.

    Raises:
        Unhealthy: if it does not.
    """
    request = health_pb2.HealthCheckRequest()
    try:
        answer = client.call(_HEALTH, "Check", request, health_pb2.HealthCheckResponse)
    except RpcFailure as exc:
        if verbose:
            click.echo(f"Failed to check health: {exc}", err=True)
        raise Unhealthy("unable to determine health") from exc
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise Unhealthy(f"{who} returned status {quote(name)}")
