"""The server's own X509-SVID, which it presents on its TLS port.

Its key is made in this process's memory at each rotation and never stored, as in SPIRE; the authority that
signs it is another matter.  It carries one reserved DNS name, by which agents whose key is in hardware can
name the server (``spiffe_core.dns``).
"""

import asyncio
from datetime import datetime
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hsm_ca.authority_key import Kind
from hsm_ca.lifetimes import BACKDATE
from hsm_ca.x509_authority import SvidRequest
from keymanagers.base import KeyType, PrivateKey
from server.signing import Signer
from server.trust import TrustStore
from spiffe_core.dns import SERVER_NAME
from spiffe_core.ids import TrustDomain, server_id
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.tls import TlsIdentity
from spiffe_core.x509svid import Chain, has_issued, parse_chain

CHECK_EVERY: Final = 5.0
"""Seconds between two looks whether it is time to rotate."""

log: Final = structlog.get_logger()


class ServerSvid:
    """Keeps a valid server SVID."""

    def __init__(
        self, *, trust_domain: TrustDomain, key_type: KeyType, signer: Signer, trust: TrustStore, clock: Clock
    ) -> None:
        self._trust_domain = trust_domain
        self._key_type = key_type
        self._signer = signer
        self._trust = trust
        self._clock = clock
        self._identity: TlsIdentity | None = None
        self._made_at: datetime | None = None
        self._rotate_at: datetime | None = None

    def current(self) -> TlsIdentity | None:
        """What to present now; None before the first rotation."""
        return self._identity

    def full_chain(self) -> Chain:
        """The SVID's chain with the authority of the bundle that ends it; empty before the first rotation."""
        if self._identity is None:
            return ()
        chain = self._identity.chain
        anchors = (authority.certificate for authority in self._trust.own.x509_authorities)
        return (*chain, *[anchor for anchor in anchors if has_issued(anchor, chain[-1])][:1])

    async def rotate_if_due(self) -> None:
        """Make a new SVID if half of the present one's life is over, or if it begins in the future.

        The clock may have been ahead when it was made; nobody would accept it before its time.

        Raises:
            Unavailable: if it cannot be signed now; the present one stays.
        """
        now = self._clock.now()
        if self._made_at and self._rotate_at and self._made_at - BACKDATE <= now < self._rotate_at:
            return
        key = await asyncio.to_thread(_new_key, self._key_type)
        svid = await self._signer.x509_svid(
            SvidRequest(
                kind=Kind.SERVER_X509_SVID,
                spiffe_id=server_id(self._trust_domain),
                public_key=key.public_key(),
                ttl=self._signer.x509_ttl(),
                dns_names=(SERVER_NAME,),
            )
        )
        chain = parse_chain(svid.chain)
        self._identity = TlsIdentity(chain, key)
        self._made_at = now
        self._rotate_at = now + (svid.not_after - now) / 2
        log.debug("Server SVID rotated", spiffe_id=str(svid.spiffe_id), expiration=svid.not_after.isoformat())


def _new_key(key_type: KeyType) -> PrivateKey:
    if key_type is KeyType.EC_P256:
        return ec.generate_private_key(ec.SECP256R1())
    if key_type is KeyType.EC_P384:
        return ec.generate_private_key(ec.SECP384R1())
    return rsa.generate_private_key(65537, 2048 if key_type is KeyType.RSA_2048 else 4096)
