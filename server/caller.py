"""One call of an API and its caller: who it is, what made it welcome, and what the audit log is to say of it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Any, Final
from uuid import uuid4

import structlog

from server.rate_limits import Limit, RateLimits
from spiffe_core.api.services import Method
from spiffe_core.errors import Internal, ResourceExhausted
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.peers import Peer, PeerKind

LONGEST_WAIT: Final = 60.0
"""Seconds that a call waits for its turn at most, whatever its client would: so few can wait."""

log: Final = structlog.get_logger()

_API: Final = "spire.api.server."
_SHORT: Final = {"grpc.health.v1.Health": "Health", "logger.v1.Logger": "Logger"}
"""What SPIRE's logs call services that they do not call by package and name."""


class Role(StrEnum):
    """As what a caller was let in (``authorized_as`` in logs)."""

    NOBODY = "nobody"
    LOCAL = "local"
    ADMIN = "admin"
    DOWNSTREAM = "downstream"
    AGENT = "agent"


@dataclass(slots=True, eq=False)
class Call:
    """A call that was let in.  It lives as long as the RPC."""

    method: Method
    peer: Peer
    role: Role
    via: str = ""
    """What made the caller welcome: ``transport``, ``config``, ``entries`` or ``datastore``."""
    limits: RateLimits | None = None
    limit: Limit | None = None
    time_left: float | None = None
    """Seconds until the client gives up, as it said when it called; None if it did not."""
    recheck: Callable[[], Awaitable[None]] | None = None
    """Raises if the caller would not be let in any more; None if that is not in question."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the audit log says of the request."""
    begun: float = 0.0
    """``perf_counter`` when it came in."""
    audited: bool = False
    """Whether the audit log has a line for each item of the request already."""
    _request_id: str = ""

    @property
    def request_id(self) -> str:
        """Names this call in every log line about it."""
        if not self._request_id:
            self._request_id = str(uuid4())
        return self._request_id

    @property
    def is_local(self) -> bool:
        """Whether the caller came through the server's own Unix socket."""
        return self.peer.kind is PeerKind.UNIX

    @property
    def id(self) -> SpiffeId:
        """The caller's SPIFFE ID.

        Raises:
            Internal: if it has none; no RPC that asks for it lets such a caller in.
        """
        if self.peer.svid is None:
            raise Internal("caller ID missing from request context")
        return self.peer.svid.id

    @property
    def serial(self) -> str:
        """The serial number of the caller's SVID, as the registry writes it.

        Raises:
            Internal: if it has none; no RPC that asks for it lets such a caller in.
        """
        if self.peer.svid is None:
            raise Internal("caller ID missing from request context")
        return str(self.peer.svid.leaf.serial_number)

    @property
    def name(self) -> str:
        """How a signature log names the caller."""
        return str(self.peer.svid.id) if self.peer.svid else self.role.value

    async def rate_limit(self, what: str, count: int = 1) -> None:
        """Wait for this call's turn.

        Who has waited is looked at again: an agent may have been banned meanwhile.

        Raises:
            ResourceExhausted: if it asks for too much, starting with ``rejecting request due to <what> rate limiting``.
            Denied: if the caller would not be let in any more.
        """
        if self.limit is None or self.limits is None or self.is_local:
            return
        deadline = min(inf if self.time_left is None else self.time_left, LONGEST_WAIT)
        try:
            wait = self.limits.reserve(self.limit, self.peer.host, count, deadline)
        except ResourceExhausted as exc:
            raise ResourceExhausted(f"rejecting request due to {what} rate limiting: {exc}") from exc
        if wait <= 0:
            return
        try:
            await asyncio.sleep(wait)
        except asyncio.CancelledError:
            self.limits.give_back(self.limit, self.peer.host, count)
            raise
        if self.recheck is not None:
            await self.recheck()

    def log_fields(self) -> dict[str, Any]:
        """What identifies the call in a log line."""
        service, _, name = self.method.path.removeprefix("/").rpartition("/")
        service = service.removeprefix(_API)
        fields = {
            "service": _SHORT.get(service, service),
            "method": name,
            "request_id": self.request_id,
            "authorized_as": self.role.value,
            "authorized_via": self.via,
        }
        if self.peer.svid:
            fields["caller_id"] = str(self.peer.svid.id)
        if not self.is_local:
            fields["caller_addr"] = self.peer.address
        return fields
