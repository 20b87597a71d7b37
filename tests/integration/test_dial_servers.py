"""Which server the dialler takes for the one it was sent to, and what callers are told of the others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
import pytest
from cryptography import x509

from spiffe_core.dns import SERVER_NAME
from spiffe_core.runtime.tls import TlsIdentity
from tests.support import pki
from tests.support.certificates import sans
from tests.support.houses import House, ask, dialer, nothing_left
from tests.support.loops import on_both_loops

OWN: Final = pki.Realm()
SERVER_ID: Final = str(OWN.id("/spire/server"))


@dataclass(frozen=True)
class Server:
    presents: Callable[[], TlsIdentity]
    error: str = ""
    """What the call fails with; empty if the server is the expected one."""
    error_at_bootstrap: str = ""
    """The same where the operator chose not to secure the first contact."""


UNKNOWN: Final = "x509svid: certificate does not chain to an X.509 authority of trust domain"
FOREIGN: Final = 'x509svid: "spiffe://partner.test/spire/server" is not of trust domain "example.org"'
NO_URI: Final = "x509svid: certificate has no URI SAN"

SERVERS: Final = {
    "the server": Server(OWN.server),
    "a server of SPIRE, without a DNS name": Server(lambda: OWN.server(dns_name=False)),
    "the server, through an intermediate": Server(lambda: OWN.with_intermediate().server()),
    "an agent of the same trust domain": Server(
        lambda: OWN.issue("/spire/agent/x"),
        f'x509svid: unexpected server ID "spiffe://example.org/spire/agent/x", not "{SERVER_ID}"',
        f'x509svid: unexpected server ID "spiffe://example.org/spire/agent/x", not "{SERVER_ID}"',
    ),
    "an ID that only begins like the server's": Server(
        lambda: OWN.issue("/spire/server/2"), "unexpected server ID", "unexpected server ID"
    ),
    "another trust domain's server": Server(
        pki.Realm("partner.test").server,
        FOREIGN,
        'unexpected server ID "spiffe://partner.test/spire/server"',
    ),
    "another trust domain's ID under our root": Server(
        lambda: OWN.issue(uri="spiffe://partner.test/spire/server"),
        FOREIGN,
        'unexpected server ID "spiffe://partner.test/spire/server"',
    ),
    "our server's ID under an unknown root": Server(pki.Realm().server, UNKNOWN),
    "a self-signed server": Server(lambda: pki.self_signed("/spire/server"), UNKNOWN),
    "the server with an expired SVID": Server(
        lambda: OWN.issue("/spire/server", validity=pki.EXPIRED), "x509svid: certificate has expired"
    ),
    "the server with an SVID of tomorrow": Server(
        lambda: OWN.issue("/spire/server", validity=pki.NOT_YET), "x509svid: certificate is not yet valid"
    ),
    "no URI": Server(lambda: OWN.issue(without=(x509.SubjectAlternativeName,)), NO_URI, NO_URI),
    "nothing but the server's DNS name": Server(
        lambda: OWN.issue(
            extensions=[(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), False)],
            without=(x509.SubjectAlternativeName,),
        ),
        NO_URI,
        NO_URI,
    ),
    "two URIs": Server(
        lambda: OWN.issue(extensions=[(sans(SERVER_ID, "spiffe://example.org/b"), False)]),
        "x509svid: certificate has more than one URI SAN",
        "x509svid: certificate has more than one URI SAN",
    ),
    "a CA with the server's ID": Server(
        lambda: pki.as_identity(pki.ca_of(OWN, "/spire/server", "digital_signature")),
        "x509svid: leaf certificate must not have CA flag set to true",
    ),
}


async def meet(server: Server, error: str, **how: Any) -> None:
    house = House(OWN)
    house.identity = server.presents()
    async with house.open(), nothing_left(house):
        dialling = dialer(house, OWN.issue("/friend"), **how)
        try:
            channel = await dialling.channel()
            if not error:
                assert await ask(channel) == "spiffe://example.org/friend"
                assert dialling.last_error is None
                assert dialling.presented is not None
                assert dialling.presented[0] == house.identity.chain[0]
                return
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(channel)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            details = refused.value.details() or ""
            assert details.startswith(f"cannot reach {SERVER_ID} at {house.target}: {house.target}: ")
            assert error in details
            assert dialling.last_error == details
            assert dialling.presented is None
            assert house.door.stats.bytes_in == 0, "something was said to a server that is not the one"
        finally:
            await dialling.close()


@pytest.mark.parametrize("name", SERVERS)
@on_both_loops
async def test_a_server_is_taken_or_refused_by_its_certificate(name):
    await meet(SERVERS[name], SERVERS[name].error)


@pytest.mark.parametrize("name", SERVERS)
@on_both_loops
async def test_an_insecure_first_contact_asks_for_nothing_but_the_id(name):
    await meet(SERVERS[name], SERVERS[name].error_at_bootstrap, insecure_bootstrap=True, bundle=lambda: None)


@on_both_loops
async def test_without_a_bundle_no_server_is_believed():
    await meet(
        SERVERS["the server"], 'x509svid: there is no bundle of trust domain "example.org" yet', bundle=lambda: None
    )
