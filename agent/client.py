"""What an agent asks of its server: the RPCs, as values.

The messages stop here.  What the server says is held against what it can mean: an SVID must be for the key that
was sent, a workload's for the ID that its entry had when it was asked for, an agent's in its own trust domain, an
entry must be one.  A malformed entry is passed over with a
warning, since it must not keep the others from their workloads.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc
import structlog
from cryptography.x509 import (
    ExtensionNotFound,
    SubjectAlternativeName,
    UniformResourceIdentifier,
    load_der_x509_csr,
)

from agent.node_attestors.base import NodeAttestor
from spiffe_core.api.convert.bundles import bundle_from_pb
from spiffe_core.api.convert.entries import entry_from_pb
from spiffe_core.api.convert.status import status_from_pb
from spiffe_core.api.convert.svids import jwt_svid_from_pb, x509_svid_from_pb
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2 as bundle_api_pb2
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.api.spire.api.types import attestation_pb2, bundle_pb2
from spiffe_core.api.spire.api.types.entry_pb2 import Entry as EntryPb
from spiffe_core.api.spire.api.types.entry_pb2 import EntryMask
from spiffe_core.api.spire.api.types.x509svid_pb2 import X509SVID
from spiffe_core.bundle import Bundle
from spiffe_core.entries import Entry, EntryId
from spiffe_core.errors import Internal, InvalidInput, InvalidX509Svid, NotFound, SpiffeError, Unavailable
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.jwtsvid import JwtSvid
from spiffe_core.runtime.calls import Calls, Conversation, code_name, rpc_in
from spiffe_core.runtime.dial import Dialer
from spiffe_core.runtime.reach import UntrustedServer
from spiffe_core.x509svid import Chain, id_of

BUNDLES_AT_ONCE: Final = 10
"""Federated bundles that are asked for at the same time."""
ENTRY_FIELDS: Final = EntryMask(
    spiffe_id=True,
    selectors=True,
    federates_with=True,
    admin=True,
    downstream=True,
    revision_number=True,
    store_svid=True,
    hint=True,
    additional_attributes=True,
    created_at=True,
)
"""What an agent needs of an entry."""

_ATTEST: Final = rpc_in(agent_pb2.DESCRIPTOR, "AttestAgent")
_RENEW: Final = rpc_in(agent_pb2.DESCRIPTOR, "RenewAgent")
_POST_STATUS: Final = rpc_in(agent_pb2.DESCRIPTOR, "PostStatus")
_GET_BUNDLE: Final = rpc_in(bundle_api_pb2.DESCRIPTOR, "GetBundle")
_GET_FEDERATED: Final = rpc_in(bundle_api_pb2.DESCRIPTOR, "GetFederatedBundle")
_SYNC: Final = rpc_in(entry_pb2.DESCRIPTOR, "SyncAuthorizedEntries")
_BATCH_X509: Final = rpc_in(svid_pb2.DESCRIPTOR, "BatchNewX509SVID")
_NEW_JWT: Final = rpc_in(svid_pb2.DESCRIPTOR, "NewJWTSVID")

log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Admission:
    """A server's answer to an attestation."""

    chain: Chain
    reattestable: bool


@dataclass(frozen=True, slots=True)
class EntryChanges:
    """How the entries of an agent differ from those that it knew."""

    changed: Mapping[EntryId, Entry] = field(default_factory=dict)
    """New ones and new revisions."""
    removed: frozenset[EntryId] = frozenset()


