"""Which authority of a bundle an SVID is signed by, as the certificates tell it; no signature is looked at.

The agent has its SVIDs from a server that it trusts.  What it asks is whether those who are given one could verify
it with the bundle that they are given beside it, and that costs so little that each SVID is asked for it.
"""

from collections.abc import Iterable
from contextlib import suppress

from cryptography import x509

from spiffe_core.bundle import X509Authority
from spiffe_core.errors import InvalidX509Svid
from spiffe_core.x509svid import Chain, authority_key_id, subject_key_id


class Signers:
    """The X.509 authorities of a bundle, by key and by name."""

    def __init__(self, authorities: Iterable[X509Authority]) -> None:
        self._by_key: dict[bytes, X509Authority] = {}
        self._by_name: dict[x509.Name, X509Authority] = {}
        for one in authorities:
            with suppress(InvalidX509Svid):  # one that cannot be read must not spoil the others
                self._by_key.setdefault(subject_key_id(one.certificate), one)
                self._by_name.setdefault(one.certificate.subject, one)

    def signer_of(self, chain: Chain) -> X509Authority | None:
        """The authority that has signed the last certificate of the chain, or None if it is none of these."""
        last = chain[-1]
        try:
            key_id = authority_key_id(last)
        except InvalidX509Svid:
            return None
        return self._by_key.get(key_id) if key_id else self._by_name.get(last.issuer)
