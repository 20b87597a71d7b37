"""Agents as rows: the codec, the index rows of their selectors, and what a list of agents may ask for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from server.datastore.entry_rows import dump_selectors, load_selectors, selector_digest
from server.datastore.set_match import SetMatch, matches
from server.datastore.tables import AGENT_SELECTORS, AGENTS
from spiffe_core.agents import Agent
from spiffe_core.entries import Selector, unique_selectors
from spiffe_core.errors import InvalidInput
from spiffe_core.ids import SpiffeId

_VERSION_LENGTH = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFilter:
    """All conditions that are set must hold; what is None or empty sets none."""

    attestation_type: str = ""
    selectors: SetMatch[Selector] | None = None
    banned: bool | None = None
    can_reattest: bool | None = None
    expires_before: int | None = None

    def __post_init__(self) -> None:
        if self.selectors and not self.selectors.members:
            raise InvalidInput("cannot list by empty selectors set")

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """The conditions in SQL, on the table of agents."""
        if self.attestation_type:
            yield AGENTS.c.attestation_type == self.attestation_type
        if self.banned is not None:
            yield AGENTS.c.cert_serial == "" if self.banned else AGENTS.c.cert_serial != ""
        if self.can_reattest is not None:
            yield AGENTS.c.can_reattest.is_(sa.true() if self.can_reattest else sa.false())
        if self.expires_before is not None:
            yield AGENTS.c.cert_not_after < self.expires_before
        if wanted := self.selectors:
            index = (AGENT_SELECTORS.c.agent, AGENT_SELECTORS.c.digest)
            digests = [selector_digest(selector) for selector in wanted.members]
            yield matches(AGENTS.c.row_id, index, digests, len(digests), wanted.match)


EVERY_AGENT = AgentFilter()
"""No condition."""


def to_row(agent: Agent) -> dict[str, object]:
    """The columns of an agent, without ``row_id``."""
    return {
        "id": str(agent.id),
        "attestation_type": agent.attestation_type,
        "cert_serial": agent.cert_serial,
        "cert_not_after": agent.cert_not_after,
        "new_cert_serial": agent.new_cert_serial,
        "new_cert_not_after": agent.new_cert_not_after,
        "can_reattest": agent.can_reattest,
        "agent_version": short_version(agent.agent_version),
        "selectors": dump_selectors(agent.selectors),
    }


def from_row(row: sa.Row[Any]) -> Agent:
    """The agent of a row of all columns."""
    return Agent(
        id=SpiffeId.parse(row.id),
        attestation_type=row.attestation_type,
        cert_serial=row.cert_serial,
        cert_not_after=row.cert_not_after,
        new_cert_serial=row.new_cert_serial,
        new_cert_not_after=row.new_cert_not_after,
        can_reattest=row.can_reattest,
        agent_version=row.agent_version,
        selectors=load_selectors(row.selectors),
    )


def short_version(version: str) -> str:
    """An agent's version, cut to what is kept: it is free text from the agent."""
    return version[:_VERSION_LENGTH]


def replace_selectors(connection: Connection, row_id: int, agent: Agent) -> None:
    """Write the index rows of an agent's selectors in the place of those that are there."""
    connection.execute(sa.delete(AGENT_SELECTORS).where(AGENT_SELECTORS.c.agent == row_id))
    rows = [{"digest": selector_digest(s), "agent": row_id} for s in unique_selectors(agent.selectors)]
    if rows:
        connection.execute(sa.insert(AGENT_SELECTORS), rows)
