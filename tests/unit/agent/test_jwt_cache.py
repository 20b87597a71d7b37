import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from agent.jwt_cache import ABREAST, DEFAULT_SIZE, PATIENCE, JwtSvids
from agent.rotation import Rotation
from spiffe_core.errors import Denied, NotFound, Unavailable
from spiffe_core.ids import SpiffeId
from tests.support.agent_values import HOUR, TD, entry, token, turns
from tests.support.clock import FakeClock

WEB = entry("web")
CALLING = replace(entry("calling"), jwt_svid_include_jti=True)


def half(low, high):
    return (low + high) / 2


class Server:
    """Gives tokens, slowly if a test wants, or what it is told to fail with."""

    def __init__(self, clock):
        self.clock = clock
        self.entries = {one.id: one for one in (WEB, CALLING)}
        self.asked = []
        self.failure = None
        self.failures = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, entry_id, audience, seconds):
        self.asked.append((entry_id, tuple(audience), seconds))
        mark = f"token {len(self.asked)}"
        await self.gate.wait()
        if self.failure is not None and self.failures:
            self.failures -= 1
            raise self.failure
        return token(mark, self.entries[entry_id], audience, self.clock.now())

    def fail(self, failure, times=1000):
        self.failure, self.failures = failure, times


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def server(clock):
    return Server(clock)


@pytest.fixture
async def cache(server, clock):
    made = JwtSvids(ask=server, size=3, rotation=Rotation(draw=half), clock=clock, hit_patience=7.0)
    yield made
    await made.close()


async def test_a_token_is_asked_for_once(cache, server):
    first = await cache.get(WEB, ["a", "b"])
    assert await cache.get(WEB, ["a", "b"]) is first
    assert await cache.get(WEB, ["b", "a"]) is first, "the order of audiences does not matter"
    assert server.asked == [("web", ("a", "b"), PATIENCE)]
    assert len(cache) == 1


async def test_other_audiences_get_another_token(cache, server):
    await cache.get(WEB, ["a"])
    await cache.get(WEB, ["a", "b"])
    assert len(server.asked) == 2


async def test_another_entry_with_the_same_id_gets_another_token(cache, server):
    twin = replace(WEB, id="twin")
    server.entries["twin"] = twin
    assert await cache.get(WEB, ["a"]) is not await cache.get(twin, ["a"])


async def test_a_token_is_renewed_half_way_through_its_life(cache, clock):
    first = await cache.get(WEB, ["a"])
    clock.advance(HOUR.total_seconds() / 2 - 1)
    assert await cache.get(WEB, ["a"]) is first
    clock.advance(1)
    assert await cache.get(WEB, ["a"]) is not first


async def test_a_token_with_an_id_of_its_own_is_never_kept(cache):
    assert await cache.get(CALLING, ["a"]) is not await cache.get(CALLING, ["a"])
    assert len(cache) == 0


async def test_a_stale_token_that_is_still_valid_is_given_while_the_server_is_away(cache, server, clock):
    first = await cache.get(WEB, ["a"])
    clock.advance(HOUR.total_seconds() - 1)
    server.fail(Unavailable("gone"))
    assert await cache.get(WEB, ["a"]) is first
    assert server.asked[-1][2] == 7.0, "the server has less time than for a first token"
    assert len(server.asked) == 2, "and is not asked again and again"


async def test_an_expired_token_is_not(cache, server, clock):
    await cache.get(WEB, ["a"])
    clock.advance(HOUR.total_seconds())
    server.fail(Denied("no"))
    with pytest.raises(Unavailable, match="failed to fetch JWT SVID: no"):
        await cache.get(WEB, ["a"])


async def test_a_token_that_expires_while_the_server_is_asked_is_not_given(cache, server, clock):
    await cache.get(WEB, ["a"])
    clock.advance(HOUR.total_seconds() - 1)
    server.fail(Unavailable("gone"))
    server.gate.clear()
    asking = asyncio.create_task(cache.get(WEB, ["a"]))
    await asyncio.sleep(0)
    clock.advance(1)
    server.gate.set()
    with pytest.raises(Unavailable, match="gone"):
        await asking


async def test_calls_for_one_token_share_one_call_to_the_server(cache, server):
    server.gate.clear()
    asking = [asyncio.create_task(cache.get(WEB, ["a"])) for _ in range(20)]
    await asyncio.sleep(0)
    server.gate.set()
    assert len(set(map(id, await asyncio.gather(*asking)))) == 1
    assert len(server.asked) == 1


