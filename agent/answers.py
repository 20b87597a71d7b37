"""The Workload API's messages about a state, serialized.

A state is made once and sent to many callers, so each message about it is serialized once and kept for as long as
the state itself.  Maps are written in the order of their keys: equal messages are equal bytes.

A foreign bundle without a single authority is left out, which says the same as an empty value (nobody of that trust
domain is trusted) and breaks no client.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from google.protobuf.message import Message

from agent.identities import WorkloadState
from spiffe_core.api import workload_pb2
from spiffe_core.bundle import Bundle
from spiffe_core.jwks import dump_jwks

Compose = Callable[[WorkloadState], Message]


@dataclass(slots=True)
class _Kept:
    state: "weakref.ref[WorkloadState]"
    messages: dict[Compose, bytes] = field(default_factory=dict, repr=False)


class Answers:
    """Messages about states."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}

    def x509_svids(self, state: WorkloadState) -> bytes:
        """``X509SVIDResponse``: all identities and what they verify others by."""
        return self._answer(state, compose_x509_svids)

    def x509_bundles(self, state: WorkloadState) -> bytes:
        """``X509BundlesResponse``; without an identity, only the own trust domain's bundle."""
        return self._answer(state, compose_x509_bundles)

    def jwt_bundles(self, state: WorkloadState) -> bytes:
        """``JWTBundlesResponse``; without an identity, only the own trust domain's bundle."""
        return self._answer(state, compose_jwt_bundles)

    def __len__(self) -> int:
        return len(self._kept)

    def _answer(self, state: WorkloadState, compose: Compose) -> bytes:
        kept = self._kept.get(id(state))
        if kept is None or kept.state() is not state:
            kept = self._kept[id(state)] = _Kept(weakref.ref(state, self._forget(id(state))))
        if compose not in kept.messages:
            kept.messages[compose] = compose(state).SerializeToString(deterministic=True)
        return kept.messages[compose]

    def _forget(self, number: int) -> Callable[["weakref.ref[WorkloadState]"], None]:
        def forget(ended: "weakref.ref[WorkloadState]") -> None:
            if number in self._kept and self._kept[number].state is ended:
                del self._kept[number]

        return forget


def compose_x509_svids(state: WorkloadState) -> workload_pb2.X509SVIDResponse:
    """The whole state: SVIDs in their order, the own bundle with each, and the foreign bundles."""
    own = _certificates(state.own)
    return workload_pb2.X509SVIDResponse(
        svids=[
            workload_pb2.X509SVID(
                spiffe_id=str(identity.entry.spiffe_id),
                x509_svid=b"".join(identity.svid.chain),
                x509_svid_key=identity.svid.private_key,
                bundle=own,
                hint=identity.entry.hint,
            )
            for identity in state.identities
            if identity.svid is not None
        ],
        federated_bundles={_id(bundle): _certificates(bundle) for bundle in state.federated if bundle.x509_authorities},
    )


def compose_x509_bundles(state: WorkloadState) -> workload_pb2.X509BundlesResponse:
    """Certificates of the trust domains that the workload may verify."""
    foreign = {_id(bundle): _certificates(bundle) for bundle in _foreign(state) if bundle.x509_authorities}
    return workload_pb2.X509BundlesResponse(bundles={**foreign, _id(state.own): _certificates(state.own)})


def compose_jwt_bundles(state: WorkloadState) -> workload_pb2.JWTBundlesResponse:
    """JWK Sets of the trust domains that the workload may verify, of JWT authorities only."""
    foreign = {_id(bundle): dump_jwks(bundle.jwt_authorities) for bundle in _foreign(state) if bundle.jwt_authorities}
    own = dump_jwks(state.own.jwt_authorities)
    return workload_pb2.JWTBundlesResponse(bundles={**foreign, _id(state.own): own})


def _foreign(state: WorkloadState) -> Iterable[Bundle]:
    return state.federated if state.identities else ()


def _id(bundle: Bundle) -> str:
    return f"spiffe://{bundle.trust_domain}"


def _certificates(bundle: Bundle) -> bytes:
    return b"".join(authority.der for authority in bundle.x509_authorities)
