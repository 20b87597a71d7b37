"""The Agent service for administrators: join tokens, and the register of agents."""

from datetime import timedelta
from typing import Final
from uuid import UUID

import pytest
from grpc import StatusCode

from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.types import selector_pb2
from spiffe_core.entries import Selector
from spiffe_core.errors import DenialReason
from spiffe_core.runtime.clock import unix
from tests.support.registry import entry, selectors, spiffe_id
from tests.support.servers import Refusal, attest, attested, make_token, pb_id, serving

USED: Final = Refusal(
    StatusCode.INVALID_ARGUMENT, "failed to attest: join token does not exist or has already been used"
)


@pytest.fixture
async def served():
    async with serving("ratelimit { attestation = false }") as served:
        yield served


# -- join tokens for administrators ----------------------------------------------------------------------------


async def test_a_token_without_a_name_is_a_uuid(served):
    token = await served.local.call(agent_pb2, "CreateJoinToken", ttl=60)
    assert UUID(token.value).version == 4
    assert token.expires_at == unix(served.clock.now()) + 60
    assert served.datastore.entries.count() == 0


@pytest.mark.parametrize("ttl", [0, -1])
async def test_a_token_without_a_lifetime_is_refused(served, ttl):
    refusal = await served.local.refusal(agent_pb2, "CreateJoinToken", ttl=ttl)
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, "ttl is required, you must provide one")


async def test_a_token_with_an_alias_makes_its_entry(served):
    await make_token(served, agent_id=pb_id("/fleet/1"))
    [alias] = served.datastore.entries.list().items
    parent = spiffe_id("/spire/agent/join_token/secret")
    assert (alias.spiffe_id, alias.parent_id) == (spiffe_id("/fleet/1"), parent)
    assert alias.selectors == (Selector("spiffe_id", str(parent)),)


@pytest.mark.parametrize(
    ("agent_id", "text"),
    [
        (
            pb_id("/spire/agent/x"),
            'invalid agent ID: "spiffe://example.org/spire/agent/x" is not a workload in trust domain "example.org"; '
            "path is in the reserved namespace",
        ),
        (
            pb_id(""),
            'invalid agent ID: "spiffe://example.org" is not a workload in trust domain "example.org"; path is empty',
        ),
        (
            pb_id("/x", "other.test"),
            'invalid agent ID: "spiffe://other.test/x" is not a member of trust domain "example.org"',
        ),
    ],
    ids=["reserved", "no path", "foreign"],
)
async def test_an_alias_must_be_a_workloads_id(served, agent_id, text):
    refusal = await served.local.refusal(agent_pb2, "CreateJoinToken", ttl=60, token="secret", agent_id=agent_id)
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, text)
    assert await (await served.remote()).refusal(agent_pb2, "AttestAgent", attest()) == USED


@pytest.mark.parametrize("token", ["..", "a b", "ä", "a//b"])
async def test_a_token_that_cannot_stand_in_an_id_is_refused(served, token):
    refusal = await served.local.refusal(agent_pb2, "CreateJoinToken", ttl=60, token=token)
    assert refusal == Refusal(
        StatusCode.INVALID_ARGUMENT, "a join token consists of letters, numbers, dots, dashes and underscores"
    )


async def test_a_token_that_waits_to_be_used_is_not_made_twice(served):
    await make_token(served)
    refusal = await served.local.refusal(agent_pb2, "CreateJoinToken", ttl=60, token="secret")
    assert refusal.code is StatusCode.ALREADY_EXISTS
    assert "secret" not in refusal.text


async def test_a_token_whose_alias_cannot_be_made_is_not_made_either(served):
    await make_token(served, agent_id=pb_id("/fleet/1"))
    client = await served.remote()
    await attested(client)
    refusal = await served.local.refusal(
        agent_pb2, "CreateJoinToken", ttl=60, token="secret", agent_id=pb_id("/fleet/1")
    )
    assert refusal == Refusal(
        StatusCode.INTERNAL, "failed to create join token registration entry: similar entry already exists"
    )
    assert await client.refusal(agent_pb2, "AttestAgent", attest()) == USED


