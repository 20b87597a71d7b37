"""Commands that call the agent: over which socket, and with which connection."""

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, Final

from spiffe_core.errors import SpiffeError
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.errors import CommandError, PlainError
from spiffe_core.runtime.cli.places import Place

WORKLOAD_API: Final = Place(
    default="/tmp/spire-agent/public/api.sock",  # noqa: S108  SPIRE's path
    variable="SPIRE_AGENT_PUBLIC_SOCKET",
    template_variable="SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE",
    without_template="{} environment variable must be defined when using the instance flag",
)
ADMIN: Final = "/tmp/spire-agent/private/admin.sock"  # noqa: S108  SPIRE's path
"""Where the debug and logger APIs are looked for."""

TIMEOUT: Final = timedelta(seconds=5)


def calls_workload_api(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare ``-socketPath`` and ``-instance`` of the Workload API; the command gets ``client``.

    As with SPIRE, errors of such a command stand alone, without ``Error: ``.
    """

    @flags.text("socketPath", "Path to the agent's API socket", WORKLOAD_API.default)
    @flags.text("instance", f"Name that takes the place of %i in {WORKLOAD_API.template_variable}")
    @wraps(function)
    def call(socket_path: str, instance: str, **more: object) -> object:
        from spiffe_core.runtime.cli.local_client import LocalClient  # noqa: PLC0415  gRPC, which help can do without

        try:
            with LocalClient(WORKLOAD_API.choose(socket_path, instance)) as client:
                return function(client=client, **more)
        except (CommandError, SpiffeError) as exc:
            raise PlainError(str(exc)) from exc

    return call


def calls_admin_api(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare ``-socketPath`` of the admin socket; the command gets ``client``."""

    @flags.text("socketPath", "Path to the agent's admin API socket", ADMIN)
    @wraps(function)
    def call(socket_path: str, **more: object) -> object:
        from spiffe_core.runtime.cli.local_client import LocalClient  # noqa: PLC0415  gRPC, which help can do without

        with LocalClient(socket_path) as client:
            return function(client=client, **more)

    return call


def timeout_flag(function: flags.Function) -> flags.Function:
    """Declare ``-timeout``."""
    return flags.duration("timeout", "Time to wait for a response", TIMEOUT, explain=True)(function)
