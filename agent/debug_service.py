"""The Debug service of the agent's admin socket: what this agent holds, for people on its machine."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, Protocol

from spiffe_core.api.convert.ids import id_to_pb
from spiffe_core.api.spire.api.agent.debug.v1 import debug_pb2
from spiffe_core.errors import InvalidX509Svid
from spiffe_core.runtime.clock import Clock, unix
from spiffe_core.runtime.gonames import name_text
from spiffe_core.x509svid import Chain, id_of

KEPT_FOR: Final = 5.0
"""Seconds for which an answer is given again (SPIRE's)."""


class AgentStatus(Protocol):
    """What an agent says of itself."""

    def svid_chain(self) -> Chain:
        """The chain of the agent's own SVID, leaf first, the authority in the bundle last."""

    def x509_svid_count(self) -> int:
        """X509-SVIDs of workloads that it holds."""

    def jwt_svid_count(self) -> int:
        """JWT-SVIDs that it holds."""

    def last_sync(self) -> datetime | None:
        """When it last heard from its server; None if it has not yet."""


class DebugService:
    """``spire.agent.debug.v1.Debug``."""

    def __init__(self, *, status: AgentStatus, clock: Clock, uptime: Callable[[], float]) -> None:
        self._status = status
        self._clock = clock
        self._uptime = uptime
        self._answer: debug_pb2.GetInfoResponse | None = None
        self._answered_at = 0.0

    async def GetInfo(self, _request: object, _call: object) -> debug_pb2.GetInfoResponse:  # noqa: N802  the RPC's name
        """Counts, uptime, the last synchronisation and the agent's own chain."""
        now = self._clock.monotonic()
        if self._answer is None or now - self._answered_at >= KEPT_FOR:
            count, synced = self._status.x509_svid_count(), self._status.last_sync()
            self._answer = debug_pb2.GetInfoResponse(
                svid_chain=_chain_to_pb(self._status.svid_chain()),
                uptime=int(self._uptime()),
                svids_count=count,
                cached_x509_svids_count=count,
                cached_jwt_svids_count=self._status.jwt_svid_count(),
                last_sync_success=unix(synced) if synced else 0,
            )
            self._answered_at = now
        return self._answer


def _chain_to_pb(chain: Chain) -> list[debug_pb2.GetInfoResponse.Cert]:
    """A chain as it is shown: ID, end and subject of each certificate."""
    shown = []
    for certificate in chain:
        cert = debug_pb2.GetInfoResponse.Cert(
            expires_at=unix(certificate.not_valid_after_utc), subject=name_text(certificate.subject)
        )
        with suppress(InvalidX509Svid):  # an upstream's root need not carry an ID
            cert.id.CopyFrom(id_to_pb(id_of(certificate)))
        shown.append(cert)
    return shown
