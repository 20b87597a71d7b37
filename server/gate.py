"""The gate of the server's API: identifies and authorizes each call, and logs, audits and counts how it ended."""

from time import perf_counter
from typing import Any, Final

import grpc
import structlog

from server.audit import AuditLog, go_name
from server.authorization import Authorizer, require_peer
from server.caller import Call
from spiffe_core.api.services import Method
from spiffe_core.errors import Internal, SpiffeError
from spiffe_core.runtime.frontdoor import FrontDoor
from spiffe_core.runtime.metrics import Metrics

log: Final = structlog.get_logger()


class ServerGate:
    """``spiffe_core.runtime.rpc.Gate`` of one front door."""

    def __init__(self, *, door: FrontDoor, authorizer: Authorizer, audit: AuditLog, metrics: Metrics) -> None:
        self._door = door
        self._authorizer = authorizer
        self._audit = audit
        self._metrics = metrics

    async def admit(self, method: Method, peer: str, context: grpc.aio.ServicerContext[Any, Any]) -> Call:
        """Let a call in.

        Raises:
            Unauthenticated: if it did not come through the front door.
            Denied: if its caller may not make it.
        """
        begun = perf_counter()
        call = await self._authorizer.authorize(method, require_peer(self._door.peer(peer)), context)
        call.begun = begun
        return call

    def leave(self, call: Call | None, method: Method, error: SpiffeError | None) -> None:
        """Note how a call ended."""
        code = "OK" if error is None else go_name(error)
        self._metrics.rpc(method.path, code, perf_counter() - call.begun if call else 0.0)
        if error is not None:
            report = log.error if isinstance(error, Internal) else log.warning
            fields = call.log_fields() if call else {"method": method.path}
            report("RPC failed", status_code=code, error=str(error), **fields, **(call.facts if call else {}))
        if call is not None:
            self._audit.call(call, error)
