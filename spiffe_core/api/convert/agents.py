"""Agents and join tokens."""

from typing import Final

from spiffe_core.agents import Agent, JoinToken
from spiffe_core.api.convert.ids import id_from_pb, id_to_pb
from spiffe_core.api.convert.selectors import selectors_from_pb, selectors_to_pb
from spiffe_core.api.spire.api.types import agent_pb2, jointoken_pb2
from spiffe_core.api.spire.api.types.agent_pb2 import AgentMask
from spiffe_core.errors import InvalidInput

_ALL: Final = AgentMask(**{field.name: True for field in AgentMask.DESCRIPTOR.fields})


def agent_from_pb(pb: agent_pb2.Agent) -> Agent:
    """An agent that a server sent, unmasked.  The wire does not know of a renewed SVID that was not used yet.

    Raises:
        InvalidInput: if its ID, a selector or its ban makes no sense.
    """
    if pb.banned == bool(pb.x509svid_serial_number):
        state = "banned, but has" if pb.banned else "not banned, but has not"
        raise InvalidInput(f"agent is {state} a serial number: was it asked for with a mask?")
    return Agent(
        id=id_from_pb(pb.id if pb.HasField("id") else None),
        attestation_type=pb.attestation_type,
        cert_serial=pb.x509svid_serial_number,
        cert_not_after=pb.x509svid_expires_at,
        can_reattest=pb.can_reattest,
        agent_version=pb.agent_version,
        selectors=selectors_from_pb(pb.selectors),
    )


def agent_to_pb(agent: Agent, mask: AgentMask | None = None) -> agent_pb2.Agent:
    """The agent with the chosen fields, and always its ID."""
    show = _ALL if mask is None else mask
    return agent_pb2.Agent(
        id=id_to_pb(agent.id),
        attestation_type=agent.attestation_type if show.attestation_type else "",
        x509svid_serial_number=agent.cert_serial if show.x509svid_serial_number else "",
        x509svid_expires_at=agent.cert_not_after if show.x509svid_expires_at else 0,
        selectors=selectors_to_pb(agent.selectors) if show.selectors else (),
        banned=show.banned and agent.banned,
        can_reattest=show.can_reattest and agent.can_reattest,
        agent_version=agent.agent_version if show.agent_version else "",
    )


def join_token_from_pb(pb: jointoken_pb2.JoinToken) -> JoinToken:
    """A join token that a server sent.

    Raises:
        InvalidInput: if it is empty.
    """
    if not pb.value:
        raise InvalidInput("join token is empty")
    return JoinToken(pb.value, pb.expires_at)


def join_token_to_pb(token: JoinToken) -> jointoken_pb2.JoinToken:
    """The join token as a message."""
    return jointoken_pb2.JoinToken(value=token.value, expires_at=token.expires_at)
