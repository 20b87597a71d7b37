"""X509-SVIDs and X.509 bundles, as workloads get them over the socket."""

import asyncio
from dataclasses import replace
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from grpc import StatusCode

from spiffe_core.api import workload_pb2
from spiffe_core.bundle import Bundle, X509Authority, split_certificates
from spiffe_core.ids import TrustDomain
from spiffe_core.x509svid import verify_x509_svid
from tests.support import pki
from tests.support.fake_identities import Domain, FakeIdentities
from tests.support.workloads import ME, calling, message, refused, serving

PARTNER: Final = Domain(pki.Realm("partner.test"))
FRIEND: Final = Domain(pki.Realm("friend.test"))


def federated() -> FakeIdentities:
    """An agent that knows two other trust domains."""
    identities = FakeIdentities()
    identities.federated = {one.trust_domain: one.bundle for one in (PARTNER, FRIEND)}
    return identities


def ids_of(response: workload_pb2.X509SVIDResponse) -> list[str]:
    """The IDs in a message, by their paths."""
    return [svid.spiffe_id.removeprefix("spiffe://example.org") for svid in response.svids]


async def is_silent(stream: Any) -> bool:
    """Whether no message comes, though there was time for one."""
    reading = asyncio.ensure_future(stream.read())
    done, _ = await asyncio.wait([reading], timeout=0.3)
    reading.cancel()
    return not done


@pytest.mark.conformance("W-2", "W-14", "W-15", "W-16", "W-17", "W-42")
async def test_an_x509_svid_comes_with_its_key_its_chain_and_its_bundle():
    identities = FakeIdentities(Domain(pki.Realm().with_intermediate().with_intermediate()))
    identities.add("/workload", ME, hint="internal")
    async with serving(identities) as served, calling(served.socket) as caller:
        raw = await caller.raw("/SpiffeWorkloadAPI/FetchX509SVID")
    response = workload_pb2.X509SVIDResponse.FromString(raw)
    [svid] = response.svids
    known = workload_pb2.X509SVIDResponse(
        svids=[
            workload_pb2.X509SVID(
                spiffe_id="spiffe://example.org/workload",
                x509_svid=svid.x509_svid,
                x509_svid_key=svid.x509_svid_key,
                bundle=identities.domain.realm.root.der,
                hint="internal",
            )
        ]
    )
    assert raw == known.SerializeToString()  # no federated bundle, no revocation list, no unknown field
    chain = tuple(map(x509.load_der_x509_certificate, split_certificates(svid.x509_svid)))
    assert len(chain) == 3
    authorities = tuple(map(X509Authority, split_certificates(svid.bundle)))
    verified = verify_x509_svid(chain, Bundle(TrustDomain("example.org"), authorities), pki.NOW)
    assert str(verified.id) == svid.spiffe_id
    key = load_der_private_key(svid.x509_svid_key, None)
    spki = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    assert key.public_key().public_bytes(*spki) == chain[0].public_key().public_bytes(*spki)
    info = x509.load_der_x509_certificate(chain[0].public_bytes(Encoding.DER))
    assert info == chain[0]
    assert svid.x509_svid_key.startswith(bytes.fromhex("3081")), "PKCS#8"
    assert bytes.fromhex("06072a8648ce3d0201") in svid.x509_svid_key[:20], "PKCS#8 names the algorithm, SEC 1 does not"


@pytest.mark.conformance("W-18", "F-11")
async def test_foreign_bundles_go_by_the_ids_of_their_trust_domains_and_the_own_is_not_among_them():
    identities = federated()
    names = (PARTNER.trust_domain, FRIEND.trust_domain, identities.domain.trust_domain, TrustDomain("unknown.test"))
    identities.add("/workload", ME, federates_with=names)
    identities.add("/other", "unix:uid:4000000000", federates_with=())
    async with serving(identities) as served, calling(served.socket) as caller:
        response = await caller.first("FetchX509SVID")
    assert dict(response.federated_bundles) == {
        "spiffe://partner.test": PARTNER.realm.root.der,
        "spiffe://friend.test": FRIEND.realm.root.der,
    }


