"""How long what did not help is left alone, and that it is told apart for each rung."""

import pytest

from keymanagers.pkcs11.faults import Rung
from keymanagers.pkcs11.ladder import ALONE, LOGIN_PAUSE, Ladder, Pause


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def tries(pause: Pause, time: Time, until: float, *, longest: float | None = None) -> list[float]:
    """The moments at which it may be tried, by one who asks every hundredth of a second."""
    begun, found = time.now, []
    while time.now - begun < until:
        if pause.take(longest=longest):
            found.append(round(time.now - begun, 2))
        time.now = round(time.now + 0.01, 2)
    return found


def test_what_does_not_help_is_tried_after_pauses_that_double_up_to_the_longest(time):
    assert tries(Pause(1.0, time), time, 5.0) == pytest.approx([0.0, 0.1, 0.3, 0.7, 1.5, 2.5, 3.5, 4.5], abs=0.03)


def test_what_helped_may_be_tried_at_once(time):
    pause = Pause(10.0, time)
    assert tries(pause, time, 2.0) == pytest.approx([0.0, 0.1, 0.3, 0.7, 1.5], abs=0.03)
    pause.helped()
    assert tries(pause, time, 0.5) == pytest.approx([0.0, 0.1, 0.3], abs=0.03)


def test_what_was_not_needed_for_long_starts_anew(time):
    pause = Pause(1.0, time)
    tries(pause, time, 5.0)
    time.now += 2.5
    assert tries(pause, time, 0.5) == pytest.approx([0.0, 0.1, 0.3], abs=0.03)


def test_a_longest_pause_of_this_moment_counts_in_place_of_a_longer_one(time):
    pause = Pause(3600.0, time)
    assert tries(pause, time, 3.0, longest=ALONE) == pytest.approx([0.0, 0.1, 0.3, 0.7, 1.2, 1.7, 2.2, 2.7], abs=0.03)


def test_without_a_pause_it_may_always_be_tried(time):
    pause = Pause(0.0, time)
    assert all(pause.take() for _ in range(100))


def test_each_rung_has_its_own_limit(time):
    ladder = Ladder(reinitialize_interval=60.0, monotonic=time)
    assert all(ladder.may_climb(Rung.SESSION) for _ in range(100))
    assert ladder.may_climb(Rung.LOGIN)
    assert ladder.may_climb(Rung.MODULE)
    assert not ladder.may_climb(Rung.LOGIN)
    assert not ladder.may_climb(Rung.MODULE)
    ladder.helped(Rung.LOGIN)
    assert ladder.may_climb(Rung.LOGIN)
    assert not ladder.may_climb(Rung.MODULE)


def test_logins_come_back_to_a_device_within_a_second_and_re_initialisations_within_their_interval(time):
    for rung, longest in ((Rung.LOGIN, LOGIN_PAUSE), (Rung.MODULE, 60.0)):
        ladder = Ladder(reinitialize_interval=60.0, monotonic=time)
        for _ in range(20):
            assert ladder.may_climb(rung)
            time.now += longest
        time.now -= longest
        assert not ladder.may_climb(rung)
