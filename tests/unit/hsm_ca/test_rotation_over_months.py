"""Rotation over simulated months: after every tick the group is held against everything that is promised of it."""

from dataclasses import dataclass
from datetime import timedelta
from random import Random

import pytest

from hsm_ca.journal import State, Use
from hsm_ca.lifetimes import activate_at, longest_svid, prepare_at
from hsm_ca.policy import CaPolicy
from spiffe_core.runtime.clock import from_unix
from tests.support.authorities import TD, Group

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Life:
    """How long a server runs, how often it ticks, and how long its authorities live."""

    ca_ttl: timedelta
    tick: timedelta
    total: timedelta
    largest_bundle: int
    """Most authorities of a use in the bundle: those that have not been expired for a day and a pruning."""


LIVES = {
    "a day, two months": Life(DAY, 15 * MINUTE, 62 * DAY, 6),
    "an hour, a day and a half": Life(HOUR, 30 * SECOND, 36 * HOUR, 80),
    "a month, a year": Life(30 * DAY, 2 * HOUR, 365 * DAY, 4),
    "a year, four years": Life(365 * DAY, 6 * HOUR, 4 * 365 * DAY, 3),
}


@pytest.mark.conformance("F-2", "F-3", "J-22")
@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES.keys())
def test_authorities_follow_each_other_and_every_svid_verifies_until_it_ends(life):
    group = Group(CaPolicy(trust_domain=TD, ca_ttl=life.ca_ttl))
    server = group.started()
    end = group.now + life.total
    draw = Random(7)
    longest = longest_svid(life.ca_ttl)
    changes, authorities = 0, {}
    while group.now < end:
        group.tick(server, life.tick.total_seconds() * draw.uniform(0.9, 1.1))
        if draw.random() < 0.1:
            group.sign(server, max(longest * draw.random(), SECOND))
        group.check()
        for use in Use:
            active = group.active(use)
            if authorities.get(use) != active.key_id:
                authorities[use] = active.key_id
                changes += 1
        assert len(group.bundle.x509_authorities) <= life.largest_bundle
        assert len(group.bundle.jwt_authorities) <= life.largest_bundle
    expected = life.total / (life.ca_ttl - min(life.ca_ttl / 2, 30 * DAY))
    assert changes / 2 == pytest.approx(expected, rel=0.5, abs=2)
    assert len(group.keys.made) <= 2 * (life.largest_bundle + 2)


@pytest.mark.conformance("F-3")
def test_an_svid_of_the_longest_life_verifies_to_its_last_second():
    group = Group()
    server = group.started()
    longest = longest_svid(DAY)
    last = activate_at(from_unix(group.active().issued_at), from_unix(group.active().not_after))
    group.tick(server, (last - group.now).total_seconds())
    svid_end = group.now + longest
    group.sign(server, longest)
    signed_by = server.x509.authority_id
    while group.now < svid_end:
        group.tick(server, 60)
        group.check()
    assert server.x509.authority_id != signed_by


def test_successors_are_prepared_and_activated_at_their_thresholds():
    group = Group()
    server = group.started()
    seen = {}
    first = group.active()
    while group.active() == first:
        group.tick(server, 10)
        for state in (State.PREPARED, State.ACTIVE):
            for record in group.of(Use.X509, state):
                seen.setdefault((record.key_id, state), group.now)
    second = group.active()
    life = from_unix(first.issued_at), from_unix(first.not_after)
    assert prepare_at(*life) < seen[second.key_id, State.PREPARED] <= prepare_at(*life) + 10 * SECOND
    assert activate_at(*life) < seen[second.key_id, State.ACTIVE] <= activate_at(*life) + 10 * SECOND
    assert group.table.rows[first.key_id].state is State.OLD


def test_a_server_that_was_off_for_a_month_makes_new_authorities_and_destroys_the_old_keys():
    group = Group()
    group.started()
    expired = {record.key_id for record in group.table.rows.values()}
    group.ended.add("one")
    group.clock.advance(30 * 86400)
    server = group.server("two")
    server.start()
    group.tick(server)
    group.sign(server)
    group.check()
    assert set(group.keys.retired) == expired
    assert not expired & group.table.rows.keys()
    assert len(group.bundle.x509_authorities) == 1
