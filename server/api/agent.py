"""The Agent service: attestation, renewal and status for agents; the register of agents for administrators."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Final
from uuid import uuid4

import structlog
from google.protobuf import empty_pb2

from server.api.filters import expires_before
from server.caller import Call
from server.datastore.agent_rows import AgentFilter
from server.datastore.agents import Agents
from server.datastore.entries import Entries
from server.datastore.join_tokens import JoinTokens
from server.datastore.set_match import Match, SetMatch
from server.node_attestors.base import CLIENT_ADDRESS, Attested, NodeAttestor
from server.node_attestors.join_token import join_token_agent_id
from server.signing import Signer
from spiffe_core.agents import Agent, JoinToken
from spiffe_core.api.convert.agents import agent_to_pb, join_token_to_pb
from spiffe_core.api.convert.ids import agent_id_from_pb, workload_id_from_pb
from spiffe_core.api.convert.selectors import selectors_from_pb
from spiffe_core.api.convert.svids import x509_svid_to_pb
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.types import agent_pb2 as types_pb2
from spiffe_core.api.spire.api.types import jointoken_pb2, spiffeid_pb2
from spiffe_core.bundle import PublicKey
from spiffe_core.csr import check_public_key, load_csr
from spiffe_core.entries import Entry, Selector, unique_selectors
from spiffe_core.errors import (
    DenialReason,
    Denied,
    FailedPrecondition,
    Internal,
    InvalidCsr,
    InvalidInput,
    InvalidSpiffeId,
    NotFound,
)
from spiffe_core.ids import SpiffeId, TrustDomain, server_id
from spiffe_core.runtime.clock import Clock, unix
from spiffe_core.runtime.lanes import Lanes
from spiffe_core.runtime.rpc import Send

MAX_TYPE: Final = 255
"""Longest name of a kind of attestation, in characters: anybody may send one, and it is logged and stored."""
MAX_VERSION: Final = 255
"""Longest agent version that is stored, in characters."""

log: Final = structlog.get_logger()

Steps = AsyncIterator[agent_pb2.AttestAgentRequest]


class AgentService:
    """``spire.api.server.agent.v1.Agent``."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        agents: Agents,
        join_tokens: JoinTokens,
        entries: Entries,
        attestors: Mapping[str, NodeAttestor],
        signer: Signer,
        database: Lanes,
        clock: Clock,
        agent_id_as_selector: bool = False,
    ) -> None:
        self._trust_domain = trust_domain
        self._agents = agents
        self._join_tokens = join_tokens
        self._entries = entries
        self._attestors = attestors
        self._signer = signer
        self._database = database
        self._clock = clock
        self._id_as_selector = agent_id_as_selector

    # -- for agents ----------------------------------------------------------------------------------------

    async def AttestAgent(self, requests: Steps, call: Call, send: Send) -> None:
        """Examine a node's evidence and give its agent an SVID."""
        await call.rate_limit("attest agent")
        params = _attest_params(await anext(requests, None))
        kind = params.data.type
        call.facts.update(node_attestor_type=kind)
        attestor = self._attestors.get(kind)
        if attestor is None:
            raise FailedPrecondition(f'error getting node attestor: could not find node attestor type "{kind}"')
        public_key = _public_key(params.params.csr)
        CLIENT_ADDRESS.set(call.peer.host)

        async def challenge(content: bytes) -> bytes:
            await send(agent_pb2.AttestAgentResponse(challenge=content))
            return _challenge_response(await anext(requests, None))

        attested = await attestor.attest(params.data.payload, public_key, challenge)
        self._check_agent_id(attested.agent_id, kind)
        call.facts.update(agent_id=str(attested.agent_id))
        result = await self._admit(kind, attested, public_key)
        log.info(
            "Agent attestation request completed",
            agent_id=str(attested.agent_id),
            node_attestor_type=kind,
            address=call.peer.address,
        )
        await send(agent_pb2.AttestAgentResponse(result=result))

    async def RenewAgent(self, request: agent_pb2.RenewAgentRequest, call: Call) -> agent_pb2.RenewAgentResponse:
        """Give an agent that cannot attest again a new SVID; the old one holds until the new one is used."""
        await call.rate_limit("renew agent")
        agent = await self._agent(call.id)
        if agent.can_reattest:
            raise Denied("agent must reattest instead of renew", DenialReason.AGENT_MUST_REATTEST)
        if not request.HasField("params"):
            raise InvalidInput("params cannot be nil")
        public_key = _public_key(request.params.csr)
        svid = await self._signer.agent_svid(call.id, public_key, call.name)
        serial, not_after = str(svid.serial), unix(svid.not_after)
        await self._database.run(lambda: self._agents.set_new_serial(call.id, serial, not_after, beside=call.serial))
        log.info("Agent SVID renewed", agent_id=str(call.id), serial_num=serial)
        return agent_pb2.RenewAgentResponse(svid=x509_svid_to_pb(svid.spiffe_id, svid.chain, svid.not_after))

    async def PostStatus(self, request: agent_pb2.PostStatusRequest, call: Call) -> agent_pb2.PostStatusResponse:
        """Note an agent's version."""
        await call.rate_limit("post status")
        version = request.agent_version
        if len(version) > MAX_VERSION:
            raise InvalidInput(f"agent version is too long (max {MAX_VERSION} characters)")
        if version:
            call.facts.update(spiffe_id=str(call.id), agent_version=version)
            await self._database.run(lambda: self._agents.set_version(call.id, version))
        return agent_pb2.PostStatusResponse()

    # -- for administrators --------------------------------------------------------------------------------

    async def CountAgents(self, request: agent_pb2.CountAgentsRequest, call: Call) -> agent_pb2.CountAgentsResponse:
        """Count the agents that a filter chooses."""
        wanted = _filter(request.filter, call)
        count = await self._database.run(lambda: self._agents.count(wanted))
        return agent_pb2.CountAgentsResponse(count=count)

    async def ListAgents(self, request: agent_pb2.ListAgentsRequest, call: Call) -> agent_pb2.ListAgentsResponse:
        """List the agents that a filter chooses, in pages."""
        wanted = _filter(request.filter, call)
        mask = request.output_mask if request.HasField("output_mask") else None

        def work() -> agent_pb2.ListAgentsResponse:
            page = self._agents.list(wanted, page_size=request.page_size, page_token=request.page_token)
            return agent_pb2.ListAgentsResponse(
                agents=[agent_to_pb(agent, mask) for agent in page.items], next_page_token=page.next_token
            )

        return await self._database.run(work)

    async def GetAgent(self, request: agent_pb2.GetAgentRequest, call: Call) -> types_pb2.Agent:
        """Show one agent."""
        agent = await self._agent(self._named(request, call))
        return agent_to_pb(agent, request.output_mask if request.HasField("output_mask") else None)

    async def DeleteAgent(self, request: agent_pb2.DeleteAgentRequest, call: Call) -> empty_pb2.Empty:
        """Evict an agent: it must attest again."""
        named = self._named(request, call)
        await self._database.run(lambda: self._agents.delete(named))
        log.info("Agent deleted", agent_id=str(named))
        return empty_pb2.Empty()

    async def BanAgent(self, request: agent_pb2.BanAgentRequest, call: Call) -> empty_pb2.Empty:
        """Ban an agent: it may not even attest again."""
        named = self._named(request, call)
        await self._database.run(lambda: self._agents.ban(named))
        log.info("Agent banned", agent_id=str(named))
        return empty_pb2.Empty()

    async def CreateJoinToken(self, request: agent_pb2.CreateJoinTokenRequest, call: Call) -> jointoken_pb2.JoinToken:
        """Make a join token, and the alias entry of the ID that the agent is to have beside its own."""
        if request.ttl < 1:
            raise InvalidInput("ttl is required, you must provide one")
        call.facts.update(ttl=request.ttl)
        alias = None
        if request.HasField("agent_id"):
            try:
                alias = workload_id_from_pb(request.agent_id, self._trust_domain)
            except InvalidSpiffeId as exc:
                raise InvalidInput(f"invalid agent ID: {exc}") from exc
            call.facts.update(spiffe_id=str(alias))
        token = JoinToken(request.token or str(uuid4()), unix(self._clock.now()) + request.ttl)
        parent = join_token_agent_id(self._trust_domain, token.value)
        entry = None
        if alias is not None:
            entry = Entry(spiffe_id=alias, parent_id=parent, selectors=(Selector("spiffe_id", str(parent)),))
        await self._database.run(lambda: self._make_token(token, entry))
        return join_token_to_pb(token)

    # ------------------------------------------------------------------------------------------------------

    def _make_token(self, token: JoinToken, alias: Entry | None) -> None:
        """Store a token and the entry that goes with it; without that, there is no token either."""
        self._join_tokens.create(token)
        error = self._entries.create_batch([alias])[0].error if alias else None
        if error is not None:
            self._join_tokens.take(token.value)
            raise Internal(f"failed to create join token registration entry: {error}")

    async def _admit(
        self, kind: str, attested: Attested, public_key: PublicKey
    ) -> agent_pb2.AttestAgentResponse.Result:
        """Give an attested agent its SVID and write it down."""
        spiffe_id = attested.agent_id
        known = await self._database.run(lambda: self._agents.get(spiffe_id))
        if known and known.banned:
            raise Denied("failed to attest: agent is banned", DenialReason.AGENT_BANNED)
        selectors = attested.selectors
        if self._id_as_selector:
            selectors = (*selectors, Selector("spiffe_id", str(spiffe_id)))
        svid = await self._signer.agent_svid(spiffe_id, public_key, str(spiffe_id))
        agent = Agent(
            id=spiffe_id,
            attestation_type=kind,
            cert_serial=str(svid.serial),
            cert_not_after=unix(svid.not_after),
            can_reattest=attested.can_reattest,
            selectors=unique_selectors(selectors),
        )
        if known:  # its kind is what it first was, as in SPIRE
            agent = replace(agent, attestation_type=known.attestation_type, agent_version=known.agent_version)
        try:
            await self._database.run(lambda: self._agents.create_or_replace(agent))
        except Denied as exc:
            raise Denied(f"failed to attest: {exc}", exc.reason) from exc
        return agent_pb2.AttestAgentResponse.Result(
            svid=x509_svid_to_pb(spiffe_id, svid.chain, svid.not_after), reattestable=attested.can_reattest
        )

    def _check_agent_id(self, spiffe_id: SpiffeId, kind: str) -> None:
        if spiffe_id == server_id(self._trust_domain):
            raise Internal("agent ID cannot collide with the server ID")
        if not spiffe_id.member_of(self._trust_domain):
            raise Internal(f'agent ID "{spiffe_id}" is not a member of trust domain "{self._trust_domain}"')
        if not spiffe_id.path.startswith(f"/spire/agent/{kind}/"):
            log.warning("Node attestor gave an agent ID outside of its namespace", agent_id=str(spiffe_id))

    def _named(
        self,
        request: agent_pb2.GetAgentRequest | agent_pb2.DeleteAgentRequest | agent_pb2.BanAgentRequest,
        call: Call,
    ) -> SpiffeId:
        named: spiffeid_pb2.SPIFFEID | None = request.id if request.HasField("id") else None
        try:
            spiffe_id = agent_id_from_pb(named, self._trust_domain)
        except InvalidSpiffeId as exc:
            raise InvalidInput(f"invalid agent ID: {exc}") from exc
        call.facts.update(spiffe_id=str(spiffe_id))
        return spiffe_id

    async def _agent(self, spiffe_id: SpiffeId) -> Agent:
        agent = await self._database.run(lambda: self._agents.get(spiffe_id))
        if agent is None:
            raise NotFound("agent not found")
        return agent


