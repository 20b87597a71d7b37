"""What external plugins of a server may ask of it: its identity and bundle, whether an agent is known, metrics.

Plugins are started before most of the server is there, the key manager's above all.  So each service says that it is
not ready until the server has said who answers.
"""

from collections.abc import Callable
from typing import Final

import structlog
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from spiffe_core.agents import Agent
from spiffe_core.api.services import service_in
from spiffe_core.api.spire.hostservice.server.agentstore.v1 import agentstore_pb2
from spiffe_core.api.spire.hostservice.server.identityprovider.v1 import identityprovider_pb2
from spiffe_core.api.spire.plugin.types import bundle_pb2, jwtkey_pb2, x509certificate_pb2
from spiffe_core.bundle import Bundle
from spiffe_core.errors import NotFound, Unavailable
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.plugin_host_metrics import PluginMetrics
from spiffe_core.runtime.plugin_host_services import HostService
from spiffe_core.runtime.tls import TlsIdentity

log: Final = structlog.get_logger()

_NOT_YET: Final = "the server is still starting; ask again later"


class PluginServices:
    """The host services of a server.  Thread-safe: plugins ask in threads of their own."""

    def __init__(self, metrics: Metrics) -> None:
        self._identity: Callable[[], TlsIdentity | None] = lambda: None
        self._bundle: Callable[[], Bundle] | None = None
        self._agent: Callable[[SpiffeId], Agent | None] | None = None
        self.all: Final = (
            HostService(service_in(identityprovider_pb2.DESCRIPTOR), {"FetchX509Identity": self._fetch_identity}),
            HostService(service_in(agentstore_pb2.DESCRIPTOR), {"GetAgentInfo": self._agent_info}),
            PluginMetrics(metrics).service(),
        )

    def answer_with(
        self,
        *,
        identity: Callable[[], TlsIdentity | None],
        bundle: Callable[[], Bundle],
        agent: Callable[[SpiffeId], Agent | None],
    ) -> None:
        """Say who answers from now on: the server's SVID, its bundle, and the register of agents, which may block."""
        self._identity, self._bundle, self._agent = identity, bundle, agent

    def _fetch_identity(
        self, _request: identityprovider_pb2.FetchX509IdentityRequest
    ) -> identityprovider_pb2.FetchX509IdentityResponse:
        identity = self._identity()
        if identity is None or self._bundle is None:
            raise Unavailable(_NOT_YET)
        return identityprovider_pb2.FetchX509IdentityResponse(
            identity=identityprovider_pb2.X509Identity(
                cert_chain=[one.public_bytes(Encoding.DER) for one in identity.chain],
                private_key=identity.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            ),
            bundle=_bundle_to_pb(self._bundle()),
        )

    def _agent_info(self, request: agentstore_pb2.GetAgentInfoRequest) -> agentstore_pb2.GetAgentInfoResponse:
        if self._agent is None:
            raise Unavailable(_NOT_YET)
        found = self._agent(SpiffeId.parse(request.agent_id))
        if found is None:
            raise NotFound("no such node")
        return agentstore_pb2.GetAgentInfoResponse(info=agentstore_pb2.AgentInfo(agent_id=str(found.id)))


def _bundle_to_pb(bundle: Bundle) -> bundle_pb2.Bundle:
    return bundle_pb2.Bundle(
        trust_domain=bundle.trust_domain.name,
        x509_authorities=[
            x509certificate_pb2.X509Certificate(asn1=one.der, tainted=one.tainted) for one in bundle.x509_authorities
        ],
        jwt_authorities=[
            jwtkey_pb2.JWTKey(
                public_key=one.public_key_der, key_id=one.id, expires_at=one.expires_at, tainted=one.tainted
            )
            for one in bundle.jwt_authorities
        ],
        refresh_hint=bundle.refresh_hint,
        sequence_number=bundle.sequence_number,
    )
