"""What an agent makes of its server's entries, SVIDs, bundles and taints: a real server, and a clock in hand."""

import asyncio
from dataclasses import replace
from importlib.metadata import version

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key

from agent.svid_fetcher import MAX_BATCH
from spiffe_core.bundle import Bundle, X509Authority
from spiffe_core.entries import Entry, Selector
from spiffe_core.errors import Unavailable
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.jwtsvid import verify_jwt_svid
from spiffe_core.x509svid import parse_chain, subject_key_id, verify_x509_svid
from tests.support.agent_core import WORKLOAD, agent_core, join_token
from tests.support.houses import until
from tests.support.pki import Realm
from tests.support.servers import HOUR, TD, serving

OTHER = Realm("other.org")


@pytest.fixture
async def served():
    async with serving('ca_ttl = "48h"\nratelimit { attestation = false signing = false }') as made:
        yield made


@pytest.fixture
async def core(served, tmp_path):
    token = await join_token(served)
    async with agent_core(served, tmp_path, f'join_token = "{token}"') as made:
        yield made


def identity(core):
    [one] = core.cache.state_of(WORKLOAD).identities
    return one


async def test_an_svid_is_of_the_entry_for_its_own_key_and_verifies(core):
    await core.entry("/web")
    await core.follow()
    svid = identity(core).svid
    chain = parse_chain(svid.chain)
    assert verify_x509_svid(chain, core.cache.own, core.clock.now()).id == SpiffeId(TD, "/web")
    assert load_der_private_key(svid.private_key, None).public_key() == chain[0].public_key()
    assert (svid.not_before, svid.not_after) == (chain[0].not_valid_before_utc, chain[0].not_valid_after_utc)


async def test_entries_come_change_and_go(core):
    one = await core.entry("/one")
    await core.entry("/two", "unix:uid:7")
    await core.follow()
    assert core.ids() == ["/one"]
    assert core.ids(frozenset({Selector("unix", "uid:7")})) == ["/two"]
    first = identity(core).svid
    core.served.datastore.entries.update_batch([(replace(one, dns_names=("web.example.org",)), None)])
    await core.served.refresh()
    await core.follow()
    assert identity(core).svid != first
    core.served.datastore.entries.delete_batch([one.id])
    await core.served.refresh()
    await core.follow()
    assert core.ids() == []


async def test_thousands_of_entries_are_followed_by_their_revisions(core):
    many = [unregistered(core, f"/many/{number}") for number in range(1100)]
    made = core.served.register(*many)
    await core.served.refresh()
    await core.working.sync.sync()
    assert len(core.cache) == 1100
    gone, changed = made[0], made[1]
    core.served.datastore.entries.delete_batch([gone.id])
    core.served.datastore.entries.update_batch([(replace(changed, hint="changed"), None)])
    await core.served.refresh()
    await core.working.sync.sync()
    assert len(core.cache) == 1099
    assert {key for key, entry in core.working.sync._entries.items() if entry.hint} == {changed.id}
    assert gone.id not in core.working.sync._entries


async def test_svids_are_fetched_in_batches(core):
    core.served.register(*(unregistered(core, f"/many/{number}") for number in range(MAX_BATCH + 1)))
    await core.served.refresh()
    await core.working.sync.sync()
    assert await core.working.fetcher.fetch(), "there is more"
    assert core.cache.svid_count == MAX_BATCH
    assert not await core.working.fetcher.fetch()
    assert core.cache.svid_count == MAX_BATCH + 1


async def test_an_entry_that_the_server_refuses_holds_up_no_other(core):
    gone = await core.entry("/gone")
    await core.entry("/web")
    await core.working.sync.sync()
    core.served.datastore.entries.delete_batch([gone.id])
    await core.served.refresh()
    await core.working.fetcher.fetch()
    assert core.ids() == ["/web"]
    assert core.cache.next_retry() is not None


async def test_svids_are_renewed_while_time_passes(core):
    await core.entry("/web", x509_svid_ttl=3600)
    await core.follow()
    serials = set()
    for _ in range(12):
        core.clock.advance(HOUR.total_seconds() / 4)
        await core.served.parts.svid.rotate_if_due()
        await core.working.svid.rotate_if_due()
        await core.follow()
        svid = identity(core).svid
        assert svid.not_after > core.clock.now() + HOUR / 4
        serials.add(parse_chain(svid.chain)[0].serial_number)
    assert 4 <= len(serials) <= 12


async def test_tokens_come_from_the_server_and_verify(core):
    entry = await core.entry("/web")
    await core.follow()
    token = await core.cache.jwt_svid(identity(core).entry, ["reports"])
    bundle = core.cache.own
    assert verify_jwt_svid(token.token, lambda _: bundle, ["reports"], core.clock.now()).id == entry.spiffe_id


async def test_a_token_for_an_entry_that_has_gone_is_unavailable(core):
    entry = await core.entry("/web")
    await core.follow()
    kept = identity(core).entry
    core.served.datastore.entries.delete_batch([entry.id])
    await core.served.refresh()
    with pytest.raises(Unavailable, match="entry not found or not authorized"):
        await core.cache.jwt_svid(kept, ["reports"])


