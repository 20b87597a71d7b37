"""What plugins of a server may ask of it."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from server.plugin_services import PluginServices
from spiffe_core.agents import Agent
from spiffe_core.api.spire.hostservice.server.agentstore.v1 import agentstore_pb2
from spiffe_core.api.spire.hostservice.server.identityprovider.v1 import identityprovider_pb2
from spiffe_core.bundle import Bundle, JwtAuthority, X509Authority
from spiffe_core.errors import InvalidSpiffeId, NotFound, Unavailable
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.metrics import Metrics
from tests.support import pki

TD = TrustDomain("example.org")
KNOWN = SpiffeId.parse("spiffe://example.org/spire/agent/x/known")


def ask(services, name, request):
    [handler] = [one.handlers[name] for one in services.all if name in one.handlers]
    return handler(request)


def fetch(services):
    return ask(services, "FetchX509Identity", identityprovider_pb2.FetchX509IdentityRequest())


def info(services, agent_id):
    return ask(services, "GetAgentInfo", agentstore_pb2.GetAgentInfoRequest(agent_id=agent_id))


@pytest.fixture
def services():
    return PluginServices(Metrics("spire_server"))


def test_before_the_server_is_there_plugins_are_told_to_ask_later(services):
    for call in (lambda: fetch(services), lambda: info(services, str(KNOWN))):
        with pytest.raises(Unavailable, match="ask again later"):
            call()


def test_a_plugin_gets_the_servers_identity_and_bundle(services):
    realm = pki.Realm()
    identity = realm.server()
    authority = X509Authority(realm.bundle.x509_authorities[0].der, tainted=True)
    pkix = identity.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key = JwtAuthority("kid", pkix, expires_at=12)
    bundle = Bundle(TD, (authority,), (key,), sequence_number=7)
    services.answer_with(identity=lambda: identity, bundle=lambda: bundle, agent=lambda _: None)
    answer = fetch(services)
    assert len(answer.identity.cert_chain) == len(identity.chain)
    assert load_der_private_key(answer.identity.private_key, None).public_key() == identity.chain[0].public_key()
    assert (answer.bundle.trust_domain, answer.bundle.sequence_number) == ("example.org", 7)
    [told] = answer.bundle.jwt_authorities
    assert (told.key_id, told.public_key, told.expires_at) == ("kid", pkix, 12)
    assert [(one.asn1, one.tainted) for one in answer.bundle.x509_authorities] == [(authority.der, True)]


def test_a_plugin_is_told_whether_an_agent_is_known(services):
    agent = Agent(id=KNOWN, attestation_type="x", cert_serial="1", cert_not_after=1)
    services.answer_with(identity=lambda: None, bundle=lambda: Bundle(TD), agent={KNOWN: agent}.get)
    assert info(services, str(KNOWN)).info.agent_id == str(KNOWN)
    with pytest.raises(NotFound, match="no such node"):
        info(services, "spiffe://example.org/spire/agent/x/other")
    with pytest.raises(InvalidSpiffeId):
        info(services, "known")
