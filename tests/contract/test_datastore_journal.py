"""Authority journals and leases in every kind of database: a leader that lost its lease changes nothing."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from hsm_ca.journal import AuthorityRecord, LeaseState, StaleLease, State, Use
from hsm_ca.lease import LENGTH, LeaseKeeper
from keymanagers.base import KeyType
from server.datastore.tables import AUTHORITY_LEASES

pytest_plugins = ["tests.support.database_fixtures"]

GROUP = "hsm-1"


def record(key_id="key-1", **fields):
    usual = {"use": Use.X509, "key_type": KeyType.EC_P256, "state": State.RESERVED, "reserved_at": 100}
    return AuthorityRecord(key_id=key_id, **{**usual, **fields})


FULL = record(
    "key-2",
    use=Use.JWT,
    key_type=KeyType.RSA_4096,
    state=State.OLD,
    public_key=bytes(range(256)),
    authority_id="kid",
    chain=(b"\x00\xff", b"leaf"),
    roots=(b"root",),
    issued_at=1,
    not_after=2**40,
    published=True,
    tainted=True,
    changed_at=3,
    reserved_at=50,
)


@pytest.fixture
def leader(datastore):
    """The lease of the group, held by server a."""
    return datastore.lease(GROUP).take("a", None)


def test_a_record_comes_back_as_it_was_written(datastore, leader):
    journal = datastore.journal(GROUP)
    journal.write(leader.epoch, record(), FULL)
    assert journal.records() == [FULL, record()]


def test_records_are_in_the_order_of_their_reservation(datastore, leader):
    journal = datastore.journal(GROUP)
    written = [record("b", reserved_at=2), record("B", reserved_at=2), record("a", reserved_at=2), record("z")]
    journal.write(leader.epoch, *written, record("early", reserved_at=1))
    assert [one.key_id for one in journal.records()] == ["early", "B", "a", "b", "z"]


def test_a_record_replaces_the_one_of_its_key(datastore, leader):
    journal = datastore.journal(GROUP)
    journal.write(leader.epoch, record(), FULL)
    journal.write(leader.epoch, replace(FULL, state=State.REVOKED), record("key-3"))
    assert journal.records() == [replace(FULL, state=State.REVOKED), record(), record("key-3")]
    journal.write(leader.epoch)
    assert len(journal.records()) == 3


def test_a_forgotten_record_is_gone(datastore, leader):
    journal = datastore.journal(GROUP)
    journal.write(leader.epoch, record(), FULL)
    journal.forget(leader.epoch, "key-1")
    journal.forget(leader.epoch, "unknown")
    assert journal.records() == [FULL]


def test_a_journal_that_nobody_wrote_to_is_not_read_again(datastore, other, leader):
    journal, elsewhere = datastore.journal(GROUP), other.journal(GROUP)
    statements = []
    sa.event.listen(
        datastore._database._engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2])
    )

    def reads():
        del statements[:]
        found = journal.records()
        return found, any("authority_records" in statement for statement in statements)

    elsewhere.write(leader.epoch, FULL)
    assert reads() == ([FULL], True)
    found, again = reads()
    assert (found, again) == ([FULL], False)
    found.clear()
    assert reads() == ([FULL], False)
    renewed = other.lease(GROUP).beat(leader)
    other.lease("hsm-2").take("b", None)
    assert reads() == ([FULL], False)
    elsewhere.write(leader.epoch, record())
    assert reads() == ([FULL, record()], True)
    journal.forget(leader.epoch, "key-1")
    assert reads() == ([FULL], True)
    other.lease(GROUP).take("b", renewed)
    assert reads() == ([FULL], True)
    other.prune_journals(2**41)
    assert reads() == ([], True)
    assert reads() == ([], False)


def test_a_journal_of_before_its_lease_is_read_each_time(datastore, other):
    journal = datastore.journal(GROUP)
    assert journal.records() == []
    other.journal(GROUP).write(other.lease(GROUP).take("b", None).epoch, FULL)
    assert journal.records() == [FULL]


def test_groups_do_not_see_each_other(datastore, leader):
    elsewhere = datastore.lease("hsm-2").take("b", None)
    datastore.journal(GROUP).write(leader.epoch, record())
    datastore.journal("hsm-2").write(elsewhere.epoch, FULL)
    assert datastore.journal(GROUP).records() == [record()]
    datastore.journal("hsm-2").forget(elsewhere.epoch, "key-1")
    assert datastore.journal(GROUP).records() == [record()]
    assert datastore.journal("HSM-1").records() == []


def test_a_write_of_an_old_epoch_is_refused_and_changes_nothing(datastore, other, leader):
    journal = datastore.journal(GROUP)
    journal.write(leader.epoch, record())
    successor = other.lease(GROUP).take("b", leader)
    with pytest.raises(StaleLease, match=f"its lease is of epoch {successor.epoch}, not {leader.epoch}"):
        journal.write(leader.epoch, FULL)
    with pytest.raises(StaleLease):
        journal.forget(leader.epoch, "key-1")
    assert journal.records() == [record()]
    other.journal(GROUP).write(successor.epoch, FULL)


def test_nothing_is_written_before_there_is_a_lease(datastore):
    with pytest.raises(StaleLease, match="its lease is of epoch None, not 1"):
        datastore.journal(GROUP).write(1, record())


def test_a_takeover_waits_for_a_write_that_has_begun_and_fences_the_next(datastore, other, leader):
    """A leader's writes race with a takeover: whatever was written under the old epoch was written before it."""
    journal, written = datastore.journal(GROUP), []

    def write():
        for number in range(50):
            try:
                journal.write(leader.epoch, record(f"key-{number:02}"))
            except StaleLease:
                return
            written.append(f"key-{number:02}")

    def take_over():
        while len(written) < 5:
            pass
        state = other.lease(GROUP).take("b", leader)
        return state, [one.key_id for one in other.journal(GROUP).records()]

    with ThreadPoolExecutor(2) as threads:
        takeover, writing = threads.submit(take_over), threads.submit(write)
        state, seen = takeover.result()
        writing.result()
    assert state == LeaseState("b", leader.epoch + 1, 0)
    assert [one.key_id for one in journal.records()] == seen == written


