"""Who a caller of the Workload API is: what all attestors together say of its process.

The caller does nothing for it.  The kernel tells which process opened the connection, the attestors read about
that process by its number, and then the very process must still run, as the user that connected: else the number may
have passed to another one meanwhile, or the process to another program, and what was read may be that one's.  This is
done anew for each call, since a process may change its user or its program between two calls.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from agent.identities import Selectors
from agent.workload_attestors.base import WorkloadAttestor
from spiffe_core.entries import Selector
from spiffe_core.errors import SpiffeError, Unauthenticated, Unavailable
from spiffe_core.runtime.levels import Level
from spiffe_core.runtime.log import process_log
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.peers import PeerProcess

log: Final = structlog.get_logger(subsystem_name="workload_attestor")


class WorkloadAttestation:
    """Asks the attestors, all of them at once."""

    def __init__(self, attestors: Sequence[WorkloadAttestor], metrics: Metrics) -> None:
        self._attestors = tuple(attestors)
        self._metrics = metrics

    async def attest(self, process: PeerProcess) -> Selectors:
        """The selectors of a process; those of an attestor that failed are missing.

        Raises:
            Unauthenticated: if the process has ended, has become another user's, or cannot be seen from here.
            Unavailable: if all attestors failed.
        """
        status = "error"
        try:
            process.check_alive()
            selectors = await self._attest(process)
            process.check_same_user()
            process.check_alive()
            status = "OK"
        finally:
            self._metrics.count("workload_api_workload_attestation", "Workloads attested", status=status)
        if process_log.level.current >= Level.DEBUG:
            log.debug("PID attested to have selectors", pid=process.pid, selectors=sorted(map(str, selectors)))
        return selectors

    def close(self) -> None:
        """Close the attestors."""
        for attestor in self._attestors:
            attestor.close()

    async def _attest(self, process: PeerProcess) -> Selectors:
        """What the attestors say, of whichever process has that number now."""
        if len(self._attestors) == 1:
            answers = [await self._ask(self._attestors[0], process)]
        else:
            answers = await asyncio.gather(*(self._ask(attestor, process) for attestor in self._attestors))
        told = [answer for answer in answers if answer is not None]
        if not told:
            process.check_alive()  # if it has ended, that is the reason
            raise Unavailable("workload attestation failed")
        if len(told) < len(answers):
            log.error("Failed to collect all selectors", pid=process.pid)
        return frozenset().union(*told)

    async def _ask(self, attestor: WorkloadAttestor, process: PeerProcess) -> Selectors | None:
        """What one attestor says, or None if it failed.

        Raises:
            Unauthenticated: if the process is no longer who connected, whatever the other attestors say.
        """
        status = "OK"
        try:
            return frozenset(Selector(attestor.name, value) for value in await attestor.attest(process))
        except Unauthenticated:
            status = "error"
            raise
        except SpiffeError as exc:
            status = "error"
            log.error(  # noqa: TRY400  it tells its own story
                "Workload attestor failed", plugin_name=attestor.name, pid=process.pid, error=str(exc)
            )
            return None
        finally:
            self._metrics.count(
                "workload_api_workload_attestor", "Attestors asked", attestor=attestor.name, status=status
            )
