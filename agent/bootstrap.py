"""How an agent comes to its SVID: from what it has stored, or else by attesting, again and again for a while.

The first server is trusted by the bundle of the configuration; from then on by the one that is stored, which follows
the server's.  An agent that has a valid SVID and its key goes on with them and asks nobody.

A server that the bundle does not vouch for is an impostor, or has lost its keys.  With ``rebootstrap_mode`` the
agent waits for ``rebootstrap_delay``, and then lets the bundle of its configuration decide anew.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from agent.attestation import Credentials, NodeAttestation
from agent.config import AgentConfig, RebootstrapMode
from agent.own_keys import OwnKeys
from agent.state import BootstrapUse, StateFile
from agent.trust_source import TrustSource
from spiffe_core.bundle import Bundle, X509Authority
from spiffe_core.errors import Denied, FailedPrecondition, InvalidConfig, SpiffeError
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.durations import format_duration
from spiffe_core.runtime.reach import UntrustedServer
from spiffe_core.runtime.tasks import Backoff
from spiffe_core.x509svid import id_of

PATIENCE: Final = timedelta(minutes=1)
"""How long an agent tries to attest before it gives up (SPIRE's)."""
REBOOTSTRAP_PATIENCE: Final = timedelta(hours=24)
"""How long, if it may begin anew (SPIRE's)."""
_BACKOFF: Final = Backoff(first=5.0, longest=60.0)
_SKEW: Final = timedelta(seconds=1)
_NOT_ALLOWED: Final = (
    "you have requested rebootstrap support but the NodeAttestor plugin or the spire server configuration "
    "is not allowing it"
)

log: Final = structlog.get_logger()


class RebootstrapNeeded(FailedPrecondition):
    """The agent must end and, started again, begin with the bundle of its configuration."""


class Bootstrap:
    """Gets an agent its first credentials."""

    def __init__(
        self,
        *,
        config: AgentConfig,
        source: TrustSource,
        attestation: NodeAttestation,
        keys: OwnKeys,
        state: StateFile,
        clock: Clock,
    ) -> None:
        self._config = config
        self._source = source
        self._attestation = attestation
        self._keys = keys
        self._state = state
        self._clock = clock
        self.mode = config.rebootstrap_mode
        """What is left of the configured mode, since not every agent can attest again."""

    async def run(self) -> tuple[Credentials, Bundle]:
        """Credentials, and the bundle that the server is trusted by.

        Raises:
            SpiffeError: what the last attempt failed with, when it is time to give up.
        """
        patience = PATIENCE if self.mode is RebootstrapMode.NEVER else REBOOTSTRAP_PATIENCE
        began, failures = self._clock.monotonic(), 0
        self._check_mode()
        while True:
            try:
                credentials, bundle = await self._attempt()
            except (Denied, InvalidConfig):
                raise
            except SpiffeError as exc:
                failures += 1
                if isinstance(exc, UntrustedServer):
                    await self._mistrust()
                pause = _BACKOFF.pause(failures)
                if self._clock.monotonic() - began + pause > patience.total_seconds():
                    raise
                log.warning("Failed to retrieve attestation result", error=str(exc), retry_interval=f"{pause:.3f}s")
                await self._clock.sleep(pause)
            else:
                await self._state.change(
                    bundle=tuple(one.der for one in bundle.x509_authorities),
                    bootstrap_use=BootstrapUse.REBOOTSTRAP,
                    bootstrap_started_at=None,
                    connection_attempts=0,
                )
                self._check_mode()
                await self._keys.keep_only(credentials.key)
                return credentials, bundle

    async def note_trust(self) -> None:
        """The server and the bundle agree."""
        if self._state.state.bootstrap_started_at is not None:
            await self._state.change(bootstrap_started_at=None, connection_attempts=0)

    async def note_mistrust(self) -> None:
        """The bundle does not vouch for the server any more.

        Raises:
            RebootstrapNeeded: if the agent is to begin anew now.
        """
        if await self._still_patient():
            return
        log.warning("Trust Bundle and Server don't agree, rebootstrapping")
        await self._state.change(
            svid=(),
            reattestable=False,
            bundle=(),
            bootstrap_use=BootstrapUse.REBOOTSTRAP,
            bootstrap_started_at=self._clock.now(),
            connection_attempts=0,
        )
        raise RebootstrapNeeded("shutting down for rebootstrapping")

    async def _attempt(self) -> tuple[Credentials, Bundle]:
        stored, insecure = self._stored_bundle(), False
        bundle = stored
        if bundle is None:
            bundle = await self._configured_bundle()
            insecure = bundle is None
        if insecure:
            log.warning("Insecure bootstrap enabled; skipping server certificate verification")
            log.info("Bundle is not found")
        else:
            log.info("Bundle loaded", trust_domain_id=str(self._config.trust_domain.id))
        credentials = await self._stored_credentials()
        if credentials is None:
            log.info("SVID is not found. Starting node attestation")
            return await self._attestation.attest(bundle)
        log.info("SVID loaded", spiffe_id=str(id_of(credentials.chain[0])))
        # Without a stored bundle, an earlier attempt ended between attestation and bundle.
        return credentials, stored or await self._attestation.bundle(bundle)

    def _stored_bundle(self) -> Bundle | None:
        ders = self._state.state.bundle
        return Bundle(self._config.trust_domain, tuple(map(X509Authority, ders))) if ders else None

    async def _configured_bundle(self) -> Bundle | None:
        state = self._state.state
        started = state.bootstrap_started_at or self._clock.now()
        use = state.bootstrap_use or BootstrapUse.BOOTSTRAP
        attempts = state.connection_attempts + 1
        await self._state.change(bootstrap_use=use, bootstrap_started_at=started, connection_attempts=attempts)
        again = use is BootstrapUse.REBOOTSTRAP
        log.info("Server reattestation attempted" if again else "Server attestation attempted", attempt=attempts)
        return await self._source.bundle(
            {
                "spire-attest-mode": "rebootstrap" if again else "bootstrap",
                "spire-connection-attempts": str(attempts),
                "spire-attest-start-time": f"{started.astimezone(UTC):%FT%TZ}",
                "spire-server-address": self._config.server_address,
                "spire-server-port": str(self._config.server_port),
                "spiffe-trust-domain": self._config.trust_domain.name,
            }
        )

    async def _stored_credentials(self) -> Credentials | None:
        """What an earlier run has left, if it is still good."""
        state = self._state.state
        if not state.svid:
            return None
        leaf = state.svid[0]
        key = await self._keys.find(leaf)
        if key is None:
            log.warning("SVID recovered, but no SVID key found. Generating new keypair")
            return None
        await self._keys.adopt(key)
        if _expired(leaf.not_valid_after_utc, self._clock.now()):
            log.warning(
                "SVID key recovered, but SVID is expired. Generating new keypair",
                expiry=leaf.not_valid_after_utc.isoformat(),
            )
            return None
        return Credentials(state.svid, key, state.reattestable)

    async def _mistrust(self) -> None:
        """An attempt to attest met a server that the bundle does not vouch for."""
        if self._state.state.bootstrap_use is not BootstrapUse.REBOOTSTRAP:
            log.info("Trust Bundle and Server don't agree, bootstrapping again")
        elif self.mode is not RebootstrapMode.NEVER and not await self._still_patient():
            log.warning("Trust Bundle and Server don't agree, rebootstrapping")
            await self._state.change(bundle=())

    async def _still_patient(self) -> bool:
        started = self._state.state.bootstrap_started_at
        if started is None:
            started = self._clock.now()
            await self._state.change(bootstrap_started_at=started)
        left = self._config.rebootstrap_delay - (self._clock.now() - started)
        if left <= timedelta():
            return False
        log.info("Trust Bundle and Server don't agree, ignoring for now", time_left=format_duration(left))
        return True

    def _check_mode(self) -> None:
        """An agent that cannot attest again must not give up what it has."""
        state = self._state.state
        if self.mode is RebootstrapMode.NEVER or not state.svid or state.reattestable:
            return
        if self.mode is RebootstrapMode.ALWAYS:
            raise FailedPrecondition(_NOT_ALLOWED)
        log.warning(f"{_NOT_ALLOWED}. Disabling")  # noqa: G004  SPIRE's text
        self.mode = RebootstrapMode.NEVER


def _expired(not_after: datetime, now: datetime) -> bool:
    return now + _SKEW >= not_after
