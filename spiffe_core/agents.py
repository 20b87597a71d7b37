"""Attested agents and join tokens, as the server's registry holds them."""

from dataclasses import dataclass, field

from spiffe_core.entries import Selector
from spiffe_core.ids import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An agent that was attested.  Serial numbers are decimal text, as SPIRE stores them; times Unix seconds."""

    id: SpiffeId
    attestation_type: str
    cert_serial: str
    """Serial number of its current SVID; empty when the agent is banned."""
    cert_not_after: int
    new_cert_serial: str = ""
    """Serial number of a renewed SVID that was not used yet; its first use makes it the current one."""
    new_cert_not_after: int = 0
    can_reattest: bool = False
    agent_version: str = ""
    selectors: tuple[Selector, ...] = ()

    @property
    def banned(self) -> bool:
        """Whether an operator banned it."""
        return not self.cert_serial


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A secret that attests one agent, once, until it expires (Unix seconds)."""

    value: str = field(repr=False)
    expires_at: int
