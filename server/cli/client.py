"""Commands that call the server: over which socket, and with which connection."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.places import Place

SERVER: Final = Place(
    default="/tmp/spire-server/private/api.sock",  # noqa: S108  SPIRE's path
    variable="SPIRE_SERVER_PRIVATE_SOCKET",
    template_variable="SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE",
    older_default="/tmp/spire-registration.sock",  # noqa: S108  SPIRE's path before 1.0
)


def calls_server(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare ``-socketPath`` and ``-instance``; the command gets ``client``, which connects when it is used."""

    @flags.text("socketPath", "Path to the server's API socket", SERVER.default)
    @flags.text("instance", f"Name that takes the place of %i in {SERVER.template_variable}")
    @wraps(function)
    def call(socket_path: str, instance: str, **more: object) -> object:
        from spiffe_core.runtime.cli.local_client import LocalClient  # noqa: PLC0415  gRPC, which help can do without

        with LocalClient(SERVER.choose(socket_path, instance)) as client:
            return function(client=client, **more)

    return call
