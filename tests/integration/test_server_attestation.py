"""The Agent service for agents: how they attest, renew their SVIDs and say their version."""

import re
from datetime import timedelta
from typing import Final

import pytest
from grpc import StatusCode

from server.api.agent import AgentService
from server.datastore.agents import Agents
from server.node_attestors.base import Attested
from server.rate_limits import ATTEST
from server.signing import Signer
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.entries import Selector
from spiffe_core.errors import AttestationFailed, DenialReason, Denied, Internal, InvalidInput
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.clock import unix
from spiffe_core.x509svid import parse_chain, verify_x509_svid
from tests.support.registry import selectors, spiffe_id
from tests.support.servers import TD, Refusal, Refused, attest, attested, csr, forged, make_token, serving

USED: Final = Refusal(
    StatusCode.INVALID_ARGUMENT, "failed to attest: join token does not exist or has already been used"
)


@pytest.fixture
async def served():
    async with serving("ratelimit { attestation = false }") as served:
        yield served


# -- attestation by join token ---------------------------------------------------------------------------------


async def test_a_join_token_attests_an_agent(served):
    await make_token(served)
    request = csr()
    result = await attested(await served.remote(), request=request)
    chain = parse_chain(tuple(result.svid.cert_chain))
    svid = verify_x509_svid(chain, served.parts.trust.own, served.clock.now())
    assert svid.id == spiffe_id("/spire/agent/join_token/secret")
    assert (result.svid.id.trust_domain, result.svid.id.path) == (TD.name, svid.id.path)
    assert result.svid.expires_at == unix(svid.not_after)
    assert not result.reattestable
    known = served.datastore.agents.get(svid.id)
    assert (known.cert_serial, known.cert_not_after) == (str(svid.leaf.serial_number), unix(svid.not_after))
    assert (known.attestation_type, known.can_reattest, known.banned) == ("join_token", False, False)
    assert known.selectors == ()


async def test_an_agent_svid_lives_as_long_as_agent_ttl_says():
    async with serving('agent_ttl = "10m" ratelimit { attestation = false }') as served:
        await make_token(served)
        result = await attested(await served.remote())
        assert result.svid.expires_at == unix(served.clock.now() + timedelta(minutes=10))


async def test_a_join_token_is_spent_by_its_first_use(served):
    await make_token(served)
    client = await served.remote()
    await attested(client)
    assert await client.refusal(agent_pb2, "AttestAgent", attest()) == USED


@pytest.mark.parametrize("token", ["unknown", "ä", "a" * 300])
async def test_a_token_that_nobody_made_is_refused(served, token):
    assert await (await served.remote()).refusal(agent_pb2, "AttestAgent", attest(token)) == USED


async def test_an_expired_join_token_is_refused_and_spent(served):
    await make_token(served)
    served.clock.advance(61)
    client = await served.remote()
    expired = Refusal(StatusCode.INVALID_ARGUMENT, "join token expired")
    assert await client.refusal(agent_pb2, "AttestAgent", attest()) == expired
    assert await client.refusal(agent_pb2, "AttestAgent", attest()) == USED
    assert served.datastore.agents.count() == 0


async def test_a_join_token_holds_to_the_last_second(served):
    await make_token(served)
    served.clock.advance(60)
    assert (await attested(await served.remote())).svid.cert_chain


async def test_join_tokens_need_no_plugin():
    async with serving(plugins="") as served:
        await make_token(served)
        assert (await attested(await served.remote())).svid.cert_chain


