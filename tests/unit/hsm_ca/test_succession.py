"""What is due for the authorities of one use: decided by the journal and the time alone."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_ca.journal import NEXT, AuthorityRecord, State, Use
from hsm_ca.lifetimes import activate_at, longest_svid, prepare_at
from hsm_ca.succession import Step, next_step
from keymanagers.base import KeyId, KeyType
from spiffe_core.runtime.clock import from_unix, unix
from tests.support.certificates import NOW

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def record(state, key_id="a", issued=NOW, life=DAY, published=True):
    return AuthorityRecord(
        key_id=KeyId(key_id),
        use=Use.X509,
        key_type=KeyType.EC_P256,
        state=state,
        reserved_at=unix(issued),
        issued_at=unix(issued),
        not_after=unix(issued + life),
        published=published,
    )


ACTIVE = record(State.ACTIVE)
PREPARED = record(State.PREPARED, "b", issued=NOW + 13 * HOUR)


@pytest.mark.parametrize(
    ("life", "prepare_before", "activate_before"),
    [
        (HOUR, HOUR / 2, HOUR / 6),
        (DAY, DAY / 2, DAY / 6),
        (60 * DAY, 30 * DAY, 7 * DAY),
        (365 * DAY, 30 * DAY, 7 * DAY),
    ],
    ids=["an hour", "a day", "two months", "a year"],
)
def test_a_successor_is_prepared_at_half_its_life_and_signs_in_the_last_sixth(life, prepare_before, activate_before):
    end = NOW + life
    active = record(State.ACTIVE, life=life)
    prepared = record(State.PREPARED, "b", issued=end - prepare_before, life=life)
    assert prepare_at(NOW, end) == end - prepare_before
    assert activate_at(NOW, end) == end - activate_before
    assert next_step([active], end - prepare_before) is None
    assert next_step([active], end - prepare_before + SECOND) == (Step.RESERVE, None)
    assert next_step([active, prepared], end - activate_before) is None
    assert next_step([active, prepared], end - activate_before + SECOND) == (Step.ACTIVATE, prepared)


def test_the_longest_svid_that_is_always_granted_is_a_sixth_of_the_life_or_a_week():
    assert longest_svid(DAY) == 4 * HOUR
    assert longest_svid(365 * DAY) == 7 * DAY


def test_without_any_authority_one_is_reserved_and_the_first_is_activated_at_once():
    assert next_step([], NOW) == (Step.RESERVE, None)
    prepared = record(State.PREPARED)
    assert next_step([prepared], NOW) == (Step.ACTIVATE, prepared)


@pytest.mark.parametrize(
    ("begun", "step"),
    [
        (record(State.RESERVED, "c"), Step.GENERATE),
        (record(State.CREATED, "c"), Step.CERTIFY),
        (record(State.PREPARED, "c", published=False), Step.PUBLISH),
    ],
    ids=lambda one: getattr(one, "state", None),
)
@pytest.mark.parametrize("others", [[], [ACTIVE], [ACTIVE, PREPARED]], ids=["alone", "with active", "with both"])
def test_what_was_begun_is_finished_first(begun, step, others):
    assert next_step([*others, begun], NOW) == (step, begun)


def test_nothing_is_due_for_an_active_authority_in_the_first_half_of_its_life():
    assert next_step([ACTIVE], NOW + 11 * HOUR) is None


def test_a_prepared_authority_that_is_near_its_own_end_never_signs():
    stale = record(State.PREPARED, "b", issued=NOW - 22 * HOUR)
    assert next_step([ACTIVE, stale], NOW) == (Step.DISCARD, stale)


def test_of_two_prepared_authorities_the_older_is_discarded():
    older = record(State.PREPARED, "z", issued=NOW - HOUR)
    assert next_step([ACTIVE, older, PREPARED], NOW) == (Step.DISCARD, older)


def test_of_two_active_authorities_the_older_is_superseded():
    older = record(State.ACTIVE, "z", issued=NOW - HOUR)
    assert next_step([older, ACTIVE], NOW) == (Step.SUPERSEDE, older)


def test_an_expired_active_authority_has_a_successor_made_at_once():
    assert next_step([record(State.ACTIVE, issued=NOW - 3 * DAY)], NOW) == (Step.RESERVE, None)


def test_an_old_authority_is_revoked_a_day_after_its_end_and_forgotten_after_two_weeks():
    old = record(State.OLD, "o", issued=NOW - DAY)
    assert next_step([ACTIVE_LATER, old], NOW + DAY) is None
    assert next_step([ACTIVE_LATER, old], NOW + DAY + SECOND) == (Step.REVOKE, old)
    revoked = record(State.REVOKED, "o", issued=NOW - DAY)
    assert next_step([ACTIVE_YEAR, revoked], NOW + 14 * DAY) is None
    assert next_step([ACTIVE_YEAR, revoked], NOW + 14 * DAY + SECOND) == (Step.FORGET, revoked)


ACTIVE_LATER = record(State.ACTIVE, issued=NOW + 20 * HOUR)
ACTIVE_YEAR = record(State.ACTIVE, life=365 * DAY)


def test_an_authority_that_never_ends_is_kept():
    end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    for state in (State.OLD, State.REVOKED):
        assert next_step([ACTIVE, record(state, "b", life=end - NOW)], NOW) is None


def test_a_reservation_that_was_abandoned_is_forgotten_at_once():
    abandoned = AuthorityRecord(
        key_id=KeyId("r"), use=Use.X509, key_type=KeyType.EC_P256, state=State.REVOKED, reserved_at=unix(NOW)
    )
    assert next_step([ACTIVE, abandoned], NOW) == (Step.FORGET, abandoned)


def test_an_authority_from_the_future_is_replaced_since_nothing_it_signs_verifies_yet():
    ahead = record(State.ACTIVE, issued=NOW + HOUR)
    assert next_step([ahead], NOW) == (Step.RESERVE, None)
    assert next_step([ahead, record(State.PREPARED, "b")], NOW) == (Step.ACTIVATE, record(State.PREPARED, "b"))
    assert next_step([record(State.ACTIVE, issued=NOW + 10 * SECOND)], NOW) is None  # its certificate has begun


def test_a_prepared_authority_from_the_future_is_discarded():
    ahead = record(State.PREPARED, "b", issued=NOW + HOUR)
    assert next_step([ACTIVE, ahead], NOW) == (Step.DISCARD, ahead)


states = st.sampled_from(list(State))
records = st.builds(
    record,
    states,
    st.text("abcdef", min_size=1, max_size=3),
    st.integers(-20 * 24, 48).map(lambda hours: NOW + hours * HOUR),
    st.sampled_from([HOUR, DAY, 60 * DAY]),
    st.booleans(),
)


@given(st.lists(records, max_size=6, unique_by=lambda one: one.key_id))
def test_every_step_that_is_due_is_one_that_the_table_allows(journal):
    due = next_step(journal, NOW)
    if due is None:
        return
    step, chosen = due
    assert (chosen is None) == (step is Step.RESERVE)
    if chosen is not None:
        assert chosen in journal
        if step not in {Step.PUBLISH, Step.FORGET}:  # these two change no state
            assert (chosen.state, str(step)) in NEXT


@given(st.lists(records, max_size=6, unique_by=lambda one: one.key_id))
def test_no_authority_is_destroyed_before_its_grace_is_over(journal):
    due = next_step(journal, NOW)
    if due is not None and due[0] is Step.REVOKE:
        assert due[1].state is State.OLD
        assert from_unix(due[1].not_after) + DAY < NOW