class ServerClient:
    """The server of one trust domain, over whatever channel a dialler has at the moment."""

    def __init__(self, dialer: Dialer, trust_domain: TrustDomain) -> None:
        self._dialer = dialer
        self._calls = Calls(dialer.channel, failure=self._failure)
        self._trust_domain = trust_domain

    async def attest(self, attestor: NodeAttestor, csr: bytes) -> Admission:
        """Attest this node, for a certificate of the CSR's key.

        Raises:
            SpiffeError: if the server refuses, or is not there.
        """
        async with self._calls.conversation(_ATTEST, agent_pb2.AttestAgentResponse) as conversation:
            talk = _Attestation(conversation, csr)
            await attestor.attest(talk)
            await conversation.done()
        result = talk.result
        if result is None or not result.HasField("svid"):
            raise Internal("attest response is missing SVID")
        return Admission(self._agent_chain(result.svid, csr), result.reattestable)

    async def renew(self, csr: bytes) -> Chain:
        """A new SVID for this agent, for the CSR's key.

        Raises:
            SpiffeError: if the server refuses, or is not there.
        """
        params = agent_pb2.AgentX509SVIDParams(csr=csr)
        answer = await self._calls.unary(
            _RENEW, agent_pb2.RenewAgentRequest(params=params), agent_pb2.RenewAgentResponse
        )
        return self._agent_chain(answer.svid, csr)

    async def post_status(self, version: str) -> None:
        """Tell the server this agent's version.

        Raises:
            SpiffeError: if the server refuses, or is not there.
        """
        await self._calls.unary(
            _POST_STATUS, agent_pb2.PostStatusRequest(agent_version=version), agent_pb2.PostStatusResponse
        )

    async def bundle(self) -> Bundle:
        """The bundle of the trust domain, with its taints.

        Raises:
            SpiffeError: if it cannot be had.
        """
        answer = await self._calls.unary(_GET_BUNDLE, bundle_api_pb2.GetBundleRequest(), bundle_pb2.Bundle)
        bundle = bundle_from_pb(answer, keep_taint=True)
        if bundle.trust_domain != self._trust_domain:
            raise Internal(f'server gave the bundle of trust domain "{bundle.trust_domain}" as its own')
        if not bundle.x509_authorities:
            raise Internal("server gave a bundle without X.509 authorities, by which it could not be trusted itself")
        return bundle

    async def federated_bundles(self, trust_domains: Sequence[TrustDomain]) -> Mapping[TrustDomain, Bundle]:
        """The bundles of other trust domains, of which the server may have lost some.

        Raises:
            SpiffeError: if one of them cannot be had.
        """
        turn = asyncio.Semaphore(BUNDLES_AT_ONCE)

        async def one(trust_domain: TrustDomain) -> Bundle | None:
            async with turn:
                return await self._federated_bundle(trust_domain)

        found = await asyncio.gather(*map(one, trust_domains))
        return {bundle.trust_domain: bundle for bundle in found if bundle is not None}

    async def _federated_bundle(self, trust_domain: TrustDomain) -> Bundle | None:
        request = bundle_api_pb2.GetFederatedBundleRequest(trust_domain=trust_domain.name)
        try:
            bundle = bundle_from_pb(await self._calls.unary(_GET_FEDERATED, request, bundle_pb2.Bundle))
        except NotFound:
            return None
        except InvalidInput as exc:
            log.warning(
                "Received malformed bundle from SPIRE server; are the server and agent versions compatible?",
                trust_domain_id=str(trust_domain.id),
                error=str(exc),
            )
            return None
        return bundle if bundle.trust_domain == trust_domain else None

    async def sync_entries(self, known: Mapping[EntryId, Entry]) -> EntryChanges:
        """What has changed of the entries that this agent may have; only that is sent, if there are many.

        Raises:
            SpiffeError: if it cannot be had.
        """
        async with self._calls.conversation(_SYNC, entry_pb2.SyncAuthorizedEntriesResponse) as conversation:
            first = await conversation.ask(entry_pb2.SyncAuthorizedEntriesRequest(output_mask=ENTRY_FIELDS))
            if not first.entry_revisions:
                entries = self._entries(first.entries)
                return EntryChanges(
                    {key: entry for key, entry in entries.items() if known.get(key) != entry},
                    frozenset(known.keys() - {pb.id for pb in first.entries}),
                )
            revisions = {one.id: one for one in first.entry_revisions}
            page, more = len(first.entry_revisions), first.more
            while more:
                answer = await conversation.read()
                revisions.update((one.id, one) for one in answer.entry_revisions)
                more = answer.more
            stale = sorted(key for key, revision in revisions.items() if _is_stale(known.get(EntryId(key)), revision))
            changed: dict[EntryId, Entry] = {}
            for at in range(0, len(stale), page):
                answer = await conversation.ask(entry_pb2.SyncAuthorizedEntriesRequest(ids=stale[at : at + page]))
                changed |= self._entries(answer.entries)
                while answer.more:
                    answer = await conversation.read()
                    changed |= self._entries(answer.entries)
            await conversation.done()
        return EntryChanges(changed, frozenset(known.keys() - revisions.keys()))

    async def x509_svids(self, csrs: Mapping[EntryId, bytes]) -> Mapping[EntryId, Chain | str]:
        """X509-SVIDs for the keys of these CSRs, by entry; in the place of one that was refused, why.

        Raises:
            SpiffeError: if the server refuses all, or is not there.
        """
        params = [svid_pb2.NewX509SVIDParams(entry_id=key, csr=csr) for key, csr in csrs.items()]
        request = svid_pb2.BatchNewX509SVIDRequest(params=params)
        answer = await self._calls.unary(_BATCH_X509, request, svid_pb2.BatchNewX509SVIDResponse)
        if len(answer.results) != len(params):
            raise Internal(f"server answered {len(answer.results)} of {len(params)} X509-SVIDs")
        found: dict[EntryId, Chain | str] = {}
        for (key, csr), result in zip(csrs.items(), answer.results, strict=True):
            code, text = status_from_pb(result.status)
            if code is not grpc.StatusCode.OK:
                found[key] = f"{code_name(code)}: {text}"
                continue
            try:
                found[key] = _checked(x509_svid_from_pb(result.svid), csr)
            except InvalidInput as exc:
                found[key] = str(exc)
        return found

    async def jwt_svid(self, entry_id: EntryId, audience: Sequence[str], seconds: float) -> JwtSvid:
        """A JWT-SVID of an entry for these audiences.

        Raises:
            SpiffeError: if the server refuses, or does not answer in that many seconds.
        """
        request = svid_pb2.NewJWTSVIDRequest(entry_id=entry_id, audience=audience)
        answer = await self._calls.unary(_NEW_JWT, request, svid_pb2.NewJWTSVIDResponse, seconds=seconds)
        try:
            return jwt_svid_from_pb(answer.svid)
        except InvalidInput as exc:
            raise Internal(f"server gave a malformed JWT-SVID: {exc}") from exc

    def _failure(self, error: SpiffeError) -> SpiffeError:
        """Of a server that was not reached the dialler knows more, such as that the bundle does not vouch for it."""
        if not isinstance(error, Unavailable):
            return error
        text, reason = str(error), self._dialer.last_error
        if reason and reason not in text:
            text = f"{text}: {reason}"
        return UntrustedServer(text) if self._dialer.untrusted else Unavailable(text)

    def _agent_chain(self, pb: X509SVID, csr: bytes) -> Chain:
        try:
            chain = _checked(x509_svid_from_pb(pb), csr)
        except InvalidInput as exc:
            raise Internal(f"server gave a malformed agent SVID: {exc}") from exc
        holder: SpiffeId = id_of(chain[0])
        if not holder.member_of(self._trust_domain):
            raise Internal(f'server gave an agent SVID of "{holder}", outside of trust domain "{self._trust_domain}"')
        return chain

    def _entries(self, pbs: Sequence[EntryPb]) -> dict[EntryId, Entry]:
        found = {}
        for pb in pbs:
            try:
                if not pb.id:
                    raise InvalidInput("missing entry ID")  # noqa: TRY301  the same answer as for any other field
                entry = entry_from_pb(pb, self._trust_domain, ENTRY_FIELDS)
            except InvalidInput as exc:
                log.warning(
                    "Received malformed entry from SPIRE server; are the server and agent versions compatible?",
                    entry_id=pb.id,
                    error=str(exc),
                )
                continue
            found[entry.id] = entry
        return found