async def test_an_agent_is_entitled_to_the_alias_of_its_token_and_to_what_is_below_it(served):
    await make_token(served, agent_id=pb_id("/fleet/1"))
    served.register(entry("/workload", "/fleet/1"))
    client = await served.agent("join_token/secret")
    answer = await client.call(entry_pb2, "GetAuthorizedEntries")
    assert [one.spiffe_id.path for one in answer.entries] == ["/fleet/1", "/workload"]


# -- the register ----------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(served):
    """Three agents of two kinds; the last is banned."""
    served.attested("join_token/a", selectors=selectors("s:1"), ttl=timedelta(minutes=1))
    served.attested("x509pop/b", selectors=selectors("s:1", "s:2"), can_reattest=True, agent_version="1.0")
    served.attested("x509pop/c", selectors=selectors("s:3"))
    served.datastore.agents.ban(spiffe_id("/spire/agent/x509pop/c"))
    return served


def names(answer):
    return "".join(agent.id.path[-1] for agent in answer.agents)


def by_selectors(match, *texts):
    return {"match": match, "selectors": [selector_pb2.Selector(type="s", value=text) for text in texts]}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, "abc"),
        ({"by_attestation_type": "x509pop"}, "bc"),
        ({"by_attestation_type": "none"}, ""),
        ({"by_banned": True}, "c"),
        ({"by_banned": False}, "ab"),
        ({"by_can_reattest": True}, "b"),
        ({"by_can_reattest": False}, "ac"),
        ({"by_expires_before": "2030-01-01 00:30:00 +0000 +00"}, "a"),
        ({"by_expires_before": "2030-01-01 00:30:00 -0100 -01"}, "abc"),
        ({"by_selector_match": by_selectors("MATCH_EXACT", "1")}, "a"),
        ({"by_selector_match": by_selectors("MATCH_SUBSET", "1", "2")}, "ab"),
        ({"by_selector_match": by_selectors("MATCH_SUPERSET", "1")}, "ab"),
        ({"by_selector_match": by_selectors("MATCH_ANY", "2", "3")}, "bc"),
        ({"by_banned": False, "by_attestation_type": "x509pop"}, "b"),
    ],
    ids=[
        "all",
        "kind",
        "unknown kind",
        "banned",
        "not banned",
        "can attest again",
        "cannot",
        "expires before",
        "expires before in another zone",
        "exactly",
        "subset",
        "superset",
        "any",
        "two conditions",
    ],
)
async def test_a_filter_chooses_agents(fleet, wanted, found):
    wanted = {name: {"value": value} if isinstance(value, bool) else value for name, value in wanted.items()}
    assert names(await fleet.local.call(agent_pb2, "ListAgents", filter=wanted)) == found
    assert (await fleet.local.call(agent_pb2, "CountAgents", filter=wanted)).count == len(found)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (
            {"by_selector_match": {"selectors": [{"type": "a:b", "value": "c"}]}},
            "failed to parse selectors: selector type contains ':'",
        ),
        ({"by_selector_match": {}}, "cannot list by empty selectors set"),
        (
            {"by_expires_before": "soon"},
            "malformed expiry filter: 'soon' is no time like 2006-01-02 15:04:05 -0700 -07",
        ),
        (
            {"by_expires_before": "2030-01-01 00:30:00 +0000 UTC"},
            "malformed expiry filter: '2030-01-01 00:30:00 +0000 UTC' does not end with a numeric zone",
        ),
    ],
    ids=["selector", "no selector", "time", "zone"],
)
@pytest.mark.parametrize("rpc", ["ListAgents", "CountAgents"])
async def test_a_malformed_filter_is_refused(served, rpc, wanted, text):
    refusal = await served.local.refusal(agent_pb2, rpc, filter=wanted)
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, text)


async def test_pages_are_followed_by_an_empty_one(fleet):
    pages, token = [], ""
    while True:
        answer = await fleet.local.call(agent_pb2, "ListAgents", page_size=2, page_token=token)
        pages.append(names(answer))
        token = answer.next_page_token
        if not token:
            break
    assert pages == ["ab", "c", ""]


async def test_a_page_token_that_is_none_is_refused(fleet):
    refusal = await fleet.local.refusal(agent_pb2, "ListAgents", page_size=1, page_token="x")
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, "could not parse token 'x'")


