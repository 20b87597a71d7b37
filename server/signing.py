"""Signing for the API: authorities work in lanes, so that a slow or hanging device holds up nothing else."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from hsm_ca.authority_key import Kind
from hsm_ca.jwt_authority import IssuedJwtSvid, JwtSvidRequest
from hsm_ca.manager import AuthorityManager
from hsm_ca.policy import CaPolicy
from hsm_ca.x509_authority import IssuedSvid, SvidRequest, X509Issuer
from spiffe_core.bundle import PublicKey
from spiffe_core.errors import SpiffeError, Unavailable
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.lanes import Lanes

T = TypeVar("T")

Work = Callable[[X509Issuer, datetime], T]
"""Something done with the authority of the moment, at a time."""


class Signer:
    """What the server signs for its callers."""

    def __init__(self, *, authorities: AuthorityManager, lanes: Lanes, policy: CaPolicy, clock: Clock) -> None:
        self._authorities = authorities
        self._lanes = lanes
        self._policy = policy
        self._clock = clock

    @property
    def jwt_svids_disabled(self) -> bool:
        """Whether this server neither makes JWT keys nor signs JWT-SVIDs."""
        return self._policy.jwt_svids_disabled

    def x509_ttl(self, seconds: int = 0) -> timedelta:
        """A requested lifetime, or the configured one for 0."""
        return timedelta(seconds=seconds) if seconds > 0 else self._policy.x509_svid_ttl

    def jwt_ttl(self, seconds: int = 0) -> timedelta:
        """A requested lifetime, or the configured one for 0."""
        return timedelta(seconds=seconds) if seconds > 0 else self._policy.jwt_svid_ttl

    async def x509_svid(self, request: SvidRequest) -> IssuedSvid:
        """Sign one X509-SVID.

        Raises:
            Unavailable: if the authority cannot sign now.
        """
        return await self.run(lambda issuer, now: issuer.issue(request, now))

    async def agent_svid(self, agent_id: SpiffeId, public_key: PublicKey, caller: str) -> IssuedSvid:
        """Sign the X509-SVID of an agent."""
        return await self.x509_svid(
            SvidRequest(
                kind=Kind.AGENT_X509_SVID,
                spiffe_id=agent_id,
                public_key=public_key,
                ttl=self._policy.agent_ttl or self._policy.x509_svid_ttl,
                caller=caller,
            )
        )

    async def jwt_svid(self, request: JwtSvidRequest) -> IssuedJwtSvid:
        """Sign one JWT-SVID.

        Raises:
            InvalidInput: if it has no audience.
            Unavailable: if the authority cannot sign now.
        """
        issuer = self._authorities.jwt
        return await self._lanes.run(lambda: issuer.issue(request, self._clock.now()))

    async def run(self, work: Work[T]) -> T:
        """Do one thing with the X.509 authority in a lane."""
        issuer = self._authorities.x509
        return await self._lanes.run(lambda: work(issuer, self._clock.now()))

    async def batch(self, works: Sequence[Work[T]]) -> list[T | SpiffeError]:
        """Do many things with the X.509 authority; each has its own outcome, in their order.

        A batch occupies one lane of a fast device and as many as there are of a slow one.
        """
        issuer = self._authorities.x509
        if len(works) == 1:
            return await self._lanes.run(lambda: self._each(works, issuer))
        parts = min(self._lanes.health().lanes, len(works))
        size = -(-len(works) // parts)
        chunks = [works[start : start + size] for start in range(0, len(works), size)]
        done = await asyncio.gather(
            *(self._lanes.run(partial(self._each, chunk, issuer), units=len(chunk)) for chunk in chunks)
        )
        return [outcome for part in done for outcome in part]

    def _each(self, works: Sequence[Work[T]], issuer: X509Issuer) -> list[T | SpiffeError]:
        now = self._clock.now()
        outcomes: list[T | SpiffeError] = []
        for work in works:
            try:
                outcomes.append(work(issuer, now))
            except Unavailable as exc:  # the device is away: asking it again for each of the others only takes time
                outcomes += [exc] * (len(works) - len(outcomes))
                break
            except SpiffeError as exc:
                outcomes.append(exc)
        return outcomes
