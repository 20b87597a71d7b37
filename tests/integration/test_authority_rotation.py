"""Three rotations in real time: a server with its keys in SoftHSM under a verifier that asks every second."""

import asyncio
from itertools import count

import pytest

from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.ids import TrustDomain
from spiffe_core.jwtsvid import parse_jwt_svid, verify_jwt_svid
from spiffe_core.runtime.clock import SystemClock
from spiffe_core.x509svid import authority_key_id, parse_chain, verify_x509_svid
from tests.support.server_processes import server_process
from tests.support.servers import csr, pb_id
from tests.support.troubles import WORKLOAD, troubled

pytest_plugins = ["tests.support.key_fixtures"]

TD = TrustDomain("example.org")
ROTATIONS = 3
MOST_SECONDS = 200


@pytest.mark.slow
@pytest.mark.softhsm
@pytest.mark.timeout(240)
@pytest.mark.conformance("F-2", "J-22")
async def test_every_second_of_three_rotations_what_is_signed_verifies_and_goes_on_verifying_until_it_ends(own_token):
    clock = SystemClock()
    alive = []
    x509_signers, jwt_signers = [], []
    settings = 'ca_ttl = "60s"\n default_x509_svid_ttl = "9s"\n default_jwt_svid_ttl = "9s"'
    with server_process(token=own_token, server=settings) as server:
        server.start()
        async with troubled(server) as trouble:
            for second in count():
                answer = await trouble.admin.call(svid_pb2, "MintX509SVID", csr=csr(WORKLOAD))
                chain = parse_chain(tuple(answer.svid.cert_chain))
                minted = await trouble.admin.call(svid_pb2, "MintJWTSVID", id=pb_id("/workload"), audience=["a"])
                token = minted.svid.token
                bundle, now = await trouble.bundle(), clock.now()
                alive = [one for one in alive if one[2] > now]
                alive += [(chain, "", chain[0].not_valid_after_utc), ((), token, parse_jwt_svid(token).expires_at)]
                for known, text, _ in alive:
                    if known:
                        verify_x509_svid(known, bundle, now)
                    else:
                        verify_jwt_svid(text, {TD: bundle}.get, ["a"], now)
                signer = authority_key_id(chain[0]).hex()
                _check_lifetime(chain[0], bundle)
                x509_signers += [signer] if signer not in x509_signers[-1:] else []
                kid = parse_jwt_svid(token).key_id
                jwt_signers += [kid] if kid not in jwt_signers[-1:] else []
                assert len(bundle.x509_authorities) <= second // 30 + 2
                if len(x509_signers) > ROTATIONS and len(jwt_signers) > ROTATIONS:
                    break
                assert second < MOST_SECONDS, (x509_signers, jwt_signers)
                if second % 10 == 0:
                    async with server.node():  # and the server's own SVID is of that bundle, too
                        pass
                await asyncio.sleep(1)
        assert server.end() == 0
    assert len(set(x509_signers)) == len(set(jwt_signers)) == ROTATIONS + 1


def _check_lifetime(leaf, bundle):
    """The leaf ends with its authority at the latest."""
    [issuer] = [one.certificate for one in bundle.x509_authorities if one.certificate.subject == leaf.issuer]
    assert leaf.not_valid_after_utc <= issuer.not_valid_after_utc
