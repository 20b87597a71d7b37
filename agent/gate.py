"""The gate of the agent's sockets: the Workload API's security header, who calls, and how each call ended.

Requests to the Workload API carry the metadata ``workload.spiffe.io: true``, which a program that was tricked
into sending a request somewhere cannot add (SPIFFE_Workload_Endpoint.md §3); this is looked at before anything
else.  Health and reflection on the same socket need no header.
"""

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final

import grpc
import structlog

from spiffe_core.api.services import Method
from spiffe_core.errors import Cancelled, Internal, InvalidInput, SpiffeError, Unauthenticated
from spiffe_core.runtime.frontdoor import FrontDoor
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.peers import PeerProcess
from spiffe_core.runtime.rpc import code_of

WORKLOAD_API: Final = "/SpiffeWorkloadAPI/"
"""How the paths of the Workload API's methods begin."""
HEADER: Final = ("workload.spiffe.io", "true")
FAILED: Final = "RPC failed"

log: Final = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Call:
    """A call that was let in.  It lives as long as the RPC."""

    method: Method
    process: PeerProcess
    begun: float
    """``perf_counter`` when it came in."""
    failure: str = FAILED
    """The event that is logged if it fails; empty if its failure is nothing to tell."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the log says of it then."""

    def log_fields(self) -> dict[str, Any]:
        """What identifies the call in a log line."""
        return {**_names(self.method), "pid": self.process.pid}


class AgentGate:
    """``spiffe_core.runtime.rpc.Gate`` of one front door."""

    def __init__(self, *, door: FrontDoor, metrics: Metrics) -> None:
        self._door = door
        self._metrics = metrics
        self.open_calls = 0
        """Calls of the Workload API that are being answered."""

    async def admit(self, method: Method, peer: str, context: grpc.aio.ServicerContext[Any, Any]) -> Call:
        """Let a call in.

        Raises:
            InvalidInput: if it lacks the security header.
            Unauthenticated: if it did not come through the front door.
        """
        if method.path.startswith(WORKLOAD_API):
            given = [value for name, value in context.invocation_metadata() or () if name == HEADER[0]]
            if given != [HEADER[1]]:
                raise InvalidInput("security header missing from request")
        known = self._door.peer(peer)
        if known is None or known.process is None:
            raise Unauthenticated("could not resolve caller information")
        if method.path.startswith(WORKLOAD_API):
            self._metrics.count("workload_api_connection", "Calls of the Workload API that were let in")
            self.open_calls += 1
        return Call(method, known.process, perf_counter())

    def leave(self, call: Call | None, method: Method, error: SpiffeError | None) -> None:
        """Note how a call ended."""
        code = "OK" if error is None else code_of(error).name.title().replace("_", "")
        self._metrics.rpc(method.path, code, perf_counter() - call.begun if call else 0.0)
        if call is not None and method.path.startswith(WORKLOAD_API):
            self.open_calls -= 1
        if error is None or isinstance(error, Cancelled):
            return
        event, fields = (call.failure, call.log_fields() | call.facts) if call else (FAILED, _names(method))
        if event:
            ours = isinstance(error, Internal) or (event != FAILED and not isinstance(error, InvalidInput))
            report = log.error if ours else log.warning
            report(event, status_code=code, error=str(error), **fields)


def _names(method: Method) -> dict[str, str]:
    package, _, name = method.path.rpartition("/")
    service = package.rpartition(".")[2].removeprefix("/")
    return {"service": "WorkloadAPI" if service == "SpiffeWorkloadAPI" else service, "method": name}
