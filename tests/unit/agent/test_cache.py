import asyncio
from dataclasses import replace

import pytest

from agent import groups
from agent.cache import IdentityCache
from agent.jwt_cache import JwtSvids
from agent.rotation import Rotation
from agent.workload_svids import WorkloadSvids
from spiffe_core.bundle import Bundle
from spiffe_core.entries import EntryId
from spiffe_core.ids import SpiffeId, TrustDomain
from tests.support.agent_values import OWN, TD, entry, selectors, svid, turns
from tests.support.clock import START, FakeClock

OTHER = TrustDomain("other.org")
THIRD = TrustDomain("third.org")
WEB = selectors("unix:user:web", "unix:uid:7")


@pytest.fixture
def cache():
    clock = FakeClock()
    return IdentityCache(
        own=OWN,
        svids=WorkloadSvids(room=2, rotation=Rotation()),
        jwt_svids=JwtSvids(ask=None, size=1, rotation=Rotation(), clock=clock),
    )


def put(cache, *entries):
    cache.update(changed=entries)


def hold(cache, *entries, mark="svid"):
    cache.hold([(one, svid(f"{mark} of {one.id}")) for one in entries], 0.0)


def seen(state):
    return [one.entry.id for one in state.identities]


async def ready(following):
    """The state if there is one to be had without waiting, else None."""
    waiting = asyncio.ensure_future(following.next())
    await turns()
    if waiting.done():
        return waiting.result()
    waiting.cancel()
    return None


def stale(cache):
    return [one.entry.id for one in cache.stale(now=START, monotonic=0.0)]


def test_a_workload_sees_its_identities_by_entry_id(cache):
    put(cache, entry("b", "unix:uid:7"), entry("a", "unix:user:web"), entry("c", "unix:user:other"))
    state = cache.state_of(WEB)
    assert seen(state) == ["a", "b"]
    assert [one.svid for one in state.identities] == [None, None]
    assert state.own == OWN


def test_it_sees_an_svid_that_is_there(cache):
    web = entry("web")
    put(cache, web)
    hold(cache, web)
    assert cache.state_of(WEB).identities[0].svid.chain == (b"svid of web",)


def test_the_state_is_computed_once_for_all_workloads_with_the_same_selectors(cache):
    put(cache, entry("web"))
    assert cache.state_of(WEB) is cache.state_of(selectors("unix:uid:7", "unix:user:web"))
    before = cache.state_of(WEB)
    put(cache, entry("other"))
    assert cache.state_of(WEB) is before, "an entry of others changes nothing"


def test_bundles_are_those_that_an_entry_federates_with_and_that_are_known(cache):
    put(cache, entry("web", federates_with=(THIRD, OTHER, TD)))
    cache.update(federated={OTHER: Bundle(OTHER), TrustDomain("unasked.org"): Bundle(TrustDomain("unasked.org"))})
    state = cache.state_of(WEB)
    assert state.federated == (Bundle(OTHER),)
    cache.update(federated={OTHER: Bundle(OTHER), THIRD: Bundle(THIRD)})
    assert cache.state_of(WEB).federated == (Bundle(OTHER), Bundle(THIRD))


def test_an_entry_whose_svid_is_for_a_store_is_nobodys(cache):
    put(cache, entry("web"))
    put(cache, entry("web", store_svid=True))
    assert seen(cache.state_of(WEB)) == []
    assert len(cache) == 0
    assert stale(cache) == []


async def test_a_follower_of_svids_waits_until_each_identity_has_one(cache):
    one, two = entry("one", "unix:uid:7"), entry("two", "unix:uid:7")
    put(cache, one, two)
    with cache.subscribe(WEB) as following:
        assert cache.wanted.is_set()
        assert await ready(following) is None
        hold(cache, one)
        assert await ready(following) is None
        hold(cache, two)
        assert seen(await ready(following)) == ["one", "two"]
        assert await ready(following) is None, "it is told what is another, and nothing twice"


