"""Agents and join tokens in messages."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from spiffe_core.agents import Agent, JoinToken
from spiffe_core.api.convert.agents import agent_from_pb, agent_to_pb, join_token_from_pb, join_token_to_pb
from spiffe_core.api.spire.api.types import agent_pb2, jointoken_pb2
from spiffe_core.entries import Selector
from spiffe_core.errors import InvalidInput, InvalidSelector, InvalidSpiffeId
from spiffe_core.ids import SpiffeId, TrustDomain
from tests.support.strategies import agents, join_tokens

FULL = Agent(
    id=SpiffeId(TrustDomain("home.test"), "/spire/agent/x509pop/a"),
    attestation_type="x509pop",
    cert_serial="123",
    cert_not_after=2_000_000_000,
    can_reattest=True,
    agent_version="1.2.3",
    selectors=(Selector("x509pop", "subject:cn:a"),),
)


@settings(deadline=None)
@given(agents())
def test_an_agent_comes_back_but_for_an_svid_that_it_has_not_used_yet(agent: Agent) -> None:
    pb = agent_pb2.Agent.FromString(agent_to_pb(agent).SerializeToString())
    assert pb.banned == agent.banned
    assert agent_from_pb(pb) == replace(agent, new_cert_serial="", new_cert_not_after=0)


def test_the_message_has_what_the_wire_says() -> None:
    pb = agent_to_pb(FULL)
    assert (pb.x509svid_serial_number, pb.x509svid_expires_at) == ("123", 2_000_000_000)
    assert (pb.attestation_type, pb.can_reattest, pb.agent_version) == ("x509pop", True, "1.2.3")
    assert (pb.id.trust_domain, pb.id.path) == ("home.test", "/spire/agent/x509pop/a")
    assert not pb.banned


@pytest.mark.parametrize("name", [field.name for field in agent_pb2.AgentMask.DESCRIPTOR.fields])
def test_each_field_of_the_mask_chooses_the_field_of_its_name(name: str) -> None:
    banned = replace(FULL, cert_serial="")
    for agent, shown in [(FULL, {name} - {"banned"}), (banned, {name} - {"x509svid_serial_number"})]:
        written = agent_to_pb(agent, agent_pb2.AgentMask(**{name: True}))
        assert {field.name for field, _ in written.ListFields()} == {"id"} | shown


def test_an_empty_mask_leaves_the_id() -> None:
    assert {field.name for field, _ in agent_to_pb(FULL, agent_pb2.AgentMask()).ListFields()} == {"id"}


def test_an_agent_without_an_id_is_refused() -> None:
    with pytest.raises(InvalidSpiffeId, match=r"^request must specify SPIFFE ID$"):
        agent_from_pb(agent_pb2.Agent(x509svid_serial_number="1"))


def test_an_agent_with_a_malformed_selector_is_refused() -> None:
    pb = agent_to_pb(FULL)
    pb.selectors.add(type="t")
    with pytest.raises(InvalidSelector, match=r"^missing selector value$"):
        agent_from_pb(pb)


@pytest.mark.parametrize("banned", [True, False])
def test_a_ban_that_contradicts_the_serial_number_is_refused(banned: bool) -> None:
    pb = agent_to_pb(FULL)
    pb.banned, pb.x509svid_serial_number = banned, "1" if banned else ""
    with pytest.raises(InvalidInput, match=r"a serial number: was it asked for with a mask\?$"):
        agent_from_pb(pb)


@settings(deadline=None)
@given(join_tokens())
def test_a_join_token_comes_back_as_it_went(token: JoinToken) -> None:
    assert join_token_from_pb(join_token_to_pb(token)) == token


def test_an_empty_join_token_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"^join token is empty$"):
        join_token_from_pb(jointoken_pb2.JoinToken(expires_at=1))
