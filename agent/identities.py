"""What the Workload API is told by the rest of the agent: which identities a workload has, and their SVIDs.

A workload is known by its selectors.  It has the identity of each entry whose selectors are among its own, and
sees the bundle of its own trust domain and of those with which its entries federate.  ``agent.cache`` keeps all
that; ``agent.workload_api`` asks for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, Self

from spiffe_core.bundle import Bundle
from spiffe_core.entries import Entry, Selector
from spiffe_core.ids import TrustDomain
from spiffe_core.jwtsvid import JwtSvid

Selectors = frozenset[Selector]
"""What was attested of a workload."""


@dataclass(frozen=True, slots=True)
class WorkloadSvid:
    """An X509-SVID of a workload, and its key, which this agent made for it."""

    chain: tuple[bytes, ...]
    """Certificates, DER, leaf first; the authority that ends the chain is not among them."""
    private_key: bytes = field(repr=False)
    """PKCS#8, DER."""
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Identity:
    """An entry that applies to a workload, and its SVID."""

    entry: Entry
    svid: WorkloadSvid | None
    """None in a state that was asked for without SVIDs, or if it is not there yet; never in one that is followed."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class WorkloadState:
    """All that a workload may see at one moment."""

    identities: tuple[Identity, ...]
    """Sorted by entry ID; of several with one hint, the oldest."""
    own: Bundle
    """The bundle of the agent's trust domain."""
    federated: tuple[Bundle, ...]
    """Those of other trust domains with which one of the entries federates and that are known; sorted by name."""

    def bundle_of(self, trust_domain: TrustDomain) -> Bundle | None:
        """The bundle by which this workload verifies SVIDs of a trust domain, or None."""
        return next((b for b in (self.own, *self.federated) if b.trust_domain == trust_domain), None)


class Subscription(Protocol):
    """A workload's state, followed.  A context manager: leaving it ends the subscription."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    async def next(self) -> WorkloadState:
        """The state as soon as it is complete when first asked; from then on, the next one that is another.

        A state with SVIDs is complete when each identity has one: they are asked of the server if need be, and
        waited for as long as it is away.  An identity for which the server refuses one is left out, unless there is
        no other; so is, later, one that is new, until it has its first.
        """


class Identities(Protocol):
    """Answers for workloads.  Lives on one event loop."""

    def state_of(self, selectors: Selectors) -> WorkloadState:
        """The state of this moment; an SVID that is not there is None."""

    def subscribe(self, selectors: Selectors, *, svids: bool = True) -> Subscription:
        """Follow the state, with SVIDs or without."""

    async def jwt_svid(self, entry: Entry, audience: Sequence[str]) -> JwtSvid:
        """A JWT-SVID of an entry for exactly these audiences, from the cache or from the server.

        Raises:
            Unavailable: if there is none in the cache and the server does not give one, saying why.
        """
