from datetime import timedelta

import pytest

from agent.rotation import Rotation
from tests.support.clock import START

DAY = timedelta(days=1)


def least(low, _high):
    return low


def most(_low, high):
    return high


def middle(low, high):
    return (low + high) / 2


def test_an_svid_is_renewed_half_way_through_its_life():
    assert Rotation(draw=middle).x509_at(START, START + DAY) == START + DAY / 2


@pytest.mark.parametrize(("draw", "hours"), [(least, 13.2), (most, 10.8)])
def test_the_moment_moves_by_a_tenth_of_half_a_life_at_most(draw, hours):
    assert Rotation(draw=draw).x509_at(START, START + DAY) == START + timedelta(hours=hours)


@pytest.mark.parametrize(("draw", "minutes"), [(least, 0), (most, 10)])
def test_an_availability_target_leaves_that_much_and_up_to_ten_minutes_more(draw, minutes):
    rotation = Rotation(availability_target=DAY, draw=draw)
    end = START + 3 * DAY
    assert rotation.x509_at(START, end) == end - DAY - timedelta(minutes=minutes)


@pytest.mark.parametrize(("grace", "holds"), [(timedelta(hours=12), False), (timedelta(hours=12, seconds=1), True)])
def test_a_target_that_leaves_no_half_a_day_of_a_life_does_not_count(grace, holds):
    rotation = Rotation(availability_target=DAY, draw=middle)
    life = DAY + grace
    assert rotation.guarantees(life) is holds
    assert (rotation.x509_at(START, START + life) == START + life / 2) is not holds


def test_without_a_target_every_life_is_long_enough():
    assert Rotation().guarantees(timedelta(seconds=1))


def test_the_moment_is_drawn_at_random_within_its_limits():
    moments = {Rotation().half_way(START, START + DAY) for _ in range(50)}
    assert len(moments) > 40
    assert all(START + timedelta(hours=10.8) <= moment <= START + timedelta(hours=13.2) for moment in moments)
