"""go-plugin's own services and SPIRE's, by which host and plugin learn of each other and part again.

- ``GRPCBroker``: the host announces where its services for plugins are; a key manager needs none of them.
- ``GRPCStdio``: the stream is held open; what would be sent there goes to standard error, which the host reads too.
- ``GRPCController``: the host asks the plugin to end.
- ``spire.service.private.init.v1.Init``: which services there are.  The host warns of one that it cannot use, so
  where its own services tell a server, the agent's key manager is not named; it is served all the same.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from google.protobuf.empty_pb2 import Empty

from spiffe_core.api.goplugin import grpc_broker_pb2, grpc_controller_pb2
from spiffe_core.api.services import service_in
from spiffe_core.api.spire.plugin.agent.keymanager.v1 import keymanager_pb2 as agent_pb2
from spiffe_core.api.spire.plugin.server.keymanager.v1 import keymanager_pb2 as server_pb2
from spiffe_core.api.spire.service.common.config.v1 import config_pb2
from spiffe_core.api.spire.service.private.init.v1 import init_pb2
from spiffe_core.runtime.rpc import Send

_OF_SERVERS: Final = "spire.hostservice.server."
_SERVER, _AGENT, _CONFIG = (service_in(file.DESCRIPTOR).full_name for file in (server_pb2, agent_pb2, config_pb2))


class BrokerService:
    """``plugin.GRPCBroker``."""

    async def StartStream(self, announced: AsyncIterator[grpc_broker_pb2.ConnInfo], _call: object, _send: Send) -> None:
        """Listen to what the host announces until it leaves."""
        async for _ in announced:
            pass


class StdioService:
    """``plugin.GRPCStdio``."""

    async def StreamStdio(self, _request: Empty, _call: object, _send: Send) -> None:
        """Hold the stream open until the host leaves."""
        await asyncio.Event().wait()


class ControllerService:
    """``plugin.GRPCController``."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    async def Shutdown(self, _request: grpc_controller_pb2.Empty, _call: object) -> grpc_controller_pb2.Empty:
        """End, once this is answered."""
        self._stop.set()
        return grpc_controller_pb2.Empty()


class InitService:
    """``spire.service.private.init.v1.Init``."""

    async def Init(self, request: init_pb2.InitRequest, _call: object) -> init_pb2.InitResponse:
        """Say what is served."""
        for_server = any(name.startswith(_OF_SERVERS) for name in request.host_service_names)
        names = [_SERVER, _CONFIG] if for_server else [_SERVER, _AGENT, _CONFIG]
        return init_pb2.InitResponse(plugin_service_names=names)

    async def Deinit(self, _request: init_pb2.DeinitRequest, _call: object) -> init_pb2.DeinitResponse:
        """The host calls nothing more; the device is let go of at the end of the process."""
        return init_pb2.DeinitResponse()