async def test_an_identity_that_is_new_keeps_no_news_of_the_others_back(cache):
    one, two = entry("one", "unix:uid:7"), entry("two", "unix:uid:7")
    put(cache, one)
    hold(cache, one)
    with cache.subscribe(WEB) as following:
        assert seen(await ready(following)) == ["one"]
        put(cache, two)
        assert await ready(following) is None, "nothing is new of what there is"
        hold(cache, one, mark="renewed")
        [identity] = (await ready(following)).identities
        assert identity.svid.chain == (b"renewed of one",)
        cache.update(own=Bundle(TD, sequence_number=2))
        assert (await ready(following)).own.sequence_number == 2
        hold(cache, two)
        assert seen(await ready(following)) == ["one", "two"]


async def test_an_identity_that_is_lost_for_a_moment_is_waited_for(cache):
    one, two = entry("one", "unix:uid:7"), entry("two", "unix:uid:7")
    put(cache, one, two)
    hold(cache, one, two)
    with cache.subscribe(WEB) as following:
        assert seen(await ready(following)) == ["one", "two"]
        cache.drop_svids(lambda svid: svid.chain == (b"svid of two",))
        assert await ready(following) is None
        hold(cache, two, mark="new")
        assert seen(await ready(following)) == ["one", "two"]


async def test_an_identity_that_the_server_refuses_is_waited_for_by_nobody_who_has_another(cache):
    one, two, three = entry("one", "unix:uid:7"), entry("two", "unix:uid:7"), entry("three", "unix:uid:8")
    put(cache, one, two, three)
    with cache.subscribe(WEB) as following, cache.subscribe(selectors("unix:uid:8")) as alone:
        hold(cache, one)
        assert await ready(following) is None
        cache.refuse(two.id, 0.0)
        cache.refuse(three.id, 0.0)
        assert seen(await ready(following)) == ["one"]
        assert await ready(alone) is None, "it has an identity, and is not told that it has none"
        hold(cache, two, three)
        assert seen(await ready(following)) == ["one", "two"]
        assert seen(await ready(alone)) == ["three"]


async def test_a_follower_without_svids_waits_for_none(cache):
    put(cache, entry("web"))
    with cache.subscribe(WEB, svids=False) as following:
        state = await ready(following)
        assert seen(state) == ["web"]
        hold(cache, entry("web"))
        assert await ready(following) is None, "SVIDs are not its business"
        cache.update(own=Bundle(TD, sequence_number=2))
        assert (await ready(following)).own.sequence_number == 2


async def test_a_workload_without_identity_is_told_so_at_once(cache):
    with cache.subscribe(WEB) as following:
        assert seen(await ready(following)) == []


async def test_followers_are_told_of_what_concerns_them(cache):
    web = entry("web", revision_number=1)
    put(cache, web)
    hold(cache, web)
    with cache.subscribe(WEB) as following:
        await ready(following)
        hold(cache, web, mark="new")
        assert (await ready(following)).identities[0].svid.chain == (b"new of web",)
        put(cache, entry("web", revision_number=2, federates_with=(OTHER,)))
        assert (await ready(following)).identities[0].entry.revision_number == 2
        cache.update(federated={OTHER: Bundle(OTHER)})
        assert (await ready(following)).federated == (Bundle(OTHER),)
        cache.update(federated={OTHER: Bundle(OTHER)})
        assert await ready(following) is None
        cache.update(removed=[EntryId("web")])
        assert seen(await ready(following)) == []


async def test_what_is_said_again_is_no_news(cache):
    web = entry("web", revision_number=1)
    put(cache, web)
    hold(cache, web)
    with cache.subscribe(WEB) as following, cache.subscribe(WEB, svids=False) as bare:
        await ready(following)
        await ready(bare)
        put(cache, entry("web", revision_number=1))
        hold(cache, web)
        assert await ready(following) is None
        assert await ready(bare) is None


async def test_an_entry_whose_selectors_change_leaves_one_workload_for_another(cache):
    web = entry("web")
    put(cache, web)
    hold(cache, web)
    others = selectors("unix:user:other")
    with cache.subscribe(WEB) as left, cache.subscribe(others) as joined:
        assert seen(await ready(left)) == ["web"]
        assert seen(await ready(joined)) == []
        put(cache, entry("web", "unix:user:other"))
        assert seen(await ready(left)) == []
        assert seen(await ready(joined)) == ["web"]


