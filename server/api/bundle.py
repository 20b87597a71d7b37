"""The Bundle service: the trust domain's own bundle, and those of the trust domains it federates with."""

from collections.abc import Callable, Sized
from typing import Final, Protocol

from server.audit import AuditLog
from server.caller import Call, Role
from server.datastore.bundles import ALL_FIELDS, BundleField, Bundles, DeleteMode
from spiffe_core.api.convert.bundles import (
    bundle_fields,
    bundle_from_pb,
    bundle_to_pb,
    jwt_authority_from_pb,
    x509_authorities_from_pb,
)
from spiffe_core.api.convert.ids import trust_domain_from_pb
from spiffe_core.api.convert.status import status_to_pb
from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.api.spire.api.types import bundle_pb2 as types_pb2
from spiffe_core.api.spire.api.types import status_pb2
from spiffe_core.bundle import Bundle
from spiffe_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    SpiffeError,
    Unavailable,
)
from spiffe_core.ids import TrustDomain
from spiffe_core.runtime.lanes import Lanes
from spiffe_core.runtime.rpc import code_of

_MODES: Final = {
    bundle_pb2.BatchDeleteFederatedBundleRequest.RESTRICT: DeleteMode.RESTRICT,
    bundle_pb2.BatchDeleteFederatedBundleRequest.DELETE: DeleteMode.DELETE,
    bundle_pb2.BatchDeleteFederatedBundleRequest.DISSOCIATE: DeleteMode.DISSOCIATE,
}

_StoreRequest = (
    bundle_pb2.BatchCreateFederatedBundleRequest
    | bundle_pb2.BatchUpdateFederatedBundleRequest
    | bundle_pb2.BatchSetFederatedBundleRequest
)
_StoreResponse = (
    bundle_pb2.BatchCreateFederatedBundleResponse
    | bundle_pb2.BatchUpdateFederatedBundleResponse
    | bundle_pb2.BatchSetFederatedBundleResponse
)
_Store = Callable[[Bundle], Bundle]


class KnownBundles(Protocol):
    """The bundles as this server last saw them, a second old at most."""

    def bundle_of(self, trust_domain: TrustDomain) -> Bundle | None:
        """The bundle of a trust domain, or None if there is none."""