@pytest.mark.conformance("W-6", "W-7", "W-8", "W-21")
async def test_each_message_of_a_stream_is_the_whole_state_and_comes_when_it_changes():
    identities = federated()
    one = identities.add("/one", ME)
    two = identities.add("/two", ME, federates_with=(PARTNER.trust_domain,))
    async with serving(identities) as served, calling(served.socket) as caller:
        stream = caller.stream("FetchX509SVID")
        first = await message(stream)
        assert ids_of(first) == ["/one", "/two"]
        assert list(first.federated_bundles) == ["spiffe://partner.test"]
        assert await is_silent(stream)

    async with serving(identities) as served, calling(served.socket) as caller:
        stream = caller.stream("FetchX509SVID")
        assert await message(stream) == first
        await identities.rotate(one)
        rotated = await message(stream)
        assert ids_of(rotated) == ["/one", "/two"]
        assert rotated.svids[0].x509_svid != first.svids[0].x509_svid
        assert rotated.svids[1] == first.svids[1]
        assert rotated.federated_bundles == first.federated_bundles

        root = pki.authority()
        identities.own = identities.own.with_authorities([X509Authority(root.der)])
        await identities.change()
        widened = await message(stream)
        assert [svid.bundle for svid in widened.svids] == [identities.domain.realm.root.der + root.der] * 2
        assert [svid.x509_svid for svid in widened.svids] == [svid.x509_svid for svid in rotated.svids]

        await identities.remove(two)
        narrowed = await message(stream)
        assert ids_of(narrowed) == ["/one"]
        assert not narrowed.federated_bundles


@pytest.mark.conformance("W-20")
@pytest.mark.parametrize("name", ["FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"])
async def test_a_stream_ends_when_its_caller_loses_the_last_identity(name):
    async with serving() as served, calling(served.socket) as caller:
        one, two = served.identities.add("/one", ME), served.identities.add("/two", ME)
        stream = caller.stream(name)
        await message(stream)
        await served.identities.remove(one)
        if name == "FetchX509SVID":
            assert ids_of(await message(stream)) == ["/two"]
        async with refused(StatusCode.PERMISSION_DENIED, "no identity issued"):
            await asyncio.gather(message(stream), served.identities.remove(two))
        assert not served.identities.subscriptions