async def test_who_hangs_up_takes_the_token_from_nobody(cache, server):
    server.gate.clear()
    impatient, patient = (asyncio.create_task(cache.get(WEB, ["a"])) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    server.gate.set()
    assert (await patient).token == "token 1"


async def test_a_shared_failure_is_everybodys(cache, server):
    server.fail(NotFound("entry not found or not authorized"))
    server.gate.clear()
    asking = [asyncio.create_task(cache.get(WEB, ["a"])) for _ in range(3)]
    await asyncio.sleep(0)
    server.gate.set()
    failures = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in failures] == [Unavailable] * 3
    assert "entry not found or not authorized" in str(failures[0])
    assert len(server.asked) == 1, "what is refused is refused"


async def test_a_server_that_is_away_is_asked_again_for_a_while(cache, server, clock):
    server.fail(Unavailable("gone"), times=2)
    asking = asyncio.create_task(cache.get(WEB, ["a"]))
    while not asking.done():
        await asyncio.sleep(0)
        clock.advance(0.1)
    assert (await asking).token == "token 3"


async def test_and_then_the_workload_is_told(cache, server, clock):
    server.fail(Unavailable("gone"))
    asking = asyncio.create_task(cache.get(WEB, ["a"]))
    while not asking.done():
        await asyncio.sleep(0)
        clock.advance(0.1)
    with pytest.raises(Unavailable, match="gone"):
        await asking
    assert clock.monotonic() < 10
    assert 3 <= len(server.asked) <= 10


async def test_there_is_a_hard_limit(cache, server):
    for audience in "abc":
        await cache.get(WEB, [audience])
    await cache.get(WEB, ["a"])
    await cache.get(WEB, ["d"])
    assert len(cache) == 3
    await cache.get(WEB, ["a"])
    assert len(server.asked) == 4, "a was asked for again after b"
    await cache.get(WEB, ["b"])
    assert len(server.asked) == 5


def test_without_a_limit_a_thousand_are_kept():
    assert JwtSvids(ask=None, size=0, rotation=Rotation(), clock=FakeClock())._size == DEFAULT_SIZE == 1000


async def test_tokens_of_an_authority_that_is_trusted_no_more_are_dropped(cache, server):
    await cache.get(WEB, ["a"])
    await cache.get(WEB, ["b"])
    assert cache.drop_untrusted({"kid of token 2"}) == 1
    await cache.get(WEB, ["b"])
    assert len(server.asked) == 2
    await cache.get(WEB, ["a"])
    assert len(server.asked) == 3


@pytest.mark.parametrize("of", [WEB, CALLING], ids=["kept", "with an ID of its own"])
async def test_a_token_of_another_id_is_for_another_workload(cache, server, of):
    # The server has a newer revision of the entry than the agent.
    server.entries[of.id] = replace(of, spiffe_id=SpiffeId(TD, "/renamed"))
    with pytest.raises(Unavailable, match=r'JWT-SVID is of "spiffe://example.org/renamed": the entry has changed'):
        await cache.get(of, ["a"])
    assert len(cache) == 0


async def test_a_token_that_is_there_outlives_a_change_of_the_entry_that_is_not_known_yet(cache, server, clock):
    first = await cache.get(WEB, ["a"])
    server.entries["web"] = replace(WEB, spiffe_id=SpiffeId(TD, "/renamed"))
    clock.advance(HOUR.total_seconds() * 0.6)
    assert await cache.get(WEB, ["a"]) is first


async def test_a_workload_that_wants_many_tokens_leaves_others_their_turn(cache, server):
    server.gate.clear()
    flood = [asyncio.create_task(cache.get(WEB, [f"{number}"])) for number in range(ABREAST * 2)]
    await turns()
    other = asyncio.create_task(cache.get(CALLING, ["a"]))
    await turns()
    assert [entry_id for entry_id, _, _ in server.asked] == ["web"] * ABREAST + ["calling"]
    server.gate.set()
    await asyncio.gather(*flood, other)
    assert len(server.asked) == ABREAST * 2 + 1


async def test_closing_ends_what_is_asked(cache, server):
    server.gate.clear()
    asking = asyncio.create_task(cache.get(WEB, ["a"]))
    await asyncio.sleep(0)
    await cache.close()
    with pytest.raises(asyncio.CancelledError):
        await asking


def test_a_life_of_seconds_is_a_life():
    svid = token("t", WEB, ["a"], life=timedelta(seconds=2))
    assert Rotation(draw=half).half_way(svid.issued_at, svid.expires_at) == svid.issued_at + timedelta(seconds=1)
