"""Rate limits: a bucket for each client and group of calls, shared by the processes of a server."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from server.caller import Call, Role
from server.rate_limits import _SLOTS, ATTEST, POST_STATUS, SIGN_JWT, SIGN_X509, Limit, RateLimits, limits_of
from spiffe_core.api.services import methods_of, service_in
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.errors import Denied, Internal, ResourceExhausted
from spiffe_core.runtime.peers import Peer, PeerKind
from tests.support.clock import FakeClock

TEN = Limit("ten", 10)
HOST = "192.0.2.1"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def limits(clock):
    limits = RateLimits(monotonic=clock.monotonic)
    yield limits
    limits.close()


def test_a_full_bucket_is_had_at_once(limits):
    assert [limits.reserve(TEN, HOST, 5), limits.reserve(TEN, HOST, 5)] == [0, 0]


def test_what_an_empty_bucket_lacks_is_waited_for(limits):
    limits.reserve(TEN, HOST, 10)
    assert limits.reserve(TEN, HOST, 1) == pytest.approx(0.1)
    assert limits.reserve(TEN, HOST, 9) == pytest.approx(1.0)


def test_a_bucket_fills_with_time_and_not_beyond_its_size(limits, clock):
    limits.reserve(TEN, HOST, 10)
    clock.advance(0.5)
    assert limits.reserve(TEN, HOST, 5) == 0
    clock.advance(1000)
    assert limits.reserve(TEN, HOST, 10) == 0
    assert limits.reserve(TEN, HOST, 1) == pytest.approx(0.1)


def test_more_than_a_bucket_holds_is_refused_and_takes_nothing(limits):
    with pytest.raises(ResourceExhausted, match=r"^rate \(11\) exceeds burst size \(10\)$"):
        limits.reserve(TEN, HOST, 11)
    assert limits.reserve(TEN, HOST, 10) == 0


def test_a_wait_past_the_deadline_is_refused_and_takes_nothing(limits):
    limits.reserve(TEN, HOST, 10)
    with pytest.raises(ResourceExhausted, match=r"^rate limit: the wait would exceed the deadline of the call$"):
        limits.reserve(TEN, HOST, 5, deadline=0.4)
    assert limits.reserve(TEN, HOST, 5, deadline=0.6) == pytest.approx(0.5)


def test_clients_and_groups_have_buckets_of_their_own(limits):
    limits.reserve(TEN, HOST, 10)
    assert limits.reserve(TEN, "192.0.2.2", 10) == 0
    assert limits.reserve(Limit("other", 10), HOST, 10) == 0


def test_the_buckets_of_any_number_of_clients_take_the_same_memory(limits):
    size = os.fstat(limits.descriptor).st_size
    for number in range(2 * _SLOTS):
        limits.reserve(TEN, f"client-{number}", 10)
    assert os.fstat(limits.descriptor).st_size == size
    assert limits.reserve(TEN, "client-of-now", 10) == 0
    assert limits.reserve(TEN, "client-of-now", 1) > 0


RESERVE = """
import sys
from server.rate_limits import Limit, RateLimits
limits = RateLimits(int(sys.argv[1]), monotonic=lambda: 0.0)
for _ in range(int(sys.argv[2])):
    limits.reserve(Limit("ten", 10), "192.0.2.1", 1)
