"""``steeple-keymanager``: the process.

``steeple-keymanager [pkcs11|disk|memory]``, ``pkcs11`` if nothing is said.  It serves until its host asks it to end or
sends SIGTERM; SIGINT is ignored, since a terminal sends it to the whole group and the host ends its plugins itself.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from plugin.handshake import announce, check_host, socket_path
from plugin.hclog import configure_log
from plugin.holder import KeyHolder
from plugin.hosting import BrokerService, ControllerService, InitService, StdioService
from plugin.services import ConfigService, KeyManagerService
from spiffe_core.api.goplugin import grpc_broker_pb2, grpc_controller_pb2, grpc_stdio_pb2
from spiffe_core.api.services import Method, service_in
from spiffe_core.api.spire.plugin.agent.keymanager.v1 import keymanager_pb2 as agent_pb2
from spiffe_core.api.spire.plugin.server.keymanager.v1 import keymanager_pb2 as server_pb2
from spiffe_core.api.spire.service.common.config.v1 import config_pb2
from spiffe_core.api.spire.service.private.init.v1 import init_pb2
from spiffe_core.errors import SpiffeError
from spiffe_core.runtime.rpc import handlers_of

DEFAULT: Final = "pkcs11"
HEALTH_NAME: Final = "plugin"
"""go-plugin's name of a plugin in the health service."""
GRACE: Final = 0.5
"""Seconds that open calls have to end: the host kills the plugin after two."""

log: Final = structlog.get_logger()


class _OpenGate:
    """Lets every call in: who can reach the socket is this user, that is the host."""

    async def admit(self, _method: Method, _peer: str, _context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        """Come in."""

    def leave(self, _call: None, method: Method, error: SpiffeError | None) -> None:
        """Say what a call failed with; the host is told too."""
        if error is not None:
            log.debug("Call failed", method=method.path, error=str(error))


def main() -> None:
    """Run the program."""
    configure_log()
    try:
        check_host(os.environ)
        name, *more = sys.argv[1:] or [DEFAULT]
        if more:
            sys.exit("usage: steeple-keymanager [pkcs11|disk|memory]")
        asyncio.run(_run(name))
    except SpiffeError as exc:
        sys.exit(f"steeple-keymanager: {exc}")


async def _run(name: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    holder = KeyHolder(name)
    with socket_path(os.environ) as path:
        server = await _serve(path, holder, stop)
        announce(path, os.environ)
        await stop.wait()
        await server.stop(GRACE)
        await holder.close()


async def _serve(path: Path, holder: KeyHolder, stop: asyncio.Event) -> grpc.aio.Server:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    for file, servicer in (
        (grpc_broker_pb2, BrokerService()),
        (grpc_stdio_pb2, StdioService()),
        (grpc_controller_pb2, ControllerService(stop)),
        (init_pb2, InitService()),
        (config_pb2, ConfigService(holder)),
        (server_pb2, KeyManagerService(holder, server_pb2)),
        (agent_pb2, KeyManagerService(holder, agent_pb2)),
    ):
        service = service_in(file.DESCRIPTOR)
        server.add_registered_method_handlers(service.full_name, handlers_of(service, servicer, _OpenGate()))
    alive = health.aio.HealthServicer()
    await alive.set(HEALTH_NAME, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(alive, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    return server


if __name__ == "__main__":
    main()
