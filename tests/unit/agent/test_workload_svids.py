from datetime import timedelta

import pytest

from agent.rotation import Rotation
from agent.workload_svids import DEFAULT_ROOM, REST, WorkloadSvids
from tests.support.agent_values import HOUR, entry, svid
from tests.support.clock import START


def half(low, high):
    return (low + high) / 2


class Table:
    """The table, the entries that it is asked about, and a clock."""

    def __init__(self, room=10):
        self.svids = WorkloadSvids(room=room, rotation=Rotation(draw=half))
        self.entries = {}
        self.now = START
        self.monotonic = 0.0

    def put(self, *entries):
        for one in entries:
            former = self.entries.get(one.id)
            self.entries[one.id] = one
            self.svids.expect(one, former)

    def pass_(self, time: timedelta):
        self.now += time
        self.monotonic += time.total_seconds()

    def stale(self, *followed):
        return [
            one.entry.id
            for one in self.svids.stale(
                {name: self.entries[name] for name in followed},
                self.entries.get,
                now=self.now,
                monotonic=self.monotonic,
            )
        ]

    def hold(self, *names, life=HOUR):
        for name in names:
            self.svids.hold(self.entries[name], svid(name, self.now, life), self.monotonic)


@pytest.fixture
def table():
    return Table()


def test_a_new_entry_is_fetched_beforehand(table):
    table.put(entry("a"), entry("b"))
    assert table.stale() == ["a", "b"]
    table.hold("a")
    assert table.stale() == ["b"]
    assert table.svids.get("a").chain == (b"a",)


def test_what_somebody_waits_for_comes_first(table):
    table.put(entry("a"), entry("b"), entry("c"))
    assert table.stale("c") == ["c", "a", "b"]


def test_an_svid_is_renewed_half_way_through_its_life(table):
    table.put(entry("a"))
    table.hold("a")
    table.pass_(HOUR / 2 - timedelta(seconds=1))
    assert table.stale() == []
    table.pass_(timedelta(seconds=1))
    [stale] = table.svids.stale({}, table.entries.get, now=table.now, monotonic=table.monotonic)
    assert stale.entry.id == "a"
    assert stale.expires_at == START + HOUR


def test_an_svid_whose_time_is_over_when_it_comes_is_not_asked_for_again_at_once(table):
    table.put(entry("a"))
    table.hold("a", life=-HOUR)
    assert table.stale() == []
    table.pass_(timedelta(seconds=REST - 1))
    assert table.stale() == []
    table.pass_(timedelta(seconds=1))
    assert table.stale() == ["a"]


@pytest.mark.parametrize("changed", [{"revision_number": 2}, {"revision_number": 1, "created_at": 9}])
def test_a_changed_entry_needs_a_new_svid_and_keeps_the_old_one_until_then(table, changed):
    table.put(entry("a", revision_number=1, created_at=5))
    table.hold("a")
    table.put(entry("a", **{"revision_number": 1, "created_at": 5} | changed))
    assert table.stale() == ["a"]
    assert table.svids.get("a") is not None
    table.hold("a")
    assert table.stale() == []


def test_the_same_revision_needs_none(table):
    table.put(entry("a", revision_number=1))
    table.hold("a")
    table.put(entry("a", revision_number=1))
    assert table.stale() == []


def test_what_is_not_to_be_prefetched_is_fetched_for_those_who_wait_only(table):
    table.put(entry("a", disable_x509_svid_prefetch=True))
    assert table.stale() == []
    assert table.stale("a") == ["a"]
    table.hold("a")
    table.pass_(HOUR)
    assert table.stale("a") == ["a"]
    assert table.stale() == []
    assert table.svids.get("a") is None, "nobody follows it, so it is not kept"


def test_there_is_room_for_so_many_beforehand():
    table = Table(room=2)
    table.put(*map(entry, "abcd"))
    assert table.stale() == ["a", "b"]
    table.hold("a")
    assert table.stale() == ["b"]
    table.hold("b")
    assert table.stale() == []
    assert table.stale("d") == ["d"], "whoever waits has no limit"


def test_without_a_limit_there_is_room_for_a_thousand():
    table = Table(room=0)
    table.put(*(entry(f"e{number}") for number in range(DEFAULT_ROOM + 1)))
    assert len(table.stale()) == DEFAULT_ROOM == 1000


def test_what_was_asked_for_longest_ago_goes_first():
    table = Table(room=2)
    table.put(*map(entry, "abc"))
    table.hold("a", "b", "c")
    table.svids.touch(["a"])
    assert table.svids.shrink(set(), table.entries.get) == ["b"]
    assert table.svids.get("b") is None
    assert table.svids.get("a") is not None


def test_what_somebody_follows_never_goes():
    table = Table(room=1)
    table.put(*map(entry, "abc"))
    table.hold("a", "b", "c")
    assert table.svids.shrink({"a", "b"}, table.entries.get) == ["c"]
    assert table.svids.shrink({"a", "b"}, table.entries.get) == []
    assert len(table.svids) == 2


def test_an_svid_that_went_is_fetched_again_when_there_is_room():
    table = Table(room=1)
    table.put(entry("a"), entry("b"))
    table.hold("a", "b")
    table.svids.shrink(set(), table.entries.get)
    assert table.stale() == []
    table.svids.forget("b")
    del table.entries["b"]
    assert table.stale() == ["a"]


def test_what_the_server_refuses_is_tried_again_after_growing_pauses(table):
    table.put(entry("a"), entry("b"))
    pauses = []
    for _ in range(4):
        table.svids.refuse("a", table.monotonic)
        assert table.stale("a") == ["b"], "it holds up no other"
        pauses.append(table.svids.next_retry() - table.monotonic)
        table.pass_(timedelta(seconds=pauses[-1] + 0.001))
        assert "a" in table.stale("a")
    assert pauses == sorted(pauses)
    assert pauses[-1] > 3
    table.svids.refuse("a", table.monotonic)
    table.svids.retry()
    assert "a" in table.stale("a")
    assert table.svids.next_retry() is None


def test_a_new_revision_is_not_held_to_what_was_refused(table):
    table.put(entry("a", revision_number=1))
    table.svids.refuse("a", table.monotonic)
    table.put(entry("a", revision_number=2))
    assert table.stale() == ["a"]


def test_bad_svids_are_dropped_and_fetched_again(table):
    table.put(entry("a"), entry("b"))
    table.hold("a", "b")
    assert table.svids.drop(lambda one: one.chain == (b"a",), table.entries.get) == {"a"}
    assert table.svids.get("a") is None
    assert table.stale() == ["a"]


def test_nothing_is_left_of_an_entry_that_has_gone(table):
    table.put(entry("a"))
    table.svids.refuse("a", 0.0)
    table.hold("a")
    table.svids.forget("a")
    del table.entries["a"]
    assert table.stale() == []
    assert len(table.svids) == 0
    assert table.svids.next_retry() is None