limits.close()
"""
HOLD = """
import fcntl, sys, time
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def process(script, descriptor, *args):
    return subprocess.Popen(
        [sys.executable, "-c", script, str(descriptor), *args],
        pass_fds=[descriptor],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_processes_share_the_buckets_and_none_takes_what_another_has(limits):
    workers = [process(RESERVE, limits.descriptor, "20000") for _ in range(3)]
    for worker in workers:
        worker.communicate()
        assert worker.returncode == 0
    assert limits.reserve(TEN, HOST, 1) == pytest.approx((3 * 20_000 + 1 - 10) / 10)


def test_a_process_that_is_killed_leaves_the_buckets_usable(limits):
    with process(HOLD, limits.descriptor) as worker:
        assert worker.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            fcntl.lockf(limits.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        assert limits.reserve(TEN, HOST, 1) == 0


def test_each_limited_call_takes_from_its_groups_bucket():
    agent, svid = "/spire.api.server.agent.v1.Agent/", "/spire.api.server.svid.v1.SVID/"
    assert limits_of(attestation=True, signing=True) == {
        agent + "AttestAgent": ATTEST,
        agent + "PostStatus": POST_STATUS,
        agent + "RenewAgent": SIGN_X509,
        svid + "BatchNewX509SVID": SIGN_X509,
        svid + "NewJWTSVID": SIGN_JWT,
    }
    assert [limit.per_second for limit in (ATTEST, POST_STATUS, SIGN_X509, SIGN_JWT)] == [1, 10, 500, 500]


def test_attestation_and_signing_may_be_unlimited():
    status = {"/spire.api.server.agent.v1.Agent/PostStatus": POST_STATUS}
    assert limits_of(attestation=False, signing=False) == status
    assert set(limits_of(attestation=True, signing=False).values()) == {POST_STATUS, ATTEST}


# -- calls -----------------------------------------------------------------------------------------------------


def call(limits, kind=PeerKind.TCP, address=f"{HOST}:1234", **more):
    [method] = [one for one in methods_of(service_in(agent_pb2.DESCRIPTOR)) if one.name == "AttestAgent"]
    peer = Peer(kind=kind, address=address, since=datetime.now(UTC))
    return Call(method, peer, Role.NOBODY, limits=limits, **more)


async def test_a_call_says_why_it_was_refused(limits):
    with pytest.raises(ResourceExhausted) as caught:
        await call(limits, limit=TEN).rate_limit("so many things", 11)
    assert str(caught.value) == (
        "rejecting request due to so many things rate limiting: rate (11) exceeds burst size (10)"
    )


async def test_connections_of_one_host_share_a_bucket(limits):
    await call(limits, limit=TEN).rate_limit("x", 10)
    with pytest.raises(ResourceExhausted):
        await call(limits, address=f"{HOST}:4321", limit=TEN, time_left=0.05).rate_limit("x")
    await call(limits, address="[2001:db8::1]:4321", limit=TEN, time_left=0.05).rate_limit("x")


async def test_a_call_waits_for_its_turn(limits):
    await call(limits, limit=TEN).rate_limit("x", 10)
    waiting = asyncio.ensure_future(call(limits, limit=TEN).rate_limit("x"))
    await asyncio.sleep(0)
    assert not waiting.done()
    await waiting


async def test_nobody_waits_longer_than_a_minute_even_without_a_deadline(limits):
    for _ in range(61):
        limits.reserve(TEN, HOST, 10)
    for time_left in (None, 1000.0):
        with pytest.raises(ResourceExhausted, match="the wait would exceed the deadline"):
            await call(limits, limit=TEN, time_left=time_left).rate_limit("x")


async def test_who_gives_up_waiting_takes_nothing_from_others(limits):
    await call(limits, limit=TEN).rate_limit("x", 10)
    waiting = [asyncio.ensure_future(call(limits, limit=TEN).rate_limit("x", 10)) for _ in range(5)]
    await asyncio.sleep(0)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert limits.reserve(TEN, HOST, 1) == pytest.approx(0.1)


async def test_who_has_waited_is_looked_at_again(limits):
    async def refuse():
        raise Denied("banned meanwhile")

    await call(limits, limit=TEN, recheck=refuse).rate_limit("x", 10)
    with pytest.raises(Denied, match=r"^banned meanwhile$"):
        await call(limits, limit=TEN, recheck=refuse).rate_limit("x")


async def test_local_calls_and_those_without_a_limit_never_wait(limits):
    for _ in range(3):
        await call(limits, PeerKind.UNIX, "@", limit=TEN, time_left=0).rate_limit("x", 10)
        await call(limits, time_left=0).rate_limit("x", 10)
    await call(limits, limit=TEN, time_left=0).rate_limit("x", 10)


def test_a_call_without_an_id_does_not_pretend_to_have_one(limits):
    with pytest.raises(Internal, match=r"^caller ID missing from request context$"):
        _ = call(limits).id
    assert call(limits).name == "nobody"
