"""What an agent is entitled to is worked out again when something on the way to it has changed, and only then."""

import pytest

from server.kept_answers import KeptAnswers
from tests.support.registry import entry

ANSWER = (entry("/a", "/agent"),)
TOPS = frozenset({"/agent"})


@pytest.fixture
def kept():
    answers = KeptAnswers(most_kept=60, most_changes=2)
    answers.put("/agent", TOPS, {"/agent", "/a"}, ANSWER)
    return answers


def test_an_answer_is_given_again_as_the_same_object(kept):
    assert kept.get("/agent", TOPS) is ANSWER
    assert kept.get("/agent", TOPS) is ANSWER


def test_nobody_gets_the_answer_of_another(kept):
    assert kept.get("/other", TOPS) is None


@pytest.mark.parametrize("path", ["/agent", "/a"])
def test_a_change_below_an_id_on_the_way_ends_an_answer(kept, path):
    kept.note_change(path)
    assert kept.get("/agent", TOPS) is None
    assert len(kept) == 0


def test_changes_below_other_ids_do_not_matter(kept):
    kept.note_change("/elsewhere")
    assert kept.get("/agent", TOPS) is ANSWER
    kept.note_change("/elsewhere")
    assert kept.get("/agent", TOPS) is ANSWER


def test_a_change_is_found_among_others_that_came_after_it(kept):
    kept.note_change("/a")
    kept.note_change("/elsewhere")
    assert kept.get("/agent", TOPS) is None


def test_a_change_from_before_an_answer_does_not_touch_it(kept):
    kept.note_change("/a")
    kept.put("/agent", TOPS, {"/agent", "/a"}, ANSWER)
    assert kept.get("/agent", TOPS) is ANSWER


def test_an_answer_that_began_elsewhere_does_not_hold(kept):
    assert kept.get("/agent", TOPS | {"/alias"}) is None


def test_an_answer_from_before_the_oldest_change_that_is_remembered_does_not_hold(kept):
    for path in ("/1", "/2", "/3"):
        kept.note_change(path)
    assert kept.get("/agent", TOPS) is None


def test_an_answer_that_was_looked_at_meanwhile_outlives_forgotten_changes(kept):
    for path in ("/1", "/2", "/3", "/4"):
        kept.note_change(path)
        assert kept.get("/agent", TOPS) is ANSWER


def test_the_answers_that_were_used_last_are_kept(kept):
    kept.put("/second", TOPS, TOPS, ANSWER)
    kept.put("/third", TOPS, TOPS, ANSWER)
    kept.get("/agent", TOPS)
    kept.put("/fourth", TOPS, TOPS, ANSWER)
    assert len(kept) == 3
    assert kept.get("/second", TOPS) is None
    assert kept.get("/agent", TOPS) is ANSWER


def test_large_answers_take_the_room_of_many(kept):
    large = {f"/{number}" for number in range(20)}
    kept.put("/large", TOPS, large, ANSWER * 20)
    assert len(kept) == 1
    assert kept.get("/agent", TOPS) is None
    assert kept.get("/large", TOPS)
    kept.put("/too-large", TOPS, large, ANSWER * 40)
    assert len(kept) == 0


def test_room_that_an_answer_took_is_free_when_it_is_gone(kept):
    for _ in range(10):
        kept.put("/agent", TOPS, {"/agent", "/a"}, ANSWER)
        kept.drop("/agent")
        kept.put("/agent", TOPS, {"/agent", "/a"}, ANSWER)
        kept.note_change("/a")
        assert kept.get("/agent", TOPS) is None
    for agent in ("/1", "/2", "/3"):
        kept.put(agent, TOPS, TOPS, ANSWER)
    assert len(kept) == 3


def test_changes_are_not_remembered_while_there_is_no_answer_that_they_could_touch():
    kept = KeptAnswers()
    for number in range(100):
        kept.note_change(f"/{number}")
    assert not kept._changes


def test_changes_below_one_id_take_the_room_of_one(kept):
    for _ in range(100):
        kept.note_change("/busy")
    assert list(kept._changes) == ["/busy"]