class BundleService:
    """``spire.api.server.bundle.v1.Bundle``."""

    def __init__(
        self, *, trust_domain: TrustDomain, known: KnownBundles, bundles: Bundles, database: Lanes, audit: AuditLog
    ) -> None:
        self._trust_domain = trust_domain
        self._known = known
        self._bundles = bundles
        self._database = database
        self._audit = audit

    async def CountBundles(
        self, _request: bundle_pb2.CountBundlesRequest, _call: Call
    ) -> bundle_pb2.CountBundlesResponse:
        """Count all bundles, the own one included, as SPIRE does."""
        return bundle_pb2.CountBundlesResponse(count=await self._database.run(self._bundles.count))

    async def GetBundle(self, request: bundle_pb2.GetBundleRequest, call: Call) -> types_pb2.Bundle:
        """The bundle of this trust domain, for anybody."""
        return bundle_to_pb(await self._bundle(self._trust_domain, call), _mask(request))

    async def AppendBundle(self, request: bundle_pb2.AppendBundleRequest, _call: Call) -> types_pb2.Bundle:
        """Add authorities to the bundle of this trust domain."""
        if not request.x509_authorities and not request.jwt_authorities:
            raise InvalidInput("no authorities to append")
        try:
            jwt_authorities = [jwt_authority_from_pb(pb) for pb in request.jwt_authorities]
        except InvalidInput as exc:
            raise InvalidInput(f"failed to convert JWT authority: {exc}") from exc
        try:
            x509_authorities = x509_authorities_from_pb(request.x509_authorities)
        except InvalidInput as exc:
            raise InvalidInput(f"failed to convert X.509 authority: {exc}") from exc
        bundle = await self._database.run(
            lambda: self._bundles.append(self._trust_domain, x509_authorities, jwt_authorities)
        )
        return bundle_to_pb(bundle, _mask(request))

    async def ListFederatedBundles(
        self, request: bundle_pb2.ListFederatedBundlesRequest, _call: Call
    ) -> bundle_pb2.ListFederatedBundlesResponse:
        """List the bundles of other trust domains, in pages."""
        page = await self._database.run(
            lambda: self._bundles.list(page_size=request.page_size, page_token=request.page_token)
        )
        mask = _mask(request)
        foreign = [bundle for bundle in page.items if bundle.trust_domain != self._trust_domain]
        return bundle_pb2.ListFederatedBundlesResponse(
            bundles=[bundle_to_pb(bundle, mask) for bundle in foreign], next_page_token=page.next_token
        )

    async def GetFederatedBundle(self, request: bundle_pb2.GetFederatedBundleRequest, call: Call) -> types_pb2.Bundle:
        """The bundle of another trust domain."""
        call.facts.update(trust_domain_id=request.trust_domain)
        trust_domain = self._foreign(
            request.trust_domain, "getting a federated bundle for the server's own trust domain is not allowed"
        )
        return bundle_to_pb(await self._bundle(trust_domain, call), _mask(request))

    async def BatchCreateFederatedBundle(
        self, request: bundle_pb2.BatchCreateFederatedBundleRequest, call: Call
    ) -> bundle_pb2.BatchCreateFederatedBundleResponse:
        """Store bundles that must be new."""
        response, words = bundle_pb2.BatchCreateFederatedBundleResponse(), ("creating", "unable to create bundle")
        await self._batch(
            request.bundle, lambda: self._store_each(request, response, call, words, self._bundles.create)
        )
        return response

    async def BatchUpdateFederatedBundle(
        self, request: bundle_pb2.BatchUpdateFederatedBundleRequest, call: Call
    ) -> bundle_pb2.BatchUpdateFederatedBundleResponse:
        """Change the parts of stored bundles that the input mask names."""
        fields = _fields_of(request.input_mask) if request.HasField("input_mask") else None
        response, words = bundle_pb2.BatchUpdateFederatedBundleResponse(), ("updating", "failed to update bundle")

        def update(bundle: Bundle) -> Bundle:
            return self._bundles.update(bundle, fields)

        await self._batch(request.bundle, lambda: self._store_each(request, response, call, words, update))
        return response

    async def BatchSetFederatedBundle(
        self, request: bundle_pb2.BatchSetFederatedBundleRequest, call: Call
    ) -> bundle_pb2.BatchSetFederatedBundleResponse:
        """Store bundles, whether or not there were others in their place."""
        response, words = bundle_pb2.BatchSetFederatedBundleResponse(), ("setting", "failed to set bundle")
        await self._batch(request.bundle, lambda: self._store_each(request, response, call, words, self._bundles.set))
        return response

    async def BatchDeleteFederatedBundle(
        self, request: bundle_pb2.BatchDeleteFederatedBundleRequest, call: Call
    ) -> bundle_pb2.BatchDeleteFederatedBundleResponse:
        """Delete bundles; the mode says what becomes of entries that federate with them."""
        mode = _MODES.get(request.mode)
        if mode is None:
            raise InvalidInput(f'failed to parse deletion mode: unhandled delete mode "{request.mode}"')
        response = bundle_pb2.BatchDeleteFederatedBundleResponse()
        await self._batch(request.trust_domains, lambda: self._delete_each(request, response, call, mode))
        return response

    async def _batch(self, items: Sized, work: Callable[[], None]) -> None:
        """Work on a batch in a lane, audit lines included: it may be large, and its caller may give up meanwhile."""
        await self._database.run(work, units=max(len(items), 1))

    def _delete_each(
        self,
        request: bundle_pb2.BatchDeleteFederatedBundleRequest,
        response: bundle_pb2.BatchDeleteFederatedBundleResponse,
        call: Call,
        mode: DeleteMode,
    ) -> None:
        for name in request.trust_domains:
            error: SpiffeError | None = None
            try:
                trust_domain = self._foreign(name, "removing the bundle for the server trust domain is not allowed")
                self._bundles.delete(trust_domain, mode)
            except NotFound:
                error = NotFound("bundle not found")
            except (FailedPrecondition, Unavailable) as exc:
                error = type(exc)(f"failed to delete federated bundle: {exc}")
            except SpiffeError as exc:
                error = exc
            response.results.add(status=_status(error), trust_domain=name)
            self._audit.item(call, {"trust_domain_id": name, "mode": mode.name}, error)

    def _store_each(
        self, request: _StoreRequest, response: _StoreResponse, call: Call, words: tuple[str, str], store: _Store
    ) -> None:
        """Store bundles of other trust domains one by one, and put into the response what became of each."""
        doing, failed = words
        mask = _mask(request)
        for pb in request.bundle:
            stored: Bundle | None = None
            error: SpiffeError | None = None
            try:
                self._foreign(
                    pb.trust_domain, f"{doing} a federated bundle for the server's own trust domain is not allowed"
                )
                stored = store(self._read(pb))
            except AlreadyExists:
                error = AlreadyExists("bundle already exists")
            except NotFound:
                error = NotFound("bundle not found")
            except Unavailable as exc:
                error = type(exc)(f"{failed}: {exc}")
            except SpiffeError as exc:
                error = exc
            result = response.results.add(status=_status(error))
            if stored is not None:
                result.bundle.CopyFrom(bundle_to_pb(stored, mask))
            self._audit.item(call, {"trust_domain_id": pb.trust_domain}, error)

    def _read(self, pb: types_pb2.Bundle) -> Bundle:
        try:
            return bundle_from_pb(pb)
        except InvalidInput as exc:
            raise InvalidInput(f"failed to convert bundle: {exc}") from exc

    async def _bundle(self, trust_domain: TrustDomain, call: Call) -> Bundle:
        """A bundle: for agents as it was last seen, since they ask all the time; for people as it is."""
        if call.role in {Role.AGENT, Role.NOBODY}:
            bundle = self._known.bundle_of(trust_domain)
        else:
            bundle = await self._database.run(lambda: self._bundles.get(trust_domain))
        if bundle is None:
            raise NotFound("bundle not found")
        return bundle

    def _foreign(self, name: str, refusal: str) -> TrustDomain:
        try:
            trust_domain = trust_domain_from_pb(name)
        except InvalidInput as exc:
            raise InvalidInput(f"trust domain argument is not valid: {exc}") from exc
        if trust_domain == self._trust_domain:
            raise InvalidInput(refusal)
        return trust_domain


def _mask(request: object) -> types_pb2.BundleMask | None:
    """The output mask of a request, or None if it has none."""
    return request.output_mask if request.HasField("output_mask") else None  # type: ignore[attr-defined]


def _fields_of(mask: types_pb2.BundleMask) -> tuple[BundleField, ...]:
    chosen = bundle_fields(mask)
    return tuple(name for name in ALL_FIELDS if name in chosen)


def _status(error: SpiffeError | None) -> status_pb2.Status:
    return status_to_pb() if error is None else status_to_pb(code_of(error), str(error))
