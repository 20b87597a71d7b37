"""The bundles that this server knows: its own trust domain's and those of others, held in memory.

What vouches for a TLS client, and what agents are told, is looked up here; the registry's refresh brings in what
other servers changed.  The authority manager publishes through here, so a new authority is in this server's
bundle before it can sign.

Two threads change what is known: one publishes, one reads what others published.  Each reads the database and puts
down what it found in one go, so that neither puts an older bundle in the place of the other's newer one.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import structlog

from server.datastore.bundles import Bundles
from spiffe_core.bundle import Bundle, JwtAuthority, X509Authority
from spiffe_core.ids import TrustDomain

log: Final = structlog.get_logger()


class TrustStore:
    """Bundles by trust domain.  Reading never blocks; what writes or reloads may, and is called in a thread."""

    def __init__(self, trust_domain: TrustDomain, bundles: Bundles) -> None:
        self._trust_domain = trust_domain
        self._bundles = bundles
        self._own = bundles.own(trust_domain)
        self._known: Mapping[TrustDomain, Bundle] = {}
        self._unread: frozenset[TrustDomain] | None = None
        """Whose bundles changed and were not read since; None: it is not known whose."""
        self._lock = threading.Lock()

    @property
    def own(self) -> Bundle:
        """The bundle of our own trust domain; empty before the first authority was published."""
        return self._known.get(self._trust_domain) or Bundle(self._trust_domain)

    def bundle_of(self, trust_domain: TrustDomain) -> Bundle | None:
        """The bundle of a trust domain, or None."""
        return self._known.get(trust_domain)

    def reload(self, changed: Collection[TrustDomain] | None = None) -> None:
        """Read the named bundles again, or all, and those that could not be read when they were named.

        Raises:
            DatastoreUnavailable: if the database does not answer; what was known stays.
        """
        with self._lock:
            if changed is None:
                self._unread = None
            elif self._unread is not None:
                self._unread |= frozenset(changed)
            if self._unread is None:
                self._known = {bundle.trust_domain: bundle for bundle in self._bundles.list().items}
            elif self._unread:
                read = {name: self._bundles.get(name) for name in self._unread}
                kept = {name: bundle for name, bundle in self._known.items() if name not in read}
                self._known = {**kept, **{name: bundle for name, bundle in read.items() if bundle is not None}}
            self._unread = frozenset()

    def publish(self, x509_authorities: Sequence[X509Authority], jwt_authorities: Sequence[JwtAuthority]) -> Bundle:
        """Add authorities to our own bundle, durably, and know them from then on."""
        with self._lock:
            bundle = self._own.publish(x509_authorities, jwt_authorities)
            self._known = {**self._known, self._trust_domain: bundle}
            return bundle

    def catch_up(self) -> None:
        """Know from now on what other servers have published in our own bundle until now."""
        self.reload([self._trust_domain])

    def prune(self, before: int) -> bool:
        """Take out of our own bundle what expired before that Unix time; whether anything was."""
        pruned = self._own.prune(before)
        if pruned:
            self.reload([self._trust_domain])
        return pruned