async def test_all_followers_of_a_group_wake_at_one_change(cache):
    web = entry("web")
    put(cache, web)
    following = [cache.subscribe(WEB) for _ in range(500)]
    for one in following:
        one.__enter__()
    waiting = [asyncio.ensure_future(one.next()) for one in following]
    await turns()
    hold(cache, web)
    states = await asyncio.gather(*waiting)
    assert len(set(map(id, states))) == 1
    for one in following:
        one.__exit__()


async def test_who_is_followed_is_not_let_go_and_comes_first(cache):
    late = entry("late", "unix:uid:7")
    put(cache, *map(entry, "abc"), late)
    with cache.subscribe(WEB):
        assert stale(cache)[0] == "late"
        hold(cache, late)
        hold(cache, *map(entry, "abc"))
        assert cache.svid_count == 2
        assert cache.state_of(WEB).identities[0].svid is not None
    hold(cache, *map(entry, "bc"))
    assert cache.svid_count == 2
    assert cache.state_of(WEB).identities[0].svid is None, "nobody follows it any more"


async def test_dropped_svids_are_wanted_again_by_those_who_follow(cache):
    web = entry("web")
    put(cache, web)
    hold(cache, web)
    with cache.subscribe(WEB) as following:
        await ready(following)
        cache.wanted.clear()
        assert cache.drop_svids(lambda one: one.chain == (b"svid of web",)) == 1
        assert cache.wanted.is_set()
        assert await ready(following) is None, "better nothing than what is distrusted"
        assert stale(cache) == ["web"]
        hold(cache, web, mark="new")
        assert (await ready(following)).identities[0].svid.chain == (b"new of web",)


async def test_an_svid_of_an_older_revision_is_taken_and_renewed(cache):
    before, after = entry("web", revision_number=1), entry("web", revision_number=2)
    put(cache, before)
    put(cache, after)
    hold(cache, before)
    assert stale(cache) == ["web"]
    hold(cache, after)
    assert stale(cache) == []


async def test_an_svid_of_the_id_that_an_entry_had_is_not_given_under_the_one_that_it_has(cache):
    before = entry("web", revision_number=1)
    after = replace(before, spiffe_id=SpiffeId(TD, "/renamed"), revision_number=2)
    put(cache, before)
    hold(cache, before)
    with cache.subscribe(WEB) as following:
        assert seen(await ready(following)) == ["web"]
        put(cache, after)
        assert await ready(following) is None
        assert stale(cache) == ["web"]
        hold(cache, before, mark="late")
        assert await ready(following) is None
        hold(cache, after)
        [identity] = (await ready(following)).identities
        assert identity.entry.spiffe_id.path == "/renamed"


def test_an_svid_for_an_entry_that_has_gone_is_dropped(cache):
    hold(cache, entry("web"))
    assert cache.svid_count == 0


def test_groups_that_nobody_follows_are_forgotten_in_time(cache):
    put(cache, entry("web"))
    for number in range(groups.IDLE + 10):
        cache.state_of(selectors(f"unix:pid:{number}"))
    assert len(cache._groups.all()) == groups.IDLE
    assert len(cache._groups._with) == groups.IDLE


async def test_a_group_that_is_followed_is_not(cache):
    web = entry("web")
    put(cache, web)
    hold(cache, web)
    with cache.subscribe(WEB) as following:
        await ready(following)
        for number in range(groups.IDLE + 10):
            cache.state_of(selectors(f"unix:pid:{number}"))
        cache.update(removed=[EntryId("web")])
        assert seen(await ready(following)) == []


async def test_a_subscription_can_begin_long_after_it_was_made(cache):
    web = entry("web")
    put(cache, web)
    hold(cache, web)
    early, late = cache.subscribe(WEB), cache.subscribe(WEB)
    with early:
        await ready(early)
        for number in range(groups.IDLE + 10):
            cache.state_of(selectors(f"unix:pid:{number}"))
        with late:
            assert await ready(late) is cache.state_of(WEB)
        cache.update(removed=[EntryId("web")])
        assert seen(await ready(early)) == []
