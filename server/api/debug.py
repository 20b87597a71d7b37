"""The Debug service: what this server is doing, for people on its machine."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from server.caller import Call
from server.datastore.agents import Agents
from server.datastore.bundles import Bundles
from server.datastore.entries import Entries
from spiffe_core.api.convert.ids import id_to_pb
from spiffe_core.api.spire.api.server.debug.v1 import debug_pb2
from spiffe_core.errors import InvalidX509Svid
from spiffe_core.runtime.clock import Clock, unix
from spiffe_core.runtime.gonames import name_text
from spiffe_core.runtime.lanes import Lanes
from spiffe_core.x509svid import Chain, id_of

KEPT_FOR: Final = 5.0
"""Seconds for which an answer is given again (SPIRE's)."""


class ServerIdentity(Protocol):
    """The SVID that the server presents."""

    def full_chain(self) -> Chain:
        """Its chain, leaf first, the authority in the bundle last."""


class DebugService:
    """``spire.api.server.debug.v1.Debug``."""

    def __init__(
        self,
        *,
        identity: ServerIdentity,
        agents: Agents,
        entries: Entries,
        bundles: Bundles,
        database: Lanes,
        clock: Clock,
        uptime: Callable[[], float],
    ) -> None:
        self._identity = identity
        self._agents = agents
        self._entries = entries
        self._bundles = bundles
        self._database = database
        self._clock = clock
        self._uptime = uptime
        self._answer: debug_pb2.GetInfoResponse | None = None
        self._answered_at = 0.0

    async def GetInfo(self, _request: debug_pb2.GetInfoRequest, _call: Call) -> debug_pb2.GetInfoResponse:
        """Counts, uptime and the server's own chain."""
        now = self._clock.monotonic()
        if self._answer is None or now - self._answered_at >= KEPT_FOR:
            agents, entries, bundles = await self._database.run(
                lambda: (self._agents.count(), self._entries.count(), self._bundles.count())
            )
            self._answer = debug_pb2.GetInfoResponse(
                agents_count=agents,
                entries_count=entries,
                federated_bundles_count=bundles,
                uptime=int(self._uptime()),
                svid_chain=chain_to_pb(self._identity.full_chain()),
            )
            self._answered_at = now
        return self._answer


def chain_to_pb(chain: Chain) -> list[debug_pb2.GetInfoResponse.Cert]:
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