@pytest.mark.conformance("F-32", "W-21")
async def test_the_end_of_a_federation_reaches_open_streams():
    identities = federated()
    names = (PARTNER.trust_domain, FRIEND.trust_domain)
    identities.add("/workload", ME, federates_with=names)
    async with serving(identities) as served, calling(served.socket) as caller:
        svids, x509_bundles, jwt_bundles = map(caller.stream, ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"))
        assert len((await message(svids)).federated_bundles) == 2
        assert len((await message(x509_bundles)).bundles) == len((await message(jwt_bundles)).bundles) == 3
        request = workload_pb2.ValidateJWTSVIDRequest(
            audience="reports", svid=PARTNER.token("spiffe://partner.test/peer", ["reports"])
        )
        assert (await caller.call("ValidateJWTSVID", request)).spiffe_id == "spiffe://partner.test/peer"
        del identities.federated[PARTNER.trust_domain]
        await identities.change()
        assert list((await message(svids)).federated_bundles) == ["spiffe://friend.test"]
        for stream in (x509_bundles, jwt_bundles):
            assert sorted((await message(stream)).bundles) == ["spiffe://example.org", "spiffe://friend.test"]
        async with refused(StatusCode.INVALID_ARGUMENT, 'no bundle found for trust domain "partner.test"'):
            await caller.call("ValidateJWTSVID", request)


async def test_a_foreign_bundle_without_authorities_is_left_out():
    identities = federated()
    identities.federated[PARTNER.trust_domain] = Bundle(PARTNER.trust_domain)
    identities.add("/workload", ME, federates_with=(PARTNER.trust_domain, FRIEND.trust_domain))
    async with serving(identities) as served, calling(served.socket) as caller:
        assert list((await caller.first("FetchX509SVID")).federated_bundles) == ["spiffe://friend.test"]
        for name in ("FetchX509Bundles", "FetchJWTBundles"):
            bundles = (await caller.first(name)).bundles
            assert sorted(bundles) == ["spiffe://example.org", "spiffe://friend.test"]


@pytest.mark.conformance("W-23", "W-2")
async def test_x509_bundles_are_the_own_one_and_those_of_federated_trust_domains():
    identities = federated()
    identities.add("/one", ME, federates_with=(PARTNER.trust_domain,))
    async with serving(identities) as served, calling(served.socket) as caller:
        raw = await caller.raw("/SpiffeWorkloadAPI/FetchX509Bundles")
    expected = {
        "spiffe://example.org": identities.domain.realm.root.der,
        "spiffe://partner.test": PARTNER.realm.root.der,
    }
    assert raw == workload_pb2.X509BundlesResponse(bundles=expected).SerializeToString(deterministic=True)


@pytest.mark.conformance("W-8")
@pytest.mark.parametrize("name", ["FetchX509Bundles", "FetchJWTBundles"])
async def test_a_stream_of_bundles_does_not_repeat_itself(name):
    async with serving() as served, calling(served.socket) as caller:
        identities = served.identities
        entry = identities.add("/workload", ME)
        stream = caller.stream(name)
        first = await message(stream)
        await identities.rotate(entry)
        await identities.change()
        identities.own = replace(identities.own, sequence_number=7)
        await identities.change()
        identities.federated = {PARTNER.trust_domain: PARTNER.bundle}
        identities.entries[0] = replace(entry, federates_with=(PARTNER.trust_domain,))
        await identities.change()
        second = await message(stream)
        assert sorted(second.bundles) == ["spiffe://example.org", "spiffe://partner.test"]
        assert second.bundles["spiffe://example.org"] == first.bundles["spiffe://example.org"]


async def test_a_stream_of_svids_repeats_itself_when_nothing_about_them_changed():
    async with serving() as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME)
        stream = caller.stream("FetchX509SVID")
        first = await message(stream)
        await served.identities.change()
        assert await message(stream) == first


@pytest.mark.parametrize("name", ["FetchX509Bundles", "FetchJWTBundles"])
async def test_only_the_own_bundle_is_for_everybody_where_everybody_may_verify(name):
    identities = federated()
    async with serving(identities, allow_unauthenticated_verifiers=True) as served, calling(served.socket) as caller:
        assert list((await caller.first(name)).bundles) == ["spiffe://example.org"]
        stream = caller.stream(name)
        await message(stream)
        entry = identities.add("/workload", ME, federates_with=(PARTNER.trust_domain,))
        await identities.change()
        assert len((await message(stream)).bundles) == 2
        await identities.remove(entry)
        assert list((await message(stream)).bundles) == ["spiffe://example.org"]
        for other in ("FetchX509SVID", "FetchJWTSVID"):
            async with refused(StatusCode.PERMISSION_DENIED, "no identity issued"):
                request = workload_pb2.JWTSVIDRequest(audience=["reports"]) if other == "FetchJWTSVID" else None
                await caller.first(other, request)


async def test_the_subscription_of_a_stream_ends_with_it():
    async with serving() as served:
        served.identities.add("/workload", ME)
        async with calling(served.socket) as caller:
            for name in ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"):
                await caller.first(name)
            await message(caller.stream("FetchX509SVID"))
        async with asyncio.timeout(10):
            while served.identities.subscriptions:  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0.01)


async def test_five_hundred_streams_are_open_at_once_and_all_hear_of_a_change():
    async with serving() as served, calling(served.socket) as caller:
        entry = served.identities.add("/workload", ME)
        streams = [caller.stream("FetchX509SVID") for _ in range(500)]
        first = await asyncio.gather(*map(message, streams))
        assert len(served.identities.subscriptions) == 500
        await served.identities.rotate(entry)
        second = await asyncio.gather(*map(message, streams))
        assert {one.SerializeToString() for one in first}.isdisjoint(one.SerializeToString() for one in second)
        assert len({one.SerializeToString() for one in second}) == 1
