"""A workload attestor outside this process, by SPIRE's plugin interface.

Plugins tell of a process by its number; newer ones may know only *references*, of which such a number is one.
"""

from collections.abc import Sequence
from typing import Final

from google.protobuf.any_pb2 import Any

from spiffe_core.api import broker_pb2
from spiffe_core.api.services import service_in
from spiffe_core.api.spire.plugin.agent.workloadattestor.v1 import workloadattestor_pb2
from spiffe_core.errors import Unsupported
from spiffe_core.runtime.calls import rpc_in
from spiffe_core.runtime.peers import PeerProcess
from spiffe_core.runtime.plugin_host import ExternalPlugin

SERVICE: Final = str(service_in(workloadattestor_pb2.DESCRIPTOR).full_name)
TIMEOUT: Final = 30.0
"""Seconds that an answer may take."""
_ATTEST: Final = rpc_in(workloadattestor_pb2.DESCRIPTOR, "Attest")
_ATTEST_REFERENCE: Final = rpc_in(workloadattestor_pb2.DESCRIPTOR, "AttestReference")


class ExternalWorkloadAttestor:
    """Asks a plugin about processes.  Lives on one event loop."""

    def __init__(self, plugin: ExternalPlugin) -> None:
        self._name = plugin.name
        self._calls = plugin.calls(TIMEOUT)

    @property
    def name(self) -> str:
        """The plugin's name, which is the type of its selectors."""
        return self._name

    async def attest(self, process: PeerProcess) -> Sequence[str]:
        """The values of the process's selectors.

        Raises:
            SpiffeError: what the plugin says, or that it does not run.
        """
        try:
            by_number = await self._calls.unary(
                _ATTEST,
                workloadattestor_pb2.AttestRequest(pid=process.pid),
                workloadattestor_pb2.AttestResponse,
            )
        except Unsupported:
            reference = Any()
            reference.Pack(broker_pb2.WorkloadPIDReference(pid=process.pid))
            by_reference = await self._calls.unary(
                _ATTEST_REFERENCE,
                workloadattestor_pb2.AttestReferenceRequest(reference=reference),
                workloadattestor_pb2.AttestReferenceResponse,
            )
            return tuple(by_reference.selector_values)
        return tuple(by_number.selector_values)

    def close(self) -> None:
        """Nothing: the plugin ends with the agent."""
