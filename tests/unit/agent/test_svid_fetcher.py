import asyncio
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key

from agent.cache import IdentityCache
from agent.config import WorkloadKeyType
from agent.jwt_cache import JwtSvids
from agent.rotation import Rotation
from agent.svid_fetcher import MAX_BATCH, MAX_RSA_BATCH, SvidFetcher
from agent.workload_svids import REST, WorkloadSvids
from spiffe_core.errors import Unavailable
from spiffe_core.runtime.metrics import Metrics
from tests.support.agent_values import OWN, entry, selectors, turns
from tests.support.clock import FakeClock
from tests.support.houses import until
from tests.support.pki import Realm

REALM = Realm()
CHAIN = REALM.issue("/any").chain


class Server:
    """Gives every entry the same SVID, whatever the CSR, or fails."""

    def __init__(self):
        self.batches = []
        self.csrs = {}
        self.failures = 0
        self.refused = set()

    async def x509_svids(self, csrs):
        self.batches.append(len(csrs))
        self.csrs |= csrs
        if self.failures:
            self.failures -= 1
            raise Unavailable("too much")
        return {key: "NotFound: no" if key in self.refused else CHAIN for key in csrs}


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def cache(clock):
    return IdentityCache(
        own=replace(OWN, x509_authorities=REALM.bundle.x509_authorities),
        svids=WorkloadSvids(room=5000, rotation=Rotation()),
        jwt_svids=JwtSvids(ask=None, size=1, rotation=Rotation(), clock=clock),
    )


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def fetcher(clock, cache, server):
    return make(clock, cache, server)


def make(clock, cache, server, key_type=WorkloadKeyType.EC_P256):
    return SvidFetcher(
        client=server, cache=cache, key_type=key_type, rotation=Rotation(), clock=clock, metrics=Metrics("test")
    )


@pytest.fixture
def present(clock):
    """The SVIDs are valid now."""
    clock.advance((CHAIN[0].not_valid_before_utc - clock.now()).total_seconds())


async def test_nothing_is_asked_for_nothing(fetcher, server):
    assert not await fetcher.fetch()
    assert server.batches == []


async def test_a_batch_is_halved_when_the_server_fails_and_doubled_when_it_does_not(fetcher, cache, server, present):
    cache.update(changed=[entry(f"e{number}") for number in range(2000)])
    server.failures = 2
    for _ in range(2):
        with pytest.raises(Unavailable):
            await fetcher.fetch()
    for _ in range(4):
        await fetcher.fetch()
    assert server.batches == [MAX_BATCH, 250, 125, 250, 500, 500]


async def test_a_batch_never_becomes_nothing(fetcher, cache, server, present):
    cache.update(changed=[entry("one"), entry("two")])
    server.failures = 12
    for _ in range(12):
        with pytest.raises(Unavailable):
            await fetcher.fetch()
    await fetcher.fetch()
    assert server.batches[-1] == 1


@pytest.mark.parametrize(
    ("key_type", "kind", "size"),
    [
        (WorkloadKeyType.EC_P256, ec.EllipticCurvePublicKey, 256),
        (WorkloadKeyType.EC_P384, ec.EllipticCurvePublicKey, 384),
        (WorkloadKeyType.RSA_2048, rsa.RSAPublicKey, 2048),
    ],
)
async def test_keys_are_of_the_configured_type_and_each_entry_has_its_own(
    clock, cache, server, present, key_type, kind, size
):
    one, two = entry("one"), entry("two")
    cache.update(changed=[one, two])
    await make(clock, cache, server, key_type).fetch()
    keys = []
    for each in (one, two):
        csr = x509.load_der_x509_csr(server.csrs[each.id])
        assert csr.is_signature_valid
        assert isinstance(csr.public_key(), kind)
        assert csr.public_key().key_size == size
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [str(each.spiffe_id)]
        [identity] = cache.state_of(selectors(*map(str, each.selectors))).identities
        assert load_der_private_key(identity.svid.private_key, None).public_key() == csr.public_key()
        keys.append(identity.svid.private_key)
    assert keys[0] != keys[1]


async def test_rsa_keys_are_made_a_few_at_a_time(clock, cache, server):
    cache.update(changed=[entry(f"e{number}") for number in range(MAX_RSA_BATCH + 1)])
    server.failures = 1
    with pytest.raises(Unavailable):
        await make(clock, cache, server, WorkloadKeyType.RSA_2048).fetch()
    assert server.batches == [MAX_RSA_BATCH]


async def test_whoever_waits_is_served_at_once(fetcher, cache, server, present):
    running = asyncio.ensure_future(fetcher.run())
    try:
        await turns()
        cache.update(changed=[entry("web", disable_x509_svid_prefetch=True)])
        with cache.subscribe(selectors("unix:user:web")) as following:
            state = await following.next()
        assert [one.svid is not None for one in state.identities] == [True]
        assert server.batches == [1]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_svid_whose_authority_is_not_in_the_bundle_yet_waits_for_the_bundle(fetcher, cache, server, present):
    full, web = cache.own, entry("web")
    cache.update(changed=[web], own=replace(full, x509_authorities=Realm().bundle.x509_authorities))
    await fetcher.fetch()
    assert cache.svid_count == 0
    assert cache.behind.is_set()
    cache.update(own=full)
    await fetcher.fetch()
    assert cache.svid_count == 1
    assert server.batches == [1, 1]


async def test_a_clock_that_is_ahead_of_the_servers_does_not_storm_it(fetcher, cache, clock, server, present):
    clock.advance(86400.0)
    cache.update(changed=[entry("web")])
    running = asyncio.ensure_future(fetcher.run())
    try:
        with cache.subscribe(selectors("unix:user:web")) as following:
            await following.next()
            await turns(200)
            assert server.batches == [1]
            clock.advance(REST)
            await until(lambda: len(server.batches) == 2)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_many_who_wait_do_not_storm_a_server_that_is_away(fetcher, cache, clock, server, present):
    server.failures = 1000
    cache.update(changed=[entry("web")])
    running = asyncio.ensure_future(fetcher.run())
    try:
        await until(lambda: server.batches == [1])
        for _ in range(100):
            with cache.subscribe(selectors("unix:user:web")):
                await turns(2)
        assert server.batches == [1]
        clock.advance(0.6)
        await until(lambda: len(server.batches) == 2)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_server_that_comes_back_is_asked_soon(fetcher, cache, clock, server, present):
    server.refused = {"web"}
    cache.update(changed=[entry("web")])
    await fetcher.fetch()
    assert await fetcher.fetch() is False
    server.refused = set()
    cache.retry_refused()
    await fetcher.fetch()
    assert cache.svid_count == 1