async def test_a_refused_csr_does_not_spend_the_token(served):
    await make_token(served)
    client = await served.remote()
    refusal = await client.refusal(agent_pb2, "AttestAgent", attest(request=forged(csr())))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert refusal.text.startswith("failed to parse CSR: ")
    assert (await attested(client)).svid.cert_chain


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (agent_pb2.AttestAgentRequest(challenge_response=b"x"), "malformed param: missing params"),
        (agent_pb2.AttestAgentRequest(params={}), "malformed param: missing attestation data"),
        (agent_pb2.AttestAgentRequest(params={"data": {}}), "malformed param: missing X509-SVID parameters"),
        (agent_pb2.AttestAgentRequest(params={"data": {}, "params": {}}), "malformed param: missing CSR"),
        (
            agent_pb2.AttestAgentRequest(params={"data": {}, "params": {"csr": b"x"}}),
            "malformed param: missing attestation data type",
        ),
        (
            agent_pb2.AttestAgentRequest(params={"data": {"type": "x"}, "params": {"csr": b"x"}}),
            "malformed param: missing attestation data payload",
        ),
        (
            agent_pb2.AttestAgentRequest(params={"data": {"type": "x" * 256}, "params": {"csr": b"x"}}),
            "malformed param: attestation data type is longer than 255 characters",
        ),
    ],
    ids=["no params", "no data", "no parameters", "no CSR", "no type", "no payload", "a long type"],
)
async def test_a_malformed_first_message_is_refused_by_what_it_lacks(served, request_, text):
    refusal = await (await served.remote()).refusal(agent_pb2, "AttestAgent", request_)
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, text)


async def test_a_stream_that_ends_before_its_first_message_is_refused(served):
    with pytest.raises(Refused) as caught:
        await (await served.remote()).exchange(agent_pb2, "AttestAgent")
    assert caught.value.refusal.code is StatusCode.INVALID_ARGUMENT
    assert caught.value.refusal.text.startswith("failed to receive request from stream")


async def test_an_unknown_kind_of_attestation_is_refused_by_name(served):
    refusal = await (await served.remote()).refusal(agent_pb2, "AttestAgent", attest(kind="tin_can"))
    text = 'error getting node attestor: could not find node attestor type "tin_can"'
    assert refusal == Refusal(StatusCode.FAILED_PRECONDITION, text)


async def test_an_agent_that_was_banned_while_it_was_away_cannot_attest(served):
    served.attested("join_token/secret")
    served.datastore.agents.ban(spiffe_id("/spire/agent/join_token/secret"))
    await make_token(served)
    refusal = await (await served.remote()).refusal(agent_pb2, "AttestAgent", attest())
    assert refusal == Refusal(
        StatusCode.PERMISSION_DENIED, "failed to attest: agent is banned", DenialReason.AGENT_BANNED
    )


async def test_attestation_is_limited_to_one_a_second_and_client():
    async with serving() as served:
        await make_token(served)
        for _ in range(60):
            served.shared.rate_limits.reserve(ATTEST, "127.0.0.1", 1)
        text = "rejecting request due to attest agent rate limiting: rate limit: the wait would exceed the deadline"
        client = await served.remote()
        refusal = await client.refusal(agent_pb2, "AttestAgent", attest())
        assert refusal == Refusal(StatusCode.RESOURCE_EXHAUSTED, f"{text} of the call")
        served.clock.advance(60)
        assert (await attested(client)).svid.cert_chain


async def test_an_agent_waits_for_its_turn_if_it_has_the_time():
    async with serving() as served:
        for value in ("first", "second"):
            await make_token(served, value)
        client = await served.remote()
        await attested(client, "first")
        assert (await attested(client, "second")).svid.cert_chain


async def test_local_callers_are_not_limited():
    async with serving() as served:
        await make_token(served)
        for host in ("", "@", "127.0.0.1"):
            served.shared.rate_limits.reserve(ATTEST, host, 1)
            served.shared.rate_limits.reserve(ATTEST, host, 1)
        assert (await attested(served.local.waiting(1.5))).svid.cert_chain


# -- attestation by other attestors ----------------------------------------------------------------------------


class Examiner:
    """An attestor that asks two questions."""

    def __init__(self, agent_id, *, can_reattest=True, questions=(b"one?", b"two?")):
        self.attested = Attested(agent_id, selectors("exam:grade:a", "exam:grade:a"), can_reattest)
        self.questions = questions
        self.seen = []

    async def attest(self, payload, public_key, challenge):
        self.seen = [payload, public_key]
        for question in self.questions:
            answer = await challenge(question)
            if answer != question.upper():
                raise AttestationFailed(f"{answer!r} is no answer")
        return self.attested


