"""Who may call what: one table, and the questions that it takes to answer it, the cheapest first.

A caller on the server's Unix socket is *local*.  Over TCP a caller is an *admin* if the configuration or an
entry says so of its SPIFFE ID, a *downstream* server if an entry does, and an *agent* if the registry holds it
with the serial number of the SVID that it presents.  An agent is never local.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Flag, auto
from functools import partial
from typing import Any, Final, Protocol

import grpc

from server.caller import Call, Role
from server.rate_limits import Limit, RateLimits
from spiffe_core.api.services import Method
from spiffe_core.errors import DenialReason, Denied, Unauthenticated
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.peers import Peer, PeerKind


class Who(Flag):
    """Kinds of callers."""

    ANY = auto()
    LOCAL = auto()
    ADMIN = auto()
    AGENT = auto()
    DOWNSTREAM = auto()


_ADMINS: Final = Who.LOCAL | Who.ADMIN
_AGENT: Final = "/spire.api.server.agent.v1.Agent/"
_BUNDLE: Final = "/spire.api.server.bundle.v1.Bundle/"
_DEBUG: Final = "/spire.api.server.debug.v1.Debug/"
_ENTRY: Final = "/spire.api.server.entry.v1.Entry/"
_LOGGER: Final = "/spire.api.server.logger.v1.Logger/"
_SVID: Final = "/spire.api.server.svid.v1.SVID/"
_HEALTH: Final = "/grpc.health.v1.Health/"

ALLOWED: Final[Mapping[str, Who]] = {
    _AGENT + "AttestAgent": Who.ANY,
    _AGENT + "BanAgent": _ADMINS,
    _AGENT + "CountAgents": _ADMINS,
    _AGENT + "CreateJoinToken": _ADMINS,
    _AGENT + "DeleteAgent": _ADMINS,
    _AGENT + "GetAgent": _ADMINS,
    _AGENT + "ListAgents": _ADMINS,
    _AGENT + "PostStatus": Who.AGENT,
    _AGENT + "RenewAgent": Who.AGENT,
    _BUNDLE + "AppendBundle": _ADMINS,
    _BUNDLE + "BatchCreateFederatedBundle": _ADMINS,
    _BUNDLE + "BatchDeleteFederatedBundle": _ADMINS,
    _BUNDLE + "BatchSetFederatedBundle": _ADMINS,
    _BUNDLE + "BatchUpdateFederatedBundle": _ADMINS,
    _BUNDLE + "CountBundles": _ADMINS,
    _BUNDLE + "GetBundle": Who.ANY,
    _BUNDLE + "GetFederatedBundle": _ADMINS | Who.AGENT,
    _BUNDLE + "ListFederatedBundles": _ADMINS,
    _DEBUG + "GetInfo": Who.LOCAL,
    _ENTRY + "BatchCreateEntry": _ADMINS,
    _ENTRY + "BatchDeleteEntry": _ADMINS,
    _ENTRY + "BatchUpdateEntry": _ADMINS,
    _ENTRY + "CountEntries": _ADMINS,
    _ENTRY + "GetAuthorizedEntries": Who.AGENT,
    _ENTRY + "GetEntry": _ADMINS,
    _ENTRY + "ListEntries": _ADMINS,
    _ENTRY + "SyncAuthorizedEntries": Who.AGENT,
    _HEALTH + "Check": Who.LOCAL,
    _HEALTH + "Watch": Who.LOCAL,
    _LOGGER + "GetLogger": Who.LOCAL,
    _LOGGER + "ResetLogLevel": Who.LOCAL,
    _LOGGER + "SetLogLevel": Who.LOCAL,
    _SVID + "BatchNewWITSVID": Who.AGENT,
    _SVID + "BatchNewX509SVID": Who.AGENT,
    _SVID + "MintJWTSVID": _ADMINS,
    _SVID + "MintWITSVID": _ADMINS,
    _SVID + "MintX509SVID": _ADMINS,
    _SVID + "NewJWTSVID": Who.AGENT,
}
"""Every RPC that this server offers, and for whom (SPIRE's default policy)."""


class Registry(Protocol):
    """What the registry says of a caller's ID."""

    def is_admin(self, spiffe_id: SpiffeId) -> bool:
        """Whether an entry makes the ID an admin's."""

    def is_downstream(self, spiffe_id: SpiffeId) -> bool:
        """Whether an entry makes the ID a downstream server's."""

    async def check_agent(self, spiffe_id: SpiffeId, serial: str) -> None:
        """Raise ``Denied``, with the reason, unless this is an attested agent with its current SVID."""


class Authorizer:
    """Lets calls in."""

    def __init__(
        self,
        *,
        registry: Registry,
        admin_ids: frozenset[SpiffeId],
        limits: RateLimits,
        limited: Mapping[str, Limit],
        now: Callable[[], datetime],
    ) -> None:
        """Take the registry, the configured admins, the buckets, which RPC uses which, and the clock."""
        self._registry = registry
        self._admin_ids = admin_ids
        self._limits = limits
        self._limited = limited
        self._now = now

    async def authorize(self, method: Method, peer: Peer, context: grpc.aio.ServicerContext[Any, Any]) -> Call:
        """The call, if its caller may make it.

        Raises:
            Denied: if not; with the reason, if the caller is an agent that must know it.
        """
        role, via = await self._role(method, peer)
        limit = self._limited.get(method.path)
        time_left = context.time_remaining() if limit else None
        recheck = partial(self._check_agent, method, peer) if limit and role is Role.AGENT else None
        return Call(method, peer, role, via, self._limits, limit, time_left, recheck)

    async def _role(self, method: Method, peer: Peer) -> tuple[Role, str]:
        allowed = ALLOWED[method.path]
        if peer.kind is PeerKind.UNIX:
            if allowed & (Who.LOCAL | Who.ANY):
                return Role.LOCAL, "transport"
            raise _denied(method)
        if Who.ANY in allowed:
            return Role.NOBODY, ""
        if peer.svid is None:
            raise _denied(method)
        spiffe_id = peer.svid.id
        if Who.ADMIN in allowed:
            if spiffe_id in self._admin_ids:
                return Role.ADMIN, "config"
            if self._registry.is_admin(spiffe_id):
                return Role.ADMIN, "entries"
        if Who.DOWNSTREAM in allowed and self._registry.is_downstream(spiffe_id):
            return Role.DOWNSTREAM, "entries"
        if Who.AGENT in allowed:
            await self._check_agent(method, peer)
            return Role.AGENT, "datastore"
        raise _denied(method)

    async def _check_agent(self, method: Method, peer: Peer) -> None:
        assert peer.svid is not None
        if self._now() > peer.svid.not_after:
            raise _denied(method, DenialReason.AGENT_EXPIRED)
        try:
            await self._registry.check_agent(peer.svid.id, str(peer.svid.leaf.serial_number))
        except Denied as exc:
            raise _denied(method, exc.reason) from exc


def require_peer(peer: Peer | None) -> Peer:
    """The peer of a call, which came through the front door.

    Raises:
        Unauthenticated: if it did not.
    """
    if peer is None:
        raise Unauthenticated("the connection did not come through the front door")
    return peer


def _denied(method: Method, reason: DenialReason | None = None) -> Denied:
    return Denied(f"authorization denied for method {method.path}", reason)
