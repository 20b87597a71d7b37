"""Leadership of a group: taken after silence, kept by renewal, lost without harm."""

import pytest

from hsm_ca.lease import LENGTH, LeaseKeeper
from spiffe_core.errors import DatastoreUnavailable
from tests.support.authorities import MemoryTable


@pytest.fixture
def table():
    return MemoryTable()


def test_the_first_to_come_leads_at_once(table):
    assert LeaseKeeper(table, "a").keep(0.0) == 1


def test_a_follower_takes_over_only_after_the_lease_has_been_silent_for_its_length(table):
    leader, follower = LeaseKeeper(table, "a"), LeaseKeeper(table, "b")
    leader.keep(0.0)
    assert follower.keep(5.0) is None
    assert follower.keep(5.0 + LENGTH - 0.1) is None
    assert follower.keep(5.0 + LENGTH) == 2
    assert leader.keep(5.0 + LENGTH) is None


def test_each_renewal_makes_followers_wait_anew(table):
    leader, follower = LeaseKeeper(table, "a"), LeaseKeeper(table, "b")
    for second in range(100):
        assert leader.keep(float(second)) == 1
        assert follower.keep(float(second)) is None


def test_a_lease_that_was_given_up_is_taken_at_once(table):
    leader, follower = LeaseKeeper(table, "a"), LeaseKeeper(table, "b")
    leader.keep(0.0)
    follower.keep(0.0)
    leader.release()
    assert leader.epoch is None
    assert follower.keep(0.1) == 2


def test_a_leader_whose_process_has_ended_is_not_waited_for(table):
    LeaseKeeper(table, "dead").keep(0.0)
    assert LeaseKeeper(table, "b", has_ended=lambda holder: holder == "dead").keep(0.0) == 2


def test_another_leader_is_waited_for_though_some_process_has_ended(table):
    LeaseKeeper(table, "alive").keep(0.0)
    assert LeaseKeeper(table, "b", has_ended=lambda holder: holder == "dead").keep(0.0) is None


def test_one_of_two_that_saw_the_same_silence_takes_over(table):
    LeaseKeeper(table, "gone").keep(0.0)
    two = [LeaseKeeper(table, name) for name in "bc"]
    for keeper in two:
        keeper.keep(0.0)
    assert sorted(str(keeper.keep(LENGTH)) for keeper in two) == ["2", "None"]


def test_a_leader_whose_write_was_refused_waits_like_anybody(table):
    leader, other = LeaseKeeper(table, "a"), LeaseKeeper(table, "b")
    leader.keep(0.0)
    other.keep(0.0)
    assert other.keep(LENGTH) == 2
    leader.lose()
    assert leader.keep(LENGTH) is None
    assert leader.keep(2 * LENGTH) == 3


def test_nobody_who_does_not_lead_gives_anything_up(table):
    leader, follower = LeaseKeeper(table, "a"), LeaseKeeper(table, "b")
    leader.keep(0.0)
    follower.release()
    assert leader.keep(LENGTH / 2) == 1


def test_a_database_that_is_away_leaves_the_leader_in_office_until_it_can_tell(table):
    leader = LeaseKeeper(table, "a")
    leader.keep(0.0)
    table.away = True
    with pytest.raises(DatastoreUnavailable):
        leader.keep(LENGTH)
    assert leader.epoch == 1
    table.away = False
    assert leader.keep(LENGTH + 1) == 1
