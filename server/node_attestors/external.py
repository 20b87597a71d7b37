"""A node attestor outside this process, by SPIRE's plugin interface."""

from typing import Final

from server.node_attestors.base import CLIENT_ADDRESS, Attested, Challenge
from spiffe_core.api.services import service_in
from spiffe_core.api.spire.plugin.server.nodeattestor.v1 import nodeattestor_pb2
from spiffe_core.bundle import PublicKey
from spiffe_core.entries import Selector
from spiffe_core.errors import Internal, InvalidInput, InvalidSpiffeId
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.calls import rpc_in
from spiffe_core.runtime.plugin_host import ExternalPlugin

SERVICE: Final = str(service_in(nodeattestor_pb2.DESCRIPTOR).full_name)
TIMEOUT: Final = 60.0
"""Seconds that an attestation may take, the agent's answers included."""
_ADDRESS_KEY: Final = "x-forwarded-client-ip"
_ATTEST: Final = rpc_in(nodeattestor_pb2.DESCRIPTOR, "Attest")


class ExternalNodeAttestor:
    """Lets a plugin examine the evidence.  Lives on one event loop."""

    def __init__(self, plugin: ExternalPlugin) -> None:
        self._name = plugin.name
        self._calls = plugin.calls(TIMEOUT)

    async def attest(self, payload: bytes, public_key: PublicKey, challenge: Challenge) -> Attested:  # noqa: ARG002
        """Pass payload, challenges and responses to and fro.

        Raises:
            InvalidInput: if there is no payload, or the plugin finds it malformed.
            Denied: if the plugin refuses.
            Internal: if the plugin does not keep to the protocol.
        """
        if not payload:
            raise InvalidInput("payload cannot be empty")
        metadata = ((_ADDRESS_KEY, CLIENT_ADDRESS.get()),)
        async with self._calls.conversation(_ATTEST, nodeattestor_pb2.AttestResponse, metadata) as plugin:
            answer = await plugin.ask(nodeattestor_pb2.AttestRequest(payload=payload))
            while answer.WhichOneof("response") == "challenge":
                response = await challenge(answer.challenge)
                answer = await plugin.ask(nodeattestor_pb2.AttestRequest(challenge_response=response))
        if answer.WhichOneof("response") is None:
            raise Internal(f"nodeattestor({self._name}): plugin response missing challenge or agent attributes")
        return self._attested(answer.agent_attributes)

    def _attested(self, said: nodeattestor_pb2.AgentAttributes) -> Attested:
        if not said.spiffe_id:
            raise Internal(f"nodeattestor({self._name}): plugin response missing agent ID")
        try:
            agent_id = SpiffeId.parse(said.spiffe_id)
        except InvalidSpiffeId as exc:
            raise Internal(f"nodeattestor({self._name}): plugin response has a malformed agent ID: {exc}") from exc
        selectors = tuple(Selector(self._name, value) for value in said.selector_values)
        return Attested(agent_id, selectors, said.can_reattest)
