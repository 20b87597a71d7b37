"""What a node attestor is, on the server's side."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol

from spiffe_core.bundle import PublicKey
from spiffe_core.entries import Selector
from spiffe_core.ids import SpiffeId

CLIENT_ADDRESS: Final[ContextVar[str]] = ContextVar("CLIENT_ADDRESS", default="")
"""IP address of the agent that is being attested, for attestors that look at it; empty if it has none."""
Challenge = Callable[[bytes], Awaitable[bytes]]
"""Sends a challenge to the agent and returns its response."""


@dataclass(frozen=True, slots=True)
class Attested:
    """What an attestor is sure of: the agent's ID, what it knows of the node, and whether it can be asked again."""

    agent_id: SpiffeId
    selectors: tuple[Selector, ...] = ()
    can_reattest: bool = False


class NodeAttestor(Protocol):
    """Examines the evidence of one kind that an agent brings."""

    async def attest(self, payload: bytes, public_key: PublicKey, challenge: Challenge) -> Attested:
        """Decide who the agent is.

        ``public_key`` is the one of the agent's CSR, for attestors that can tell where its private half lives.

        Raises:
            InvalidInput: if the evidence is malformed.
            AttestationFailed: if it was examined and refused.
        """