class Stream:
    """An agent's end of AttestAgent that answers each challenge."""

    def __init__(self, *answers):
        self.requests = [attest(kind="exam"), *answers]
        self.sent = []

    async def __aiter__(self):
        for request in self.requests:
            yield request

    async def send(self, response):
        self.sent.append(response)


class Limited:
    """A call that is never limited."""

    def __init__(self, peer):
        self.facts = {}
        self.peer = peer

    async def rate_limit(self, what, count=1):
        """It may go on."""


class Address:
    address = "192.0.2.1:4"
    host = "192.0.2.1"


def answer(text):
    return agent_pb2.AttestAgentRequest(challenge_response=text)


async def examine(served, examiner, *answers, agents=None, **options):
    """What an agent is sent that attests with the examiner."""
    parts = served.parts
    service = AgentService(
        trust_domain=TD,
        agents=agents or served.datastore.agents,
        join_tokens=served.datastore.join_tokens,
        entries=served.datastore.entries,
        attestors={"exam": examiner},
        signer=Signer(
            authorities=parts.authorities, lanes=parts._signing, policy=served.config.ca_policy, clock=served.clock
        ),
        database=parts._database,
        clock=served.clock,
        **options,
    )
    stream = Stream(*answers)
    await service.AttestAgent(aiter(stream), Limited(Address()), stream.send)
    return stream.sent


EXAMINED: Final = spiffe_id("/spire/agent/exam/1")


async def test_an_attestor_may_challenge_the_agent(served):
    examiner = Examiner(EXAMINED)
    sent = await examine(served, examiner, answer(b"ONE?"), answer(b"TWO?"))
    assert [response.challenge for response in sent[:2]] == [b"one?", b"two?"]
    assert sent[2].result.reattestable
    assert examiner.seen[0] == b"secret"
    known = served.datastore.agents.get(EXAMINED)
    assert (known.attestation_type, known.can_reattest) == ("exam", True)
    assert known.selectors == selectors("exam:grade:a")


async def test_an_attestor_is_given_the_key_of_the_csr(served):
    examiner = Examiner(EXAMINED, questions=())
    [response] = await examine(served, examiner)
    [leaf] = parse_chain(tuple(response.result.svid.cert_chain))
    assert leaf.public_key() == examiner.seen[1]


async def test_a_wrong_answer_makes_no_agent(served):
    with pytest.raises(AttestationFailed, match="is no answer"):
        await examine(served, Examiner(EXAMINED), answer(b"ONE?"), answer(b"no"))
    assert served.datastore.agents.count() == 0


@pytest.mark.parametrize("answers", [(), (attest(),)], ids=["nothing", "params again"])
async def test_an_agent_that_does_not_answer_a_challenge_is_refused(served, answers):
    with pytest.raises(InvalidInput, match=r"^failed to receive challenge response from agent$"):
        await examine(served, Examiner(EXAMINED), *answers)


async def test_an_attestor_cannot_name_the_server(served):
    with pytest.raises(Internal, match=r"^agent ID cannot collide with the server ID$"):
        await examine(served, Examiner(spiffe_id("/spire/server"), questions=()))


async def test_an_attestor_cannot_name_an_agent_of_another_trust_domain(served):
    foreign = SpiffeId(TrustDomain("other.test"), "/spire/agent/exam/1")
    with pytest.raises(Internal, match=r'is not a member of trust domain "example.org"$'):
        await examine(served, Examiner(foreign, questions=()))


async def test_an_agents_own_id_becomes_a_selector_where_that_is_configured(served):
    await examine(served, Examiner(EXAMINED, questions=()), agent_id_as_selector=True)
    assert served.datastore.agents.get(EXAMINED).selectors == (
        *selectors("exam:grade:a"),
        Selector("spiffe_id", str(EXAMINED)),
    )


