"""SPIFFE IDs in messages: tolerance and refusals are those of SPIRE's API, texts included."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings

from spiffe_core.api.convert.ids import (
    agent_id_from_pb,
    id_from_pb,
    id_to_pb,
    member_id_from_pb,
    trust_domain_from_pb,
    workload_id_from_pb,
)
from spiffe_core.api.spire.api.types.spiffeid_pb2 import SPIFFEID
from spiffe_core.errors import InvalidSpiffeId
from spiffe_core.ids import SpiffeId, TrustDomain
from tests.support.strategies import agent_ids, spiffe_ids, workload_ids

Read = Callable[[SPIFFEID, TrustDomain], SpiffeId]
HOME = TrustDomain("home.test")


def pb(path: str, trust_domain: str = "home.test") -> SPIFFEID:
    return SPIFFEID(trust_domain=trust_domain, path=path)


@settings(deadline=None)
@given(spiffe_ids())
def test_an_id_comes_back_as_it_went(spiffe_id: SpiffeId) -> None:
    assert id_from_pb(SPIFFEID.FromString(id_to_pb(spiffe_id).SerializeToString())) == spiffe_id


@settings(deadline=None)
@given(workload_ids())
def test_a_workload_id_is_taken_in_its_own_trust_domain(spiffe_id: SpiffeId) -> None:
    assert workload_id_from_pb(id_to_pb(spiffe_id), spiffe_id.trust_domain) == spiffe_id


@settings(deadline=None)
@given(agent_ids())
def test_an_agent_id_is_taken_as_such_and_as_a_parent(spiffe_id: SpiffeId) -> None:
    assert agent_id_from_pb(id_to_pb(spiffe_id), spiffe_id.trust_domain) == spiffe_id
    assert member_id_from_pb(id_to_pb(spiffe_id), spiffe_id.trust_domain) == spiffe_id


@pytest.mark.parametrize("text", ["home.test", "spiffe://home.test", "spiffe://home.test/any/path"])
def test_a_trust_domain_is_given_by_name_or_by_an_id_in_it(text: str) -> None:
    assert trust_domain_from_pb(text) == HOME
    assert id_from_pb(pb("/x", text)) == SpiffeId(HOME, "/x")


def test_a_path_may_be_empty() -> None:
    assert id_from_pb(pb("")) == HOME.id


def test_a_field_that_was_not_set_is_refused() -> None:
    with pytest.raises(InvalidSpiffeId, match=r"^request must specify SPIFFE ID$"):
        id_from_pb(None)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (pb("/x", ""), "trust domain is missing"),
        (pb("/x", "Home.test"), "characters are limited to lowercase letters"),
        (pb("/x", "https://home.test"), "scheme is missing or invalid"),
        (pb("x"), "must have a leading slash"),
        (pb("/x/"), "cannot have a trailing slash"),
        (pb("/x//y"), "cannot contain empty segments"),
        (pb("/x/../y"), "cannot contain dot segments"),
        (pb("/x y"), "characters are limited to letters"),
    ],
)
def test_an_id_that_breaks_the_standard_is_refused(message: SPIFFEID, text: str) -> None:
    with pytest.raises(InvalidSpiffeId, match=text):
        id_from_pb(message)


MEMBER = '"spiffe://away.test/x" is not a member of trust domain "home.test"'
EMPTY = "path is empty"
RESERVED = "path is in the reserved namespace"
NO_AGENT = "path is not in the agent namespace"


@pytest.mark.parametrize(
    ("read", "message", "text"),
    [
        (member_id_from_pb, pb("/x", "away.test"), MEMBER),
        (member_id_from_pb, pb(""), f'"spiffe://home.test" is not a member of trust domain "home.test"; {EMPTY}'),
        (workload_id_from_pb, pb("/x", "away.test"), MEMBER),
        (workload_id_from_pb, pb(""), f'"spiffe://home.test" is not a workload in trust domain "home.test"; {EMPTY}'),
        (
            workload_id_from_pb,
            pb("/spire/x"),
            '"spiffe://home.test/spire/x" is not a workload in trust domain "home.test"; ' + RESERVED,
        ),
        (agent_id_from_pb, pb("/x", "away.test"), MEMBER),
        (agent_id_from_pb, pb(""), f'"spiffe://home.test" is not an agent in trust domain "home.test"; {EMPTY}'),
        (
            agent_id_from_pb,
            pb("/spire/agents/x"),
            '"spiffe://home.test/spire/agents/x" is not an agent in trust domain "home.test"; ' + NO_AGENT,
        ),
    ],
)
def test_an_id_in_the_wrong_place_is_refused(read: Read, message: SPIFFEID, text: str) -> None:
    with pytest.raises(InvalidSpiffeId) as refused:
        read(message, HOME)
    assert str(refused.value) == text
