"""Follows the server: which entries this agent has, the bundle of its trust domain and those of federated ones.

Every few seconds it asks for what has changed.  The bundle counts from the moment it is here, on disk too, before
anything else is done with it: the next connection to the server is judged by it.  What an authority has signed that the
bundle does not trust any more, since it is tainted or gone, is let go at once.
"""

from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Final

import structlog

from agent.agent_svid import AgentSvid
from agent.bootstrap import Bootstrap
from agent.cache import IdentityCache
from agent.client import ServerClient
from agent.config import RebootstrapMode
from agent.jwt_cache import JwtSvids
from agent.signers import Signers
from agent.state import StateFile
from spiffe_core.bundle import Bundle
from spiffe_core.entries import Entry, EntryId
from spiffe_core.errors import SpiffeError, Unavailable
from spiffe_core.runtime.clock import Clock, sleep_until
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.reach import UntrustedServer
from spiffe_core.runtime.tasks import Backoff, jittered
from spiffe_core.x509svid import parse_chain, subject_key_id

FIRST_INTERVAL: Final = 5.0
"""Seconds that an agent which holds no SVID waits at most, whatever interval is configured (SPIRE's)."""
MAX_PAUSE: Final = 480.0
"""Seconds between two attempts, at most (SPIRE's)."""
MAX_INTERVALS: Final = 48
"""The same in intervals."""

log: Final = structlog.get_logger()


class Synchroniser:
    """Brings the cache what the server has for this agent."""

    def __init__(
        self,
        *,
        client: ServerClient,
        cache: IdentityCache,
        jwt_svids: JwtSvids,
        svid: AgentSvid,
        bootstrap: Bootstrap,
        state: StateFile,
        interval: timedelta,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._cache = cache
        self._jwt_svids = jwt_svids
        self._svid = svid
        self._bootstrap = bootstrap
        self._state = state
        self._interval = interval.total_seconds()
        self._backoff = Backoff(first=self._interval, longest=min(MAX_PAUSE, MAX_INTERVALS * self._interval))
        self._clock = clock
        self._metrics = metrics
        self._entries: dict[EntryId, Entry] = {}
        self._failures = 0
        self._has_told_version = False
        self.last_sync: datetime | None = None
        """When the server has last answered everything."""

    async def run(self) -> None:
        """Follow the server, for ever.

        Raises:
            IdentityLost: when the agent must end.
            RebootstrapNeeded: when it must begin anew.
            UntrustedServer: when it may not.
        """
        while True:
            await self.attempt()
            await self._rest()

    async def attempt(self) -> None:
        """Ask once; what fails is logged, and what it means for the agent itself is met.

        Raises:
            IdentityLost: when the agent must end.
            RebootstrapNeeded: when it must begin anew.
            UntrustedServer: when it may not.
        """
        used = self._svid.credentials
        try:
            await self.sync()
        except UntrustedServer as exc:
            self._failures += 1
            self._metrics.count("sync", "Attempts to follow the server", status="untrusted")
            if self._bootstrap.mode is RebootstrapMode.NEVER:
                log.info("Synchronize failed, non-recoverable error", error=str(exc))
                raise UntrustedServer(f"failed to sync with SPIRE Server: {exc}") from exc
            await self._bootstrap.note_mistrust()
        except SpiffeError as exc:
            self._failures += 1
            self._metrics.count("sync", "Attempts to follow the server", status="failed")
            log.error("Synchronize failed", error=str(exc))  # noqa: TRY400  the text says what is wrong
            await self._svid.react(exc, used)
        else:
            self._metrics.count("sync", "Attempts to follow the server", status="ok")
            if self._failures:
                self._failures = 0
                self._cache.retry_refused()
            await self._bootstrap.note_trust()

    async def sync(self) -> None:
        """Ask the server for everything that is new.

        Raises:
            SpiffeError: if it refuses, or is not there.
        """
        self._cache.behind.clear()
        changes = await self._client.sync_entries(self._entries)
        entries = {key: entry for key, entry in self._entries.items() if key not in changes.removed}
        entries.update(changes.changed)
        own = await self._client.bundle()
        foreign = {domain for entry in entries.values() for domain in entry.federates_with} - {own.trust_domain}
        federated = await self._client.federated_bundles(sorted(foreign))
        self._entries = entries
        await self._store(own)
        former = self._cache.own
        self._cache.update(changed=changes.changed.values(), removed=changes.removed, own=own, federated=federated)
        self._distrust(former, own)
        self.last_sync = self._clock.now()
        if not self._has_told_version:
            await self._tell_version()

    def pause(self) -> float:
        """Seconds until the next attempt."""
        if self._failures:
            return self._backoff.pause(self._failures)
        seconds = jittered(self._interval)
        return seconds if self._cache.svid_count else min(seconds, FIRST_INTERVAL)

    async def _rest(self) -> None:
        """Wait for the next attempt; it comes early if an SVID has shown that the bundle is behind."""
        if self._failures:
            await self._clock.sleep(self.pause())
        else:
            await sleep_until(self._cache.behind, self.pause(), self._clock)

    async def _tell_version(self) -> None:
        """Tell the server which version this agent is, once; a server may not want to know."""
        self._has_told_version = True
        try:
            await self._client.post_status(version("steeple"))
        except SpiffeError as exc:
            log.warning("Failed to post agent status", error=str(exc))

    async def _store(self, own: Bundle) -> None:
        try:
            await self._state.change(bundle=tuple(one.der for one in own.x509_authorities))
        except Unavailable as exc:
            log.error("Could not store bundle", error=str(exc))  # noqa: TRY400  it counts in memory all the same

    def _distrust(self, former: Bundle, own: Bundle) -> None:
        """Let go of what authorities have signed that were trusted until now."""
        trusted = {one.der for one in own.x509_authorities if not one.tainted}
        lost = [one for one in former.x509_authorities if not one.tainted and one.der not in trusted]
        if lost:
            culprits = Signers(lost)
            key_ids = {one.der: subject_key_id(one.certificate).hex() for one in lost}
            tainted = sorted(key_ids[one.der] for one in own.x509_authorities if one.der in key_ids)
            log.debug("New tainted X.509 authorities found", subject_key_ids=",".join(tainted))
            gone = sorted(set(key_ids.values()) - set(tainted))
            log.debug("X.509 authorities are no longer in the bundle", subject_key_ids=",".join(gone))
            dropped = self._cache.drop_svids(lambda svid: culprits.signer_of(parse_chain(svid.chain)) is not None)
            log.info("Tainted X.509 SVIDs dropped", count=dropped)
            if culprits.signer_of(self._svid.credentials.chain) is not None:
                self._svid.taint()
        dropped = self._jwt_svids.drop_untrusted({one.id for one in own.jwt_authorities if not one.tainted})
        if dropped:
            log.info(
                "JWT-SVIDs were removed from the JWT cache because they were issued by a tainted authority",
                count=dropped,
            )