def _attest_params(step: agent_pb2.AttestAgentRequest | None) -> agent_pb2.AttestAgentRequest.Params:
    if step is None:
        raise InvalidInput("failed to receive request from stream: it has ended")
    if not step.HasField("params"):
        raise InvalidInput("malformed param: missing params")
    params = step.params
    if not params.HasField("data"):
        raise InvalidInput("malformed param: missing attestation data")
    if not params.HasField("params"):
        raise InvalidInput("malformed param: missing X509-SVID parameters")
    if not params.params.csr:
        raise InvalidInput("malformed param: missing CSR")
    if not params.data.type:
        raise InvalidInput("malformed param: missing attestation data type")
    if len(params.data.type) > MAX_TYPE:
        raise InvalidInput(f"malformed param: attestation data type is longer than {MAX_TYPE} characters")
    if not params.data.payload:
        raise InvalidInput("malformed param: missing attestation data payload")
    return params


def _challenge_response(step: agent_pb2.AttestAgentRequest | None) -> bytes:
    if step is None or not step.HasField("challenge_response"):
        raise InvalidInput("failed to receive challenge response from agent")
    return step.challenge_response


def _public_key(csr: bytes) -> PublicKey:
    """The key of an agent's CSR, which must sign it (SPIRE does not check that)."""
    if not csr:
        raise InvalidCsr("missing CSR")
    try:
        return check_public_key(load_csr(csr).public_key())
    except InvalidCsr as exc:
        raise InvalidCsr(f"failed to parse CSR: {exc}") from exc


def _filter(pb: agent_pb2.ListAgentsRequest.Filter | agent_pb2.CountAgentsRequest.Filter, call: Call) -> AgentFilter:
    selectors = None
    if pb.HasField("by_selector_match"):
        match = pb.by_selector_match
        try:
            selectors = SetMatch(frozenset(selectors_from_pb(match.selectors)), Match(match.match))
        except (InvalidInput, ValueError) as exc:
            raise InvalidInput(f"failed to parse selectors: {exc}") from exc
    wanted = AgentFilter(
        attestation_type=pb.by_attestation_type,
        selectors=selectors,
        banned=pb.by_banned.value if pb.HasField("by_banned") else None,
        can_reattest=pb.by_can_reattest.value if pb.HasField("by_can_reattest") else None,
        expires_before=expires_before(pb.by_expires_before),
    )
    if wanted.attestation_type:
        call.facts.update(node_attestor_type=wanted.attestation_type)
    return wanted