async def test_a_mask_chooses_what_is_shown_of_an_agent(fleet):
    mask = {"agent_version": True, "can_reattest": True}
    shown = await fleet.local.call(agent_pb2, "GetAgent", id=pb_id("/spire/agent/x509pop/b"), output_mask=mask)
    assert {name.name for name, _ in shown.ListFields()} == {"id", "agent_version", "can_reattest"}
    listed = await fleet.local.call(agent_pb2, "ListAgents", output_mask={})
    assert all({name.name for name, _ in agent.ListFields()} == {"id"} for agent in listed.agents)


async def test_an_agent_is_shown_in_full(fleet):
    shown = await fleet.local.call(agent_pb2, "GetAgent", id=pb_id("/spire/agent/x509pop/b"))
    known = fleet.datastore.agents.get(spiffe_id("/spire/agent/x509pop/b"))
    assert shown.x509svid_serial_number == known.cert_serial
    assert shown.x509svid_expires_at == known.cert_not_after
    assert [(one.type, one.value) for one in shown.selectors] == [("s", "1"), ("s", "2")]
    assert (shown.attestation_type, shown.banned, shown.can_reattest) == ("x509pop", False, True)


@pytest.mark.parametrize("rpc", ["GetAgent", "BanAgent", "DeleteAgent"])
@pytest.mark.parametrize(
    ("agent_id", "code", "text"),
    [
        (pb_id("/spire/agent/x"), StatusCode.NOT_FOUND, "agent not found"),
        (
            pb_id("/workload"),
            StatusCode.INVALID_ARGUMENT,
            'invalid agent ID: "spiffe://example.org/workload" is not an agent in trust domain "example.org"; path is'
            " not in the agent namespace",
        ),
        (
            pb_id("/spire/agent/x", "other.test"),
            StatusCode.INVALID_ARGUMENT,
            'invalid agent ID: "spiffe://other.test/spire/agent/x" is not a member of trust domain "example.org"',
        ),
        (
            pb_id(""),
            StatusCode.INVALID_ARGUMENT,
            'invalid agent ID: "spiffe://example.org" is not an agent in trust domain "example.org"; path is empty',
        ),
    ],
    ids=["unknown", "workload", "foreign", "no path"],
)
async def test_whoever_is_no_known_agent_is_refused(served, rpc, agent_id, code, text):
    assert await served.local.refusal(agent_pb2, rpc, id=agent_id) == Refusal(code, text)


async def test_a_banned_agent_stays_known_and_can_neither_call_nor_attest(served):
    client = await served.agent("join_token/secret")
    agent_id = pb_id("/spire/agent/join_token/secret")
    await served.local.call(agent_pb2, "BanAgent", id=agent_id)
    shown = await served.local.call(agent_pb2, "GetAgent", id=agent_id)
    assert (shown.banned, shown.x509svid_serial_number) == (True, "")
    refusal = await client.refusal(agent_pb2, "PostStatus")
    assert refusal.reason is DenialReason.AGENT_BANNED
    await make_token(served)
    refusal = await (await served.remote()).refusal(agent_pb2, "AttestAgent", attest())
    assert refusal.reason is DenialReason.AGENT_BANNED


async def test_an_evicted_agent_is_refused_and_may_attest_again(served):
    client = await served.agent("join_token/secret")
    await served.local.call(agent_pb2, "DeleteAgent", id=pb_id("/spire/agent/join_token/secret"))
    refusal = await client.refusal(agent_pb2, "PostStatus")
    assert refusal.reason is DenialReason.AGENT_NOT_ATTESTED
    await make_token(served)
    assert (await attested(await served.remote())).svid.cert_chain


async def test_with_a_join_tokens_agent_goes_its_alias_and_nothing_else(served):
    await make_token(served, agent_id=pb_id("/fleet/1"))
    served.register(entry("/mine", "/spire/agent/join_token/secret"), entry("/below", "/fleet/1"))
    await attested(await served.remote())
    await served.local.call(agent_pb2, "DeleteAgent", id=pb_id("/spire/agent/join_token/secret"))
    assert [one.spiffe_id.path for one in served.datastore.entries.list().items] == ["/mine", "/below"]
