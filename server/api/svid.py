"""The SVID service: X509-SVIDs and JWT-SVIDs for agents' workloads, and minted ones for administrators."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final, Protocol

from hsm_ca.authority_key import Kind
from hsm_ca.jwt_authority import IssuedJwtSvid, JwtSvidRequest
from hsm_ca.x509_authority import IssuedSvid, SvidRequest, X509Issuer
from server.audit import AuditLog
from server.caller import Call
from server.signing import Signer, Work
from spiffe_core.api.convert.ids import workload_id_from_pb
from spiffe_core.api.convert.status import status_to_pb
from spiffe_core.api.convert.svids import jwt_svid_to_pb, x509_svid_to_pb
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.api.spire.api.types import jwtsvid_pb2
from spiffe_core.csr import check_public_key, key_of_csr, load_csr, names_of, subject_of
from spiffe_core.dns import check_dns_names
from spiffe_core.entries import Entry, EntryId, check_workload_id
from spiffe_core.errors import (
    InvalidCsr,
    InvalidInput,
    InvalidSpiffeId,
    NotFound,
    SpiffeError,
    Unavailable,
    Unsupported,
)
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.rpc import code_of

MAX_BATCH: Final = 10_000
"""Most X509-SVIDs of one request where no rate limit says fewer: each takes memory, also if it is refused."""
_OK: Final = status_to_pb()
_NOT_AUTHORIZED: Final = "entry not found or not authorized"


class AuthorizedEntries(Protocol):
    """Which entries an agent is entitled to."""

    def entry_for(self, agent_id: SpiffeId, entry_id: EntryId) -> Entry | None:
        """The entry of that ID, if the agent is entitled to it."""

    async def catch_up(self) -> None:
        """Read what was changed elsewhere, if it can be read now."""


class SvidService:
    """``spire.api.server.svid.v1.SVID``."""

    def __init__(
        self, *, trust_domain: TrustDomain, entries: AuthorizedEntries, signer: Signer, audit: AuditLog
    ) -> None:
        self._trust_domain = trust_domain
        self._entries = entries
        self._signer = signer
        self._audit = audit

    async def MintX509SVID(self, request: svid_pb2.MintX509SVIDRequest, call: Call) -> svid_pb2.MintX509SVIDResponse:
        """Sign an X509-SVID for whatever workload ID the CSR names."""
        call.facts.update(csr=_digest(request.csr), ttl=request.ttl)
        csr = load_csr(request.csr)
        uris, dns_names = names_of(csr)
        spiffe_id = self._minted_id(uris)
        call.facts.update(spiffe_id=str(spiffe_id))
        try:
            check_dns_names(dns_names)
        except InvalidInput as exc:
            raise InvalidCsr(f"CSR DNS name is invalid: {exc}") from exc
        svid = await self._signer.x509_svid(
            SvidRequest(
                kind=Kind.WORKLOAD_X509_SVID,
                spiffe_id=spiffe_id,
                public_key=check_public_key(csr.public_key()),
                ttl=self._signer.x509_ttl(request.ttl),
                dns_names=dns_names,
                subject=subject_of(csr),
                caller=call.name,
            )
        )
        return svid_pb2.MintX509SVIDResponse(svid=x509_svid_to_pb(svid.spiffe_id, svid.chain, svid.not_after))

    async def MintJWTSVID(self, request: svid_pb2.MintJWTSVIDRequest, call: Call) -> svid_pb2.MintJWTSVIDResponse:
        """Sign a JWT-SVID for whatever workload ID the request names."""
        self._require_jwt()
        call.facts.update(audience=list(request.audience), ttl=request.ttl)
        try:
            spiffe_id = workload_id_from_pb(request.id if request.HasField("id") else None, self._trust_domain)
        except InvalidSpiffeId as exc:
            raise InvalidInput(f"invalid SPIFFE ID: {exc}") from exc
        call.facts.update(spiffe_id=str(spiffe_id))
        svid = await self._signer.jwt_svid(
            JwtSvidRequest(
                spiffe_id=spiffe_id,
                audience=tuple(request.audience),
                ttl=self._signer.jwt_ttl(request.ttl),
                caller=call.name,
            )
        )
        return svid_pb2.MintJWTSVIDResponse(svid=_jwt_to_pb(svid))

    async def BatchNewX509SVID(
        self, request: svid_pb2.BatchNewX509SVIDRequest, call: Call
    ) -> svid_pb2.BatchNewX509SVIDResponse:
        """Sign X509-SVIDs for entries that the calling agent is entitled to; each has its own outcome."""
        if not request.params:
            raise InvalidInput("missing parameters")
        await call.rate_limit("certificate signing", len(request.params))
        if len(request.params) > MAX_BATCH:
            raise InvalidInput(f"too many parameters: {MAX_BATCH} are the most at once")
        entries = await self._entries_for(call, [EntryId(params.entry_id) for params in request.params])
        works = [
            self._new_x509_svid(params, entry, call) for params, entry in zip(request.params, entries, strict=True)
        ]
        outcomes = await self._signer.batch(works)
        response = svid_pb2.BatchNewX509SVIDResponse()
        for params, outcome in zip(request.params, outcomes, strict=True):
            error = outcome if isinstance(outcome, SpiffeError) else None
            if isinstance(outcome, IssuedSvid):
                svid = x509_svid_to_pb(outcome.spiffe_id, outcome.chain, outcome.not_after)
                response.results.add(status=_OK, svid=svid)
            else:
                response.results.add(status=status_to_pb(code_of(outcome), str(outcome)))
            if self._audit.enabled:
                facts = {"registration_id": params.entry_id, "csr": _digest(params.csr)}
                self._audit.item(call, facts | _facts_of(outcome), error)
        return response

    async def NewJWTSVID(self, request: svid_pb2.NewJWTSVIDRequest, call: Call) -> svid_pb2.NewJWTSVIDResponse:
        """Sign a JWT-SVID for an entry that the calling agent is entitled to."""
        call.facts.update(registration_id=request.entry_id, audience=list(request.audience))
        await call.rate_limit("JWT signing request")
        self._require_jwt()
        [entry] = await self._entries_for(call, [EntryId(request.entry_id)])
        if entry is None:
            raise NotFound(_NOT_AUTHORIZED)
        svid = await self._signer.jwt_svid(
            JwtSvidRequest(
                spiffe_id=entry.spiffe_id,
                audience=tuple(request.audience),
                ttl=self._signer.jwt_ttl(entry.jwt_svid_ttl),
                include_jti=entry.jwt_svid_include_jti,
                entry_id=entry.id,
                caller=call.name,
            )
        )
        return svid_pb2.NewJWTSVIDResponse(svid=_jwt_to_pb(svid))

    async def MintWITSVID(self, _request: svid_pb2.MintWITSVIDRequest, _call: Call) -> svid_pb2.MintWITSVIDResponse:
        """WIT-SVIDs are not offered."""
        raise Unsupported("WIT functionality is disabled")

    async def BatchNewWITSVID(
        self, _request: svid_pb2.BatchNewWITSVIDRequest, _call: Call
    ) -> svid_pb2.BatchNewWITSVIDResponse:
        """WIT-SVIDs are not offered."""
        raise Unsupported("WIT functionality is disabled")

    async def _entries_for(self, call: Call, entry_ids: Sequence[EntryId]) -> list[Entry | None]:
        """The entries of those IDs, None for what the caller is not entitled to.

        A caller may have heard of an entry from another worker or server, which was first to read of it.
        """
        found = [self._entries.entry_for(call.id, entry_id) for entry_id in entry_ids]
        if None in found:
            await self._entries.catch_up()
            found = [self._entries.entry_for(call.id, entry_id) for entry_id in entry_ids]
        return found

    def _new_x509_svid(self, params: svid_pb2.NewX509SVIDParams, entry: Entry | None, call: Call) -> Work[IssuedSvid]:
        """One item of a batch; what can fail does so in a lane, where its outcome is caught."""

        def work(issuer: X509Issuer, now: datetime) -> IssuedSvid:
            if not params.entry_id:
                raise InvalidInput("missing entry ID")
            if not params.csr:
                raise InvalidInput("missing CSR")
            if entry is None:
                raise NotFound(_NOT_AUTHORIZED)
            request = SvidRequest(
                kind=Kind.WORKLOAD_X509_SVID,
                spiffe_id=entry.spiffe_id,
                public_key=key_of_csr(params.csr),
                ttl=self._signer.x509_ttl(entry.x509_svid_ttl),
                dns_names=entry.dns_names,
                entry_id=entry.id,
                caller=call.name,
            )
            try:
                return issuer.issue(request, now)
            except Unavailable as exc:
                raise Unavailable(f"failed to sign X509-SVID: {exc}") from exc

        return work

    def _minted_id(self, uris: list[str]) -> SpiffeId:
        if not uris:
            raise InvalidCsr("CSR URI SAN is required")
        if len(uris) > 1:
            raise InvalidCsr("only one URI SAN is expected")
        try:
            spiffe_id = SpiffeId.parse(uris[0])
            check_workload_id(spiffe_id, self._trust_domain)
        except InvalidSpiffeId as exc:
            raise InvalidCsr(f"CSR URI SAN is invalid: {exc}") from exc
        return spiffe_id

    def _require_jwt(self) -> None:
        if self._signer.jwt_svids_disabled:
            raise Unsupported("JWT functionality is disabled")


def _jwt_to_pb(svid: IssuedJwtSvid) -> jwtsvid_pb2.JWTSVID:
    return jwt_svid_to_pb(svid.spiffe_id, svid.token, svid.issued_at, svid.expires_at)


def _digest(content: bytes) -> str:
    """How the audit log names bytes: their SHA-256."""
    return sha256(content).hexdigest() if content else ""


def _facts_of(outcome: IssuedSvid | SpiffeError) -> dict[str, str]:
    if isinstance(outcome, SpiffeError):
        return {}
    return {"spiffe_id": str(outcome.spiffe_id), "serial_num": str(outcome.serial)}