def test_nobody_holds_a_lease_that_was_never_taken(datastore):
    assert datastore.lease(GROUP).lease() is None


def test_a_lease_is_taken_from_the_state_that_was_seen_and_no_other(datastore, other):
    first = datastore.lease(GROUP).take("a", None)
    assert first == LeaseState("a", 1, 0) == other.lease(GROUP).lease()
    assert other.lease(GROUP).take("b", None) is None
    renewed = datastore.lease(GROUP).beat(first)
    assert renewed == LeaseState("a", 1, 1)
    assert other.lease(GROUP).take("b", first) is None
    assert other.lease(GROUP).take("b", renewed) == LeaseState("b", 2, 0)
    assert datastore.lease(GROUP).beat(renewed) is None


def test_a_holder_that_was_followed_by_itself_is_of_an_old_epoch_too(datastore):
    lease = datastore.lease(GROUP)
    first = lease.take("a", None)
    second = lease.take("a", first)
    assert lease.beat(first) is None
    assert lease.beat(second) == LeaseState("a", 2, 1)


def test_a_lease_that_is_given_up_has_no_holder_and_keeps_its_epoch(datastore, other):
    lease = datastore.lease(GROUP)
    held = lease.take("a", None)
    lease.release(held)
    assert lease.lease() == LeaseState("", 1, 0)
    assert lease.beat(held) is None
    taken = other.lease(GROUP).take("b", LeaseState("", 1, 0))
    assert taken == LeaseState("b", 2, 0)
    lease.release(held)
    assert lease.lease() == taken


def test_of_servers_that_race_for_a_lease_one_gets_it(datastore, other):
    seen = None
    for _ in range(6):
        with ThreadPoolExecutor(6) as threads:
            takers = [(store, f"server-{n}") for n, store in enumerate([datastore, other] * 3)]
            taken = list(threads.map(lambda taker, s=seen: taker[0].lease(GROUP).take(taker[1], s), takers))
        [winner] = [state for state in taken if state]
        assert datastore.lease(GROUP).lease() == winner
        seen = winner


def test_a_lease_keeper_leads_by_this_table(datastore, other):
    one, two = LeaseKeeper(datastore.lease(GROUP), "a"), LeaseKeeper(other.lease(GROUP), "b")
    assert one.keep(0.0) == 1
    assert two.keep(0.0) is None
    assert one.keep(LENGTH / 2) == 1
    assert two.keep(LENGTH) is None
    assert two.keep(2 * LENGTH) == 2
    assert one.keep(2 * LENGTH) is None
    two.release()
    assert one.keep(2 * LENGTH) == 3


def test_journals_of_which_all_has_ended_are_pruned_and_their_epochs_stay(datastore):
    for group, records in {
        "dead": [record("a", not_after=10, changed_at=5, reserved_at=1), record("b", not_after=11, reserved_at=1)],
        "alive": [record("a", not_after=10, reserved_at=1), record("b", not_after=90, reserved_at=1)],
        "begun": [record("a", not_after=10, reserved_at=1), record("b", reserved_at=90)],
        "changed": [record("a", not_after=10, reserved_at=1, changed_at=90)],
    }.items():
        datastore.journal(group).write(datastore.lease(group).take("s", None).epoch, *records)
    assert datastore.prune_journals(50) == ("dead",)
    assert datastore.prune_journals(50) == ()
    assert [len(datastore.journal(group).records()) for group in ("dead", "alive", "begun", "changed")] == [0, 2, 2, 1]
    with pytest.raises(StaleLease):
        datastore.journal("dead").write(2, record())
    with datastore._database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(AUTHORITY_LEASES)).scalar_one() == 4