async def test_attesting_again_replaces_selectors_serial_and_a_renewal(served):
    old = served.attested("exam/1", selectors=selectors("old:one"), attestation_type="first", agent_version="7")
    current = str(old.chain[0].serial_number)
    served.datastore.agents.set_new_serial(EXAMINED, "4711", 2_000_000_000, beside=current)
    [response] = await examine(served, Examiner(EXAMINED, questions=()))
    [leaf] = parse_chain(tuple(response.result.svid.cert_chain))
    known = served.datastore.agents.get(EXAMINED)
    assert (known.cert_serial, known.new_cert_serial) == (str(leaf.serial_number), "")
    assert known.selectors == selectors("exam:grade:a")
    assert (known.attestation_type, known.agent_version) == ("first", "7")


class BannedMeanwhile(Agents):
    """The register of agents, in which somebody bans whoever has just been looked up."""

    def get(self, agent_id):
        found = super().get(agent_id)
        self.ban(agent_id)
        return found


async def test_a_ban_that_comes_during_attestation_holds(served):
    served.attested("exam/1")
    agents = BannedMeanwhile(served.datastore._database)
    with pytest.raises(Denied, match=r"^failed to attest: agent is banned$") as caught:
        await examine(served, Examiner(EXAMINED, questions=()), agents=agents)
    assert caught.value.reason is DenialReason.AGENT_BANNED
    assert served.datastore.agents.get(EXAMINED).banned


# -- renewal and status ----------------------------------------------------------------------------------------


async def test_a_renewed_svid_counts_from_its_first_use(served):
    old = await served.agent()
    response = await old.call(agent_pb2, "RenewAgent", params={"csr": csr()})
    chain = parse_chain(tuple(response.svid.cert_chain))
    svid = verify_x509_svid(chain, served.parts.trust.own, served.clock.now())
    assert svid.id == spiffe_id("/spire/agent/x509pop/one")
    assert response.svid.expires_at == unix(svid.not_after)
    known = served.datastore.agents.get(svid.id)
    assert (known.new_cert_serial, known.new_cert_not_after) == (str(svid.leaf.serial_number), unix(svid.not_after))
    assert known.cert_serial != known.new_cert_serial
    assert await old.refusal(entry_pb2, "GetAuthorizedEntries") is None


async def test_an_agent_that_can_attest_again_must(served):
    client = await served.agent(can_reattest=True)
    refusal = await client.refusal(agent_pb2, "RenewAgent", params={"csr": csr()})
    text = "agent must reattest instead of renew"
    assert refusal == Refusal(StatusCode.PERMISSION_DENIED, text, DenialReason.AGENT_MUST_REATTEST)
    assert served.datastore.agents.get(spiffe_id("/spire/agent/x509pop/one")).new_cert_serial == ""


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (None, r"params cannot be nil"),
        ({}, r"missing CSR"),
        ({"csr": b"x"}, r"failed to parse CSR: malformed CSR: .+"),
        ({"csr": forged(csr())}, r"failed to parse CSR: invalid CSR signature: .+"),
    ],
    ids=["no params", "no CSR", "no DER", "signed by another"],
)
async def test_a_malformed_renewal_is_refused(served, params, text):
    client = await served.agent()
    refusal = await client.refusal(agent_pb2, "RenewAgent", params=params)
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert re.fullmatch(text, refusal.text)


async def test_an_agents_version_is_noted(served):
    client = await served.agent()
    await client.call(agent_pb2, "PostStatus", agent_version="1.2.3")
    await client.call(agent_pb2, "PostStatus")
    assert served.datastore.agents.get(spiffe_id("/spire/agent/x509pop/one")).agent_version == "1.2.3"


async def test_a_version_that_is_too_long_is_refused(served):
    client = await served.agent()
    text = "agent version is too long (max 255 characters)"
    refusal = await client.refusal(agent_pb2, "PostStatus", agent_version="v" * 256)
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, text)
    assert await client.refusal(agent_pb2, "PostStatus", agent_version="v" * 255) is None
