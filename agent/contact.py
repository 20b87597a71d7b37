"""The server, reached without a certificate: to attest, and to learn whether it answers at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from agent.client import ServerClient
from spiffe_core.bundle import Bundle
from spiffe_core.ids import TrustDomain, server_id
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.dial import Dialer

OPTIONS: Final = (("grpc.max_receive_message_length", 64 * 1024 * 1024),)
"""Channel arguments of every connection to the server: an answer may be a whole bundle, or 500 entries."""


class Contact:
    """Makes anonymous connections to the server of a trust domain."""

    def __init__(self, *, target: str, trust_domain: TrustDomain, clock: Clock) -> None:
        self._target = target
        self._trust_domain = trust_domain
        self._clock = clock

    @asynccontextmanager
    async def server(self, bundle: Bundle | None) -> AsyncIterator[ServerClient]:
        """The server that this bundle vouches for; without one, whatever says that it is the server."""
        dialer = Dialer(
            target=self._target,
            server_id=server_id(self._trust_domain),
            bundle=lambda: bundle,
            identity=lambda: None,
            clock=self._clock,
            insecure_bootstrap=bundle is None,
            options=OPTIONS,
        )
        try:
            yield ServerClient(dialer, self._trust_domain)
        finally:
            await dialer.close()
