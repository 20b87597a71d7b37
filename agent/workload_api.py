"""The Workload API (SPIFFE_Workload_API.md): SVIDs and bundles for workloads, and validation of tokens.

Checks come in SPIRE's order: the security header (in ``agent.gate``), the fields of the request, the attestation
of the caller, the rate limit, and whether he is entitled.  A stream stays open as long as its caller is entitled
to something; each message is the whole state.  Streams of bundles leave out a message that would equal the one
before; streams of SVIDs do not.

A workload without an identity is told ``PermissionDenied``, also when it loses its last one while it listens; all
that passes by itself is ``Unavailable``.  Clients give up for good on ``InvalidArgument`` and ``Canceled``, so a
stream never ends with one of these.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import structlog

from agent.answers import Answers
from agent.gate import Call
from agent.identities import Identities, Selectors, WorkloadState
from agent.rate_limits import RateLimits
from agent.token_claims import claims_struct
from agent.workload_attestation import WorkloadAttestation
from spiffe_core.api import workload_pb2
from spiffe_core.entries import Entry, Selector
from spiffe_core.errors import (
    Denied,
    InvalidInput,
    InvalidJwtSvid,
    InvalidSpiffeId,
    SpiffeError,
    Unavailable,
    Unsupported,
)
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.jwtsvid import verify_jwt_svid
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.levels import Level
from spiffe_core.runtime.log import process_log
from spiffe_core.runtime.rpc import Send

MAX_AUDIENCE: Final = 32 * 1024
"""Longest audience of a JWT-SVID: a token with more in it would be longer than any that is read."""

log: Final = structlog.get_logger(subsystem_name="endpoints")


class WorkloadApi:
    """The service ``SpiffeWorkloadAPI``."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        identities: Identities,
        attestation: WorkloadAttestation,
        limits: RateLimits,
        clock: Clock,
        allow_unauthenticated_verifiers: bool = False,
        allowed_foreign_jwt_claims: Collection[str] = (),
        log_selectors: Collection[str] = (),
    ) -> None:
        self._trust_domain = trust_domain
        self._identities = identities
        self._attestation = attestation
        self._limits = limits
        self._clock = clock
        self._anybody_verifies = allow_unauthenticated_verifiers
        self._foreign_claims = frozenset(allowed_foreign_jwt_claims)
        self._loggable = tuple(log_selectors)
        self._answers = Answers()
        self._streams: set[asyncio.Task[object]] = set()
        self._closed = False

    async def FetchX509SVID(self, _request: object, call: Call, send: Send) -> None:
        """Send the caller's X509-SVIDs, and again whenever something about them changes."""
        with self._stream(call):
            selectors = await self._attest(call)
            with self._identities.subscribe(selectors) as states:
                while True:
                    state = await states.next()
                    if not state.identities:
                        self._refuse(call, selectors)
                    await send(self._answers.x509_svids(state))
                    self._log_x509_svids(call, state)

    async def FetchX509Bundles(self, _request: object, call: Call, send: Send) -> None:
        """Send the X.509 bundles by which the caller verifies others, and again whenever they change."""
        await self._send_bundles(call, send, self._answers.x509_bundles)

    async def FetchJWTBundles(self, _request: object, call: Call, send: Send) -> None:
        """Send the JWT bundles by which the caller verifies others, and again whenever they change."""
        await self._send_bundles(call, send, self._answers.jwt_bundles)

    async def FetchJWTSVID(self, request: workload_pb2.JWTSVIDRequest, call: Call) -> workload_pb2.JWTSVIDResponse:
        """A JWT-SVID of each of the caller's identities, or of the one that it names."""
        audience = tuple(filter(None, request.audience))
        if not audience:
            raise InvalidInput("audience must be specified")
        if sum(map(len, audience)) > MAX_AUDIENCE:
            raise InvalidInput(f"audience must not be longer than {MAX_AUDIENCE} characters altogether")
        wanted = _requested_id(request.spiffe_id)
        selectors = await self._attest(call)
        entries = [
            identity.entry
            for identity in self._identities.state_of(selectors).identities
            if wanted is None or identity.entry.spiffe_id == wanted
        ]
        if not entries:
            self._refuse(call, selectors)
        return workload_pb2.JWTSVIDResponse(svids=[await self._jwt_svid(call, entry, audience) for entry in entries])

    async def ValidateJWTSVID(
        self, request: workload_pb2.ValidateJWTSVIDRequest, call: Call
    ) -> workload_pb2.ValidateJWTSVIDResponse:
        """Verify a token with the bundle of its subject's trust domain, as far as the caller may see it."""
        if not request.audience:
            raise InvalidInput("audience must be specified")
        if not request.svid:
            raise InvalidInput("svid must be specified")
        selectors = await self._attest(call)
        state = self._identities.state_of(selectors)
        try:
            svid = verify_jwt_svid(request.svid, state.bundle_of, [request.audience], self._clock.now())
            claims = claims_struct(svid, self._trust_domain, self._foreign_claims)
        except InvalidJwtSvid:
            call.failure = "Failed to validate JWT"
            call.facts["audience"] = request.audience
            raise
        return workload_pb2.ValidateJWTSVIDResponse(spiffe_id=str(svid.id), claims=claims)

    async def FetchWITSVID(self, _request: object, _call: Call, _send: Send) -> None:
        """Refuse: workload identity tokens are an optional profile that is not served."""
        raise Unsupported("fetching WIT-SVIDs is not implemented")

    async def FetchWITBundles(self, _request: object, _call: Call, _send: Send) -> None:
        """Refuse: workload identity tokens are an optional profile that is not served."""
        raise Unsupported("fetching WIT bundles is not implemented")

    def close(self) -> None:
        """End all streams, which would not end by themselves; their clients see UNAVAILABLE and come back."""
        self._closed = True
        for stream in self._streams:
            stream.cancel()

    @contextmanager
    def _stream(self, call: Call) -> Iterator[None]:
        """Let ``close`` end the block's task."""
        task = asyncio.current_task()
        assert task is not None
        if self._closed:
            raise Unavailable("the agent is stopping")
        self._streams.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._closed:
                raise
            task.uncancel()
            call.failure = ""
            raise Unavailable("the agent is stopping") from None
        finally:
            self._streams.discard(task)

    async def _send_bundles(self, call: Call, send: Send, answer: Callable[[WorkloadState], bytes]) -> None:
        last = None
        with self._stream(call):
            selectors = await self._attest(call)
            with self._identities.subscribe(selectors, svids=False) as states:
                while True:
                    state = await states.next()
                    if not state.identities and not self._anybody_verifies:
                        self._refuse(call, selectors)
                    message = answer(state)
                    if message != last:
                        await send(message)
                        last = message

    async def _attest(self, call: Call) -> Selectors:
        try:
            selectors = await self._attestation.attest(call.process)
        except SpiffeError:
            call.failure = "Workload attestation failed"
            raise
        self._limits.take(call.method.path, selectors)
        return selectors

    async def _jwt_svid(self, call: Call, entry: Entry, audience: tuple[str, ...]) -> workload_pb2.JWTSVID:
        try:
            svid = await self._identities.jwt_svid(entry, audience)
        except SpiffeError as exc:
            call.failure = "Could not fetch JWT-SVID"
            call.facts.update(registered=True, spiffe_id=str(entry.spiffe_id))
            raise Unavailable(f"could not fetch JWT-SVID: {exc}") from exc
        if process_log.level.current >= Level.DEBUG:
            ttl = (svid.expires_at - self._clock.now()).total_seconds()
            log.debug("Fetched JWT SVID", **call.log_fields(), registered=True, spiffe_id=str(svid.id), ttl=ttl)
        return workload_pb2.JWTSVID(spiffe_id=str(entry.spiffe_id), svid=svid.token, hint=entry.hint)

    def _refuse(self, call: Call, selectors: Selectors) -> NoReturn:
        call.failure = "No identity issued"
        call.facts["registered"] = False
        if loggable := [str(one) for one in selectors if self._is_loggable(one)]:
            call.facts["selectors"] = ",".join(sorted(loggable))
        raise Denied("no identity issued")

    def _is_loggable(self, selector: Selector) -> bool:
        text = str(selector)
        return any(text == prefix or text.startswith(f"{prefix}:") for prefix in self._loggable)

    def _log_x509_svids(self, call: Call, state: WorkloadState) -> None:
        if process_log.level.current < Level.DEBUG:
            return
        fields = {**call.log_fields(), "registered": True, "count": len(state.identities)}
        for identity in state.identities:
            if identity.svid is not None:
                ttl = (identity.svid.not_after - self._clock.now()).total_seconds()
                log.debug("Fetched X.509 SVID", **fields, spiffe_id=str(identity.entry.spiffe_id), ttl=ttl)


def _requested_id(text: str) -> SpiffeId | None:
    try:
        return SpiffeId.parse(text) if text else None
    except InvalidSpiffeId as exc:
        raise InvalidInput(f"invalid requested SPIFFE ID: {exc}") from exc