async def test_federated_bundles_come_with_the_entries_that_want_them(core):
    other = Bundle(OTHER.trust_domain, (X509Authority(OTHER.root.der),))
    core.served.datastore.bundles.set(other)
    await core.entry("/web", federates_with=(OTHER.trust_domain,))
    await core.follow()
    state = core.cache.state_of(WORKLOAD)
    assert [one.trust_domain for one in state.federated] == [OTHER.trust_domain]
    assert state.bundle_of(OTHER.trust_domain).x509_authorities == other.x509_authorities
    assert state.bundle_of(TrustDomain("third.org")) is None


async def test_a_federated_bundle_that_the_server_has_lost_is_not_kept(core):
    core.served.datastore.bundles.set(Bundle(OTHER.trust_domain, (X509Authority(OTHER.root.der),)))
    entry = await core.entry("/web", federates_with=(OTHER.trust_domain,))
    await core.follow()
    core.served.datastore.entries.update_batch([(replace(entry, federates_with=()), None)])
    await core.served.refresh()
    await core.follow()
    assert core.cache.state_of(WORKLOAD).federated == ()


async def test_the_bundle_is_stored_when_it_changes(core):
    another = X509Authority(Realm().root.der)
    core.served.parts.trust.publish([another], [])
    assert another not in core.cache.own.x509_authorities
    await core.working.sync.sync()
    assert another in core.cache.own.x509_authorities
    assert core.state.state.bundle == tuple(one.der for one in core.cache.own.x509_authorities)


async def test_what_a_tainted_authority_has_signed_is_dropped_and_renewed_once(core):
    await core.entry("/web")
    await core.follow()
    first, own = identity(core).svid, core.working.svid.credentials.chain
    [authority] = core.cache.own.x509_authorities
    core.served.datastore.bundles.taint_x509(TD, subject_key_id(authority.certificate).hex())
    await core.served.refresh()
    await core.working.sync.sync()
    assert identity(core).svid is None, "nobody is given it any more"
    await core.follow()
    second = identity(core).svid
    assert second != first
    await core.working.svid.rotate_if_due()
    renewed = core.working.svid.credentials.chain
    assert renewed != own, "the agent's own SVID counts as well"
    await core.follow()
    await core.working.svid.rotate_if_due()
    assert identity(core).svid == second, "a taint is met once"
    assert core.working.svid.credentials.chain == renewed


async def test_an_svid_of_another_authority_is_not_touched_by_a_taint(core):
    await core.entry("/web")
    await core.follow()
    first = identity(core).svid
    another = Realm().root
    core.served.parts.trust.publish([X509Authority(another.der)], [])
    core.served.datastore.bundles.taint_x509(TD, subject_key_id(another.certificate).hex())
    await core.served.refresh()
    await core.follow()
    assert any(one.tainted for one in core.cache.own.x509_authorities)
    assert identity(core).svid == first


async def test_what_an_authority_has_signed_that_is_gone_is_dropped_though_its_taint_was_never_seen(core):
    await core.entry("/web")
    await core.follow()
    kept = identity(core).svid
    token = await core.cache.jwt_svid(identity(core).entry, ["reports"])
    real = core.cache.own
    other = replace(real, x509_authorities=(X509Authority(Realm().root.der),), jwt_authorities=())
    core.cache.update(own=other)
    core.working.sync._distrust(real, other)
    assert identity(core).svid is None
    await core.follow()
    assert identity(core).svid not in {None, kept}
    assert core.cache.own == real
    assert await core.cache.jwt_svid(identity(core).entry, ["reports"]) is not token


async def test_a_bundle_that_is_behind_is_asked_for_at_once(core):
    await core.entry("/web")
    await core.working.sync.sync()
    real = core.cache.own
    running = asyncio.ensure_future(core.working.sync.run())
    try:
        await until(lambda: bool(core.clock._sleepers))  # it has synchronised, and rests
        core.cache.update(own=replace(real, x509_authorities=(X509Authority(Realm().root.der),)))
        await core.working.fetcher.fetch()
        assert identity(core).svid is None, "nobody could verify it with this bundle"
        await until(lambda: core.cache.own == real)
        await core.working.fetcher.fetch()
        assert identity(core).svid is not None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_tokens_of_a_tainted_key_are_dropped(core):
    await core.entry("/web")
    await core.follow()
    entry = identity(core).entry
    token = await core.cache.jwt_svid(entry, ["reports"])
    core.served.datastore.bundles.taint_jwt(TD, token.key_id)
    await core.served.refresh()
    assert await core.cache.jwt_svid(entry, ["reports"]) is token
    await core.working.sync.sync()
    assert await core.cache.jwt_svid(entry, ["reports"]) is not token


async def test_the_server_is_told_the_agents_version_once(core):
    await core.working.sync.sync()
    known = core.served.datastore.agents.get(core.id)
    assert known.agent_version == version("steeple")


async def test_after_failures_the_pauses_grow_and_then_all_is_tried_again(core):
    await core.entry("/web")
    sync = core.working.sync
    await core.served.parts.endpoints.stop(0.0)
    pauses = []
    for _ in range(4):
        await sync.attempt()
        pauses.append(sync.pause())
    assert pauses == sorted(pauses)
    assert pauses[0] >= 4
    assert sync.last_sync is None


def unregistered(core, path):
    """An entry that the server does not know of yet."""
    return Entry(spiffe_id=SpiffeId(TD, path), parent_id=core.id, selectors=(Selector("unix", f"user:{path}"),))
