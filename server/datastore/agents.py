"""Attested agents in the database.

An agent is banned when its serial number is empty; the row stays, so that it cannot attest again.  A renewed
SVID is kept beside the current one until it is first used.  What an agent needs on each call, its standing, is
read by ``standings``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from server.datastore import agent_rows
from server.datastore.agent_rows import EVERY_AGENT, AgentFilter
from server.datastore.database import Database, Write
from server.datastore.entry_rows import chunks, delete_entries, load_selectors, select_entries
from server.datastore.paging import Page, next_token, paged
from server.datastore.tables import AGENTS, ENTRIES
from spiffe_core.agents import Agent
from spiffe_core.entries import Selector, unique_selectors
from spiffe_core.errors import DenialReason, Denied, NotFound
from spiffe_core.ids import SpiffeId

_JOIN_TOKEN = "join_token"  # noqa: S105  the attestation type's name


class Agents:
    """The table of agents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_or_replace(self, agent: Agent) -> Agent:
        """Record an agent that has just attested; a renewed SVID of before is forgotten.

        Raises:
            Denied: if it is banned: also when the ban came while it was attesting.
        """
        agent = replace(agent, new_cert_serial="", new_cert_not_after=0, selectors=unique_selectors(agent.selectors))

        def work(write: Write) -> Agent:
            old = _locked(write, agent.id)
            if old is None:
                row_id = _insert(write, agent)
            elif not old.cert_serial:
                raise Denied("agent is banned", DenialReason.AGENT_BANNED)
            else:
                row_id = old.row_id
                _update(write, agent.id, agent_rows.to_row(agent))
            agent_rows.replace_selectors(write.connection, row_id, agent)
            write.changed_agents([agent.id])
            return agent

        return self._database.write(work)

    def get(self, agent_id: SpiffeId) -> Agent | None:
        """The agent of that ID, or None."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(AGENTS).where(AGENTS.c.id == str(agent_id))).first()
        return agent_rows.from_row(row) if row else None

    def selectors_of(self, agent_ids: Iterable[SpiffeId]) -> dict[SpiffeId, tuple[Selector, ...]]:
        """The selectors of those agents that there are."""
        found: dict[SpiffeId, tuple[Selector, ...]] = {}
        with self._database.read() as connection:
            for some in chunks(map(str, agent_ids)):
                query = sa.select(AGENTS.c.id, AGENTS.c.selectors).where(AGENTS.c.id.in_(some))
                found |= {SpiffeId.parse(r.id): load_selectors(r.selectors) for r in connection.execute(query)}
        return found

    def list(self, wanted: AgentFilter = EVERY_AGENT, *, page_size: int = 0, page_token: str = "") -> Page[Agent]:
        """The agents that match, in the order in which they first attested, a page of them or all.

        Raises:
            InvalidInput: if the page token is none.
        """
        query = paged(sa.select(AGENTS).where(*wanted.conditions()), AGENTS.c.row_id, page_size, page_token)
        with self._database.read() as connection:
            rows = list(connection.execute(query))
        return Page(tuple(map(agent_rows.from_row, rows)), next_token(rows, page_size))

    def count(self, wanted: AgentFilter = EVERY_AGENT) -> int:
        """How many agents match."""
        query = sa.select(sa.func.count()).select_from(AGENTS).where(*wanted.conditions())
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def set_new_serial(self, agent_id: SpiffeId, serial: str, not_after: int, *, beside: str) -> None:
        """Record a renewed SVID, which counts from its first use on; the current one counts until then.

        ``beside`` is the serial number of the current one, with which the agent asked: one that has been replaced
        since, by another attestation or renewal, may not be renewed any more.

        Raises:
            NotFound: if there is no such agent.
            Denied: if it is banned, or another SVID is current now.
        """

        def work(write: Write) -> None:
            if _unbanned(write, agent_id).cert_serial != beside:
                raise Denied("agent SVID is not active any more", DenialReason.AGENT_NOT_ACTIVE)
            _update(write, agent_id, {"new_cert_serial": serial, "new_cert_not_after": not_after})

        self._database.write(work)

    def promote(self, agent_id: SpiffeId, serial: str) -> bool:
        """Make the renewed SVID of that serial the current one: it was used.

        Whether it is current now; another server may have been first.  False if the agent was banned, or
        attested or renewed again meanwhile.
        """

        def work(write: Write) -> bool:
            row = _locked(write, agent_id)
            if row is None or not serial:
                return False
            if row.cert_serial == serial:
                return True
            if not row.cert_serial or row.new_cert_serial != serial:
                return False
            current = {"cert_serial": serial, "cert_not_after": row.new_cert_not_after}
            _update(write, agent_id, current | {"new_cert_serial": "", "new_cert_not_after": 0})
            return True

        return self._database.write(work)

    def ban(self, agent_id: SpiffeId) -> None:
        """Ban the agent: from now on no SVID of it counts, and it cannot attest.

        Raises:
            NotFound: if there is no such agent.
        """

        def work(write: Write) -> None:
            _existing(write, agent_id)
            _update(write, agent_id, {"cert_serial": "", "new_cert_serial": "", "new_cert_not_after": 0})

        self._database.write(work)

    def set_version(self, agent_id: SpiffeId, version: str) -> None:
        """Record what version the agent says it is.

        Raises:
            NotFound: if there is no such agent.
        """
        version = agent_rows.short_version(version)

        def work(write: Write) -> None:
            if _existing(write, agent_id).agent_version != version:
                _update(write, agent_id, {"agent_version": version})

        self._database.write(work)

    def delete(self, agent_id: SpiffeId) -> Agent:
        """Delete the agent, which may then attest again; with a join token's agent goes its alias entry.

        Raises:
            NotFound: if there is no such agent.
        """

        def work(write: Write) -> Agent:
            row = _existing(write, agent_id)
            _delete(write, [row])
            return agent_rows.from_row(row)

        return self._database.write(work)

    def prune(self, before: int, *, include_tofu: bool = False, at_most: int = 1000) -> tuple[Agent, ...]:
        """Delete agents whose SVID expired before that Unix time, and return them; call again while any come.

        Banned agents stay, or the ban would end.  Those that cannot attest again stay too, unless
        ``include_tofu``.
        """
        wanted = AgentFilter(expires_before=before, banned=False, can_reattest=None if include_tofu else True)

        def work(write: Write) -> tuple[Agent, ...]:
            query = sa.select(AGENTS).where(*wanted.conditions()).order_by(AGENTS.c.row_id).limit(at_most)
            rows = list(write.connection.execute(query.with_for_update()))
            _delete(write, rows)
            return tuple(map(agent_rows.from_row, rows))

        return self._database.write(work)


def _locked(write: Write, agent_id: SpiffeId) -> "sa.Row[Any] | None":
    """The agent's row, which nobody else changes until the transaction ends."""
    return write.connection.execute(sa.select(AGENTS).where(AGENTS.c.id == str(agent_id)).with_for_update()).first()


