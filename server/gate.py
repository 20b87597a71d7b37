"""The gate of the server's API: identifies and authorizes each call, and logs, audits and counts how it ended."""

from time import perf_counter
from typing import Any, Final

import grpc
import structlog

from server.audit import AuditLog, go_name
from server.authorization import Authorizer, require_peer
from server.caller import Call
from spiffe_core.api.services import Method
from spiffe_core.errors import Cancelled, Denied, Internal, SpiffeError
from spiffe_core.runtime.frontdoor import FrontDoor
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.peers import Peer

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
        caller = self._door.peer(peer)
        try:
            call = await self._authorizer.authorize(method, require_peer(caller), context)
        except SpiffeError as exc:
            log.warning("RPC refused", status_code=go_name(exc), error=str(exc), **_about(method, caller, exc))
            raise
        call.begun = begun
        return call

    def leave(self, call: Call | None, method: Method, error: SpiffeError | None) -> None:
        """Note how a call ended."""
        code = "OK" if error is None else go_name(error)
        self._metrics.rpc(method.path, code, perf_counter() - call.begun if call else 0.0)
        if call is None:  # it was not let in, and ``admit`` has said so
            return
        if error is not None:
            quiet = log.debug if isinstance(error, Cancelled) else log.warning
            report = log.error if isinstance(error, Internal) else quiet
            report("RPC failed", status_code=code, error=str(error), **call.log_fields(), **call.facts)
        self._audit.call(call, error)


def _about(method: Method, caller: Peer | None, error: SpiffeError) -> dict[str, Any]:
    """What identifies a call that was not let in, and why it was not."""
    fields: dict[str, Any] = {"method": method.path}
    if caller is not None:
        fields["caller_addr"] = caller.address
        if caller.svid is not None:
            fields["caller_id"] = str(caller.svid.id)
    if isinstance(error, Denied) and error.reason is not None:
        fields["reason"] = error.reason.name
    if error.__cause__ is not None:
        fields["detail"] = str(error.__cause__)
    return fields
