"""A node attestor outside this process, by SPIRE's plugin interface."""

from typing import Final

from agent.node_attestors.base import Server
from spiffe_core.api.services import service_in
from spiffe_core.api.spire.plugin.agent.nodeattestor.v1 import nodeattestor_pb2
from spiffe_core.errors import Internal
from spiffe_core.runtime.calls import rpc_in
from spiffe_core.runtime.plugin_host import ExternalPlugin

SERVICE: Final = str(service_in(nodeattestor_pb2.DESCRIPTOR).full_name)
TIMEOUT: Final = 60.0
"""Seconds that an attestation may take, the server's answers included."""
_ATTEST: Final = rpc_in(nodeattestor_pb2.DESCRIPTOR, "AidAttestation")


class ExternalNodeAttestor:
    """Lets a plugin gather the evidence and answer challenges.  Lives on one event loop."""

    def __init__(self, plugin: ExternalPlugin) -> None:
        self._name = plugin.name
        self._calls = plugin.calls(TIMEOUT)

    @property
    def name(self) -> str:
        """The plugin's name, by which the server knows what the evidence is."""
        return self._name

    async def attest(self, server: Server) -> None:
        """Pass payload, challenges and responses to and fro.

        Raises:
            Internal: if the plugin does not keep to the protocol.
            SpiffeError: if server or plugin refuses.
        """
        async with self._calls.conversation(_ATTEST, nodeattestor_pb2.PayloadOrChallengeResponse) as plugin:
            said = await plugin.read()
            if not said.payload:
                raise Internal(f"nodeattestor({self._name}): plugin response missing attestation payload")
            challenge = await server.present(self._name, said.payload)
            while challenge is not None:
                said = await plugin.ask(nodeattestor_pb2.Challenge(challenge=challenge))
                if not said.challenge_response:
                    raise Internal(f"nodeattestor({self._name}): plugin response missing challenge response")
                challenge = await server.answer(said.challenge_response)
