"""Which client certificates the TLS port accepts: as SPIRE's does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pytest
import structlog
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.admission import Refusal
from spiffe_core.runtime.tls import TlsIdentity
from tests.support import pki
from tests.support.certificates import sans
from tests.support.houses import House, is_let_in, nothing_left
from tests.support.loops import on_both_loops

OWN: Final = pki.Realm()
PARTNER: Final = pki.Realm("partner.test")
"""A trust domain of which one ID is in admin_ids."""
STRANGER: Final = pki.Realm("stranger.test")
"""A trust domain whose bundle the server has, and of which nobody is in admin_ids."""
ADMIN: Final = SpiffeId.parse("spiffe://partner.test/admin")
UNKNOWN_ADMIN: Final = SpiffeId.parse("spiffe://lost.test/admin")
"""In admin_ids, of a trust domain whose bundle the server lacks."""


def house() -> House:
    return House(
        OWN,
        {PARTNER.trust_domain: PARTNER.bundle, STRANGER.trust_domain: STRANGER.bundle},
        admin_ids=(ADMIN, UNKNOWN_ADMIN),
    )


@dataclass(frozen=True)
class Client:
    presents: Callable[[], TlsIdentity | None]
    reason: Refusal | None = None
    error: str = ""


CROSS_SIGNED: Final = pki.Realm(root=pki.authority(pki.authority(subject="Elder")))
"""Its bundle holds an authority that somebody else signed."""

CLIENTS: Final = {
    "no certificate": Client(lambda: None),
    "an agent's SVID": Client(lambda: OWN.issue("/spire/agent/join_token/1")),
    "a workload's SVID": Client(lambda: OWN.issue("/workload")),
    "an SVID through an intermediate": Client(lambda: OWN.with_intermediate().issue()),
    "an SVID through two intermediates": Client(lambda: OWN.with_intermediate().with_intermediate().issue()),
    "an admin of another trust domain": Client(lambda: PARTNER.issue("/admin")),
    "an expired SVID": Client(
        lambda: OWN.issue(validity=pki.EXPIRED), Refusal.SVID, "x509svid: certificate has expired"
    ),
    "an SVID of tomorrow": Client(
        lambda: OWN.issue(validity=pki.NOT_YET), Refusal.SVID, "x509svid: certificate is not yet valid"
    ),
    "a self-signed certificate": Client(
        pki.self_signed, Refusal.SVID, "x509svid: certificate is not vouched for: self-signed certificate"
    ),
    "an SVID of our ID under an unknown root": Client(
        lambda: pki.Realm().issue(),
        Refusal.SVID,
        "x509svid: certificate is not vouched for: unable to get local issuer",
    ),
    "an SVID of a trust domain without admins": Client(
        STRANGER.issue, Refusal.SVID, "x509svid: certificate is not vouched for: unable to get local issuer"
    ),
    "another ID of the admin's trust domain": Client(
        lambda: PARTNER.issue("/other"), Refusal.FOREIGN, 'unexpected trust domain in ID "spiffe://partner.test/other"'
    ),
    "a foreign ID under our root": Client(
        lambda: OWN.issue(uri="spiffe://stranger.test/workload"),
        Refusal.FOREIGN,
        'unexpected trust domain in ID "spiffe://stranger.test/workload"',
    ),
    "the admin's ID under our root": Client(
        lambda: OWN.issue(uri=str(ADMIN)),
        Refusal.SVID,
        'x509svid: certificate does not chain to an X.509 authority of trust domain "partner.test"',
    ),
    "our ID under the admin's root": Client(
        lambda: PARTNER.issue(uri="spiffe://example.org/workload"),
        Refusal.SVID,
        'x509svid: certificate does not chain to an X.509 authority of trust domain "example.org"',
    ),
    "an admin whose bundle is missing, under our root": Client(
        lambda: OWN.issue(uri=str(UNKNOWN_ADMIN)), Refusal.NO_BUNDLE, 'no bundle found for trust domain "lost.test"'
    ),
    "a certificate with two URIs": Client(
        lambda: OWN.issue(extensions=[(sans("spiffe://example.org/a", "spiffe://example.org/b"), False)]),
        Refusal.SVID,
        "x509svid: certificate has more than one URI SAN",
    ),
    "a certificate without a URI": Client(
        lambda: OWN.issue(without=(x509.SubjectAlternativeName,)),
        Refusal.SVID,
        "x509svid: certificate has no URI SAN",
    ),
    "a URI that is no SPIFFE ID": Client(
        lambda: OWN.issue(uri="https://example.org/workload"), Refusal.SVID, "x509svid: malformed URI SAN: "
    ),
    "the ID of the trust domain itself": Client(
        lambda: OWN.issue(uri="spiffe://example.org"), Refusal.SVID, "x509svid: leaf certificate's ID"
    ),
    "a CA as leaf": Client(
        lambda: pki.as_identity(pki.ca_of(OWN, "/workload")),
        Refusal.SVID,
        "x509svid: certificate is not vouched for: unsuitable certificate purpose",
    ),
    "a CA as leaf that may also sign messages": Client(
        lambda: pki.as_identity(pki.ca_of(OWN, "/workload", "digital_signature")),
        Refusal.SVID,
        "x509svid: leaf certificate must not have CA flag set to true",
    ),
    "the authority itself as leaf": Client(lambda: pki.as_identity(OWN.root), Refusal.SVID, "x509svid: "),
    "an SVID for servers only": Client(
        lambda: OWN.issue(extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)]),
        Refusal.SVID,
        "x509svid: certificate is not vouched for: unsuitable certificate purpose",
    ),
}


@pytest.mark.parametrize("name", CLIENTS)
@on_both_loops
async def test_a_client_is_let_in_or_refused_by_its_certificate(name):
    client = CLIENTS[name]
    async with house().open() as built, nothing_left(built):
        with structlog.testing.capture_logs() as logs:
            assert await is_let_in(built, client.presents()) == (client.reason is None)
        refusals = [(line["reason"], line["error"]) for line in logs if line["event"] == "Connection refused"]
        if client.reason is None:
            assert not refusals
            assert not built.door.stats.refused
            return
        [(reason, error)] = refusals
        assert reason == client.reason
        assert error.startswith(client.error)
        assert dict(built.door.stats.refused) == {client.reason: 1}


@on_both_loops
async def test_an_authority_that_is_not_self_signed_vouches_for_its_svids():
    async with House(CROSS_SIGNED).open() as built:
        assert await is_let_in(built, CROSS_SIGNED.issue())
        assert not await is_let_in(built, pki.Realm().issue())


@on_both_loops
async def test_without_a_bundle_of_its_own_the_server_admits_only_anonymous_clients():
    empty = house()
    empty.bundle_of = lambda _trust_domain: None
    async with empty.open() as built:
        assert await is_let_in(built, None)
        assert not await is_let_in(built, OWN.issue())


def test_the_trust_domain_of_the_table_is_the_servers():
    assert OWN.trust_domain == TrustDomain("example.org")
