"""The document that shows the life of an authority says what the code does."""

import re
from pathlib import Path

from hsm_ca.journal import NEXT, State
from hsm_ca.succession import Step

DOCUMENT = (Path(__file__).parents[3] / "docs" / "authorities.md").read_text()


def test_the_diagram_is_the_table_of_states():
    drawn = re.findall(r"^    (\w+) --> (\w+) : (\w+)$", DOCUMENT, re.MULTILINE)
    assert sorted(drawn) == sorted((state.value, after.value, step) for (state, step), after in NEXT.items())


def test_every_state_is_explained():
    rows = re.findall(r"^\| (\w+) \|", DOCUMENT, re.MULTILINE)
    assert [row for row in rows if row in set(State)] == [state.value for state in State]


def test_every_step_is_a_step_and_every_step_is_drawn_or_explained():
    assert {step for _, step in NEXT} <= set(Step)
    assert not [step.value for step in Step if not re.search(rf"\b{step}\b", DOCUMENT)]


def test_no_state_is_left_without_a_way_out_and_none_is_entered_twice_over():
    assert {state for state, _ in NEXT} == set(State) - {State.REVOKED}
