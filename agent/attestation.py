"""Node attestation, once through: a new key, the attestor's evidence, an SVID that is stored, and the bundle.

The SVID is stored as soon as the server has given it: what was attested with, a join token, may be spent.
"""

from dataclasses import dataclass
from typing import Final

import structlog

from agent.contact import Contact
from agent.node_attestors.base import NodeAttestor
from agent.own_keys import OwnKeys
from agent.state import StateFile
from keymanagers.base import Key
from spiffe_core.bundle import Bundle
from spiffe_core.errors import SpiffeError
from spiffe_core.runtime.clock import Clock
from spiffe_core.x509svid import Chain, id_of

log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Credentials:
    """An agent's SVID, its key, and whether the agent may attest anew when it needs another."""

    chain: Chain
    key: Key
    reattestable: bool


class NodeAttestation:
    """Attests the node of this agent."""

    def __init__(
        self,
        *,
        contact: Contact,
        attestor: NodeAttestor,
        keys: OwnKeys,
        state: StateFile,
        clock: Clock,
    ) -> None:
        self._contact = contact
        self._attestor = attestor
        self._keys = keys
        self._state = state
        self._clock = clock

    async def attest(self, trusted: Bundle | None) -> tuple[Credentials, Bundle]:
        """Attest to the server that the bundle vouches for (to any, without one): new credentials, and its bundle.

        Raises:
            SpiffeError: if the server refuses, or is not there.
        """
        key, csr = await self._keys.make(self._clock.now())
        async with self._contact.server(trusted) as server:
            admission = await server.attest(self._attestor, csr)
            await self._state.change(svid=admission.chain, reattestable=admission.reattestable)
            log.info(
                "Node attestation was successful",
                spiffe_id=str(id_of(admission.chain[0])),
                reattestable=admission.reattestable,
                node_attestor_type=self._attestor.name,
            )
            credentials = Credentials(admission.chain, key, admission.reattestable)
            try:
                return credentials, await server.bundle()
            except SpiffeError as exc:
                if trusted is None:
                    raise
                log.warning("Could not get the trust domain's bundle yet", error=str(exc))
                return credentials, trusted

    async def bundle(self, trusted: Bundle | None) -> Bundle:
        """The trust domain's bundle, asked for without showing an identity.

        Raises:
            SpiffeError: if the server is not there.
        """
        async with self._contact.server(trusted) as server:
            return await server.bundle()
