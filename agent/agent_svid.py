"""The agent's own SVID: what it presents to its server, renewed in time, and lost only when the server says so.

Half-way through its life the SVID is renewed; an agent that may attest again does that instead.  While the server
is away, the agent goes on with what it has, past the end of its SVID too: its workloads have theirs.  Once the
SVID has expired the server takes no certificate of ours any more.  An agent that may attest again does so as soon
as the server is back; any other can never get in again, and ends when it sees the server answer.

A refusal that calls the agent itself in question is met as SPIRE's agent meets it: attest again if that is
possible, else forget the SVID and end.  A refusal of an SVID that was replaced meanwhile is nobody's fault.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from agent.attestation import Credentials, NodeAttestation
from agent.client import ServerClient
from agent.own_keys import OwnKeys, identity_of
from agent.rotation import Rotation
from agent.state import StateFile
from spiffe_core.bundle import Bundle
from spiffe_core.errors import (
    DenialReason,
    Denied,
    FailedPrecondition,
    Internal,
    ResourceExhausted,
    SpiffeError,
    Unavailable,
)
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.tasks import Backoff
from spiffe_core.runtime.tls import HardwareIdentity, TlsIdentity
from spiffe_core.x509svid import id_of

CHECK_EVERY: Final = 5.0
"""Seconds between two looks whether it is time to renew."""
_BACKOFF: Final = Backoff(first=CHECK_EVERY, longest=60.0)
_ATTEST_AGAIN: Final = frozenset(
    {
        DenialReason.AGENT_EXPIRED,
        DenialReason.AGENT_NOT_ACTIVE,
        DenialReason.AGENT_NOT_ATTESTED,
        DenialReason.AGENT_MUST_REATTEST,
    }
)

log: Final = structlog.get_logger()


class IdentityLost(FailedPrecondition):
    """The server knows this agent no more, and there is no way back without an operator: the agent ends."""


class AgentSvid:
    """Keeps the agent's SVID valid."""

    def __init__(
        self,
        *,
        credentials: Credentials,
        client: ServerClient,
        attestation: NodeAttestation,
        bundle: Callable[[], Bundle],
        refresh: Callable[[], Awaitable[None]],
        keys: OwnKeys,
        state: StateFile,
        rotation: Rotation,
        clock: Clock,
    ) -> None:
        """Take what the agent begins with; ``refresh`` makes the next call use a new connection."""
        self._client = client
        self._attestation = attestation
        self._bundle = bundle
        self._refresh = refresh
        self._keys = keys
        self._state = state
        self._rotation = rotation
        self._clock = clock
        self._tainted = False
        self._changing = asyncio.Lock()
        self._take(credentials)

    @property
    def credentials(self) -> Credentials:
        """The SVID and key of this moment."""
        return self._credentials

    def identity(self) -> TlsIdentity | HardwareIdentity:
        """What to present to the server."""
        return self._identity

    def taint(self) -> None:
        """The authority that signed the SVID is distrusted: renew it at once."""
        log.info("Agent SVID is tainted by a root authority, forcing rotation")
        self._tainted = True

    async def run(self) -> None:
        """Renew the SVID when it is time, for ever.

        Raises:
            IdentityLost: when the agent must end.
        """
        failures = 0
        while True:
            used = self._credentials
            try:
                await self.rotate_if_due()
                failures = 0
            except IdentityLost:
                raise
            except SpiffeError as exc:
                failures += 1
                log.error(f"Could not {self._doing}", error=str(exc))  # noqa: TRY400, G004  SPIRE's two texts
                await self.react(exc, used)
            patient = failures and not self._has_expired()
            await self._clock.sleep(_BACKOFF.pause(failures) if patient else CHECK_EVERY)

    async def rotate_if_due(self) -> None:
        """Renew the SVID, or attest again, if it is time.

        Raises:
            IdentityLost: if the SVID has expired, the agent may not attest again, and the server answers.
            SpiffeError: if it could not be done now.
        """
        if self._clock.now() < self._rotate_at and not self._tainted:
            return
        async with self._changing:
            if self._credentials.reattestable:
                await self._attest_again()
            elif self._has_expired():
                await self._attestation.bundle(self._bundle())  # raises while the server is away
                raise IdentityLost(
                    f"current SVID has already expired and {self._doing} failed: the server would not take it; "
                    "give the agent a new join token"
                )
            else:
                await self._renew()

    async def react(self, error: SpiffeError, used: Credentials) -> None:
        """Meet a refusal of a call that was made with these credentials; other errors are passed over.

        Raises:
            IdentityLost: if the agent must end.
        """
        if not isinstance(error, Denied) or used is not self._credentials:
            return
        if error.reason is DenialReason.AGENT_BANNED:
            log.warning("Agent is banned: removing SVID and shutting down", error=str(error))
            await self._forget()
            raise IdentityLost(f"the server has banned this agent: {error}") from error
        if error.reason not in _ATTEST_AGAIN:
            return
        log.warning("Agent needs to re-attest; will attempt to re-attest", error=str(error))
        try:
            if not self._credentials.reattestable:
                raise FailedPrecondition("attestation method is not re-attestable")
            async with self._changing:
                if used is self._credentials:
                    await self._attest_again()
        except (Unavailable, ResourceExhausted, Internal) as exc:
            log.error("Agent failed re-attestation; will try again", error=str(exc))  # noqa: TRY400
        except SpiffeError as exc:
            log.error(  # noqa: TRY400  the text says what is wrong
                "Agent failed re-attestation; removing SVID and shutting down", error=str(exc)
            )
            await self._forget()
            raise IdentityLost(f"{error}; {exc}") from exc

    @property
    def _doing(self) -> str:
        return "reattest agent" if self._credentials.reattestable else "rotate agent SVID"

    def _has_expired(self) -> bool:
        return self._clock.now() > self._credentials.chain[0].not_valid_after_utc

    async def _renew(self) -> None:
        log.debug("Rotating agent SVID")
        key, csr = await self._keys.make(self._clock.now())
        chain = await self._client.renew(csr)
        await self._state.change(svid=chain, reattestable=False)
        await self._put_to_use(Credentials(chain, key, reattestable=False))
        log.info("Successfully rotated agent SVID", spiffe_id=str(id_of(chain[0])))

    async def _attest_again(self) -> None:
        log.debug("Reattesting node")
        credentials, _ = await self._attestation.attest(self._bundle())
        await self._put_to_use(credentials)
        log.info("Successfully reattested node", spiffe_id=str(id_of(credentials.chain[0])))

    async def _put_to_use(self, credentials: Credentials) -> None:
        """Present the new SVID from the next call on, and destroy the old one's key."""
        self._take(credentials)
        await self._refresh()
        await self._keys.keep_only(credentials.key)

    def _take(self, credentials: Credentials) -> None:
        leaf = credentials.chain[0]
        self._identity = identity_of(credentials.chain, credentials.key)
        self._credentials = credentials
        self._rotate_at = self._rotation.x509_at(leaf.not_valid_before_utc, leaf.not_valid_after_utc)
        self._tainted = False

    async def _forget(self) -> None:
        try:
            await self._state.change(svid=(), reattestable=False)
        except Unavailable as exc:
            log.error("Failed to remove SVID", error=str(exc))  # noqa: TRY400