class _Attestation:
    """The conversation of an attestation, until the server has given a result."""

    def __init__(self, conversation: Conversation[agent_pb2.AttestAgentResponse], csr: bytes) -> None:
        self._conversation = conversation
        self._csr = csr
        self.result: agent_pb2.AttestAgentResponse.Result | None = None

    async def present(self, kind: str, payload: bytes) -> bytes | None:
        """Send the evidence and the CSR."""
        params = agent_pb2.AttestAgentRequest.Params(
            data=attestation_pb2.AttestationData(type=kind, payload=payload),
            params=agent_pb2.AgentX509SVIDParams(csr=self._csr),
        )
        return await self._ask(agent_pb2.AttestAgentRequest(params=params))

    async def answer(self, response: bytes) -> bytes | None:
        """Send the answer to a challenge."""
        return await self._ask(agent_pb2.AttestAgentRequest(challenge_response=response))

    async def _ask(self, request: agent_pb2.AttestAgentRequest) -> bytes | None:
        answer = await self._conversation.ask(request)
        if answer.HasField("challenge"):
            return answer.challenge
        self.result = answer.result
        return None


def _is_stale(entry: Entry | None, revision: entry_pb2.EntryRevision) -> bool:
    """Whether the entry must be asked for: it is new, has changed, or was deleted and made again under its ID."""
    return (
        entry is None
        or entry.revision_number != revision.revision_number
        or revision.created_at not in {0, entry.created_at}
    )


def _checked(chain: Chain, der: bytes) -> Chain:
    """The chain, if its leaf is for the CSR's key, and for its ID if it names one.

    The server goes by its own newest revision of an entry.  Workloads are still told apart by ours, so an SVID of
    another ID could be for another workload.
    """
    csr = load_der_x509_csr(der)
    if chain[0].public_key() != csr.public_key():
        raise InvalidX509Svid("X509-SVID is for another key than the one that was sent")
    found = id_of(chain[0])
    try:
        names = csr.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return chain
    if names.get_values_for_type(UniformResourceIdentifier) != [str(found)]:
        raise InvalidX509Svid(f'X509-SVID is of "{found}": the entry has changed since it was asked for')
    return chain