def _existing(write: Write, agent_id: SpiffeId) -> "sa.Row[Any]":
    row = _locked(write, agent_id)
    if row is None:
        raise NotFound("agent not found")
    return row


def _unbanned(write: Write, agent_id: SpiffeId) -> "sa.Row[Any]":
    row = _existing(write, agent_id)
    if not row.cert_serial:
        raise Denied("agent is banned", DenialReason.AGENT_BANNED)
    return row


def _insert(write: Write, agent: Agent) -> int:
    inserted = write.connection.execute(sa.insert(AGENTS), agent_rows.to_row(agent)).inserted_primary_key
    assert inserted is not None
    return int(inserted[0])


def _update(write: Write, agent_id: SpiffeId, values: dict[str, object]) -> None:
    write.connection.execute(sa.update(AGENTS).where(AGENTS.c.id == str(agent_id)), values)
    write.changed_agents([agent_id])


def _delete(write: Write, rows: "Sequence[sa.Row[Any]]") -> None:
    """Delete agents; the index rows of their selectors go with them, by their foreign keys."""
    _delete_aliases(write, [row.id for row in rows if row.attestation_type == _JOIN_TOKEN])
    for some in chunks(row.row_id for row in rows):
        write.connection.execute(sa.delete(AGENTS).where(AGENTS.c.row_id.in_(some)))
    write.changed_agents(SpiffeId.parse(row.id) for row in rows)


def _delete_aliases(write: Write, agent_ids: Sequence[str]) -> None:
    """Delete the entries that creating a join token made: parent the agent, only selector the parent's ID.

    Other entries below the agent are people's, and stay.
    """
    below = select_entries(write.connection, ENTRIES.c.parent_id, agent_ids, lock=True)
    made = [s for s in below if s.entry.selectors == (Selector("spiffe_id", str(s.entry.parent_id)),)]
    delete_entries(write.connection, [stored.row_id for stored in made])
    write.changed_entries(stored.entry.id for stored in made)
