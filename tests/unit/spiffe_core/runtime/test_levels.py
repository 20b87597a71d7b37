"""Log levels: their names, their order, and one level for many processes."""

import os

import pytest

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.levels import Level, LevelSwitch, SharedLevelSwitch


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("INFO", Level.INFO),
        ("debug", Level.DEBUG),
        ("Warn", Level.WARN),
        ("warning", Level.WARN),
        ("panic", Level.PANIC),
    ],
)
def test_a_level_is_read_in_any_case(text, level):
    assert Level.parse(text) is level


@pytest.mark.parametrize("text", ["", "loud", "info ", "5"])
def test_what_is_no_level_is_refused_with_spires_text(text):
    with pytest.raises(InvalidConfig, match=r"^not a valid logrus Level: "):
        Level.parse(text)


def test_a_level_in_force_can_be_changed_and_reset():
    switch = LevelSwitch(Level.INFO)
    switch.set(Level.TRACE)
    assert (switch.current, switch.launch) == (Level.TRACE, Level.INFO)
    switch.reset()
    assert switch.current is Level.INFO


def test_processes_that_inherit_the_level_follow_it():
    first = SharedLevelSwitch(Level.INFO)
    second = SharedLevelSwitch(Level.INFO, os.dup(first.descriptor))
    second.set(Level.DEBUG)
    assert first.current is Level.DEBUG
    first.reset()
    assert second.current is Level.INFO
    for switch in (first, second):
        os.close(switch.descriptor)
