from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.entry_index import EntryIndex, without_rivals
from spiffe_core.entries import EntryId
from tests.support.agent_values import entry, selectors

NAMES = st.sampled_from([f"e{number}" for number in range(8)])
SELECTORS = st.sets(st.sampled_from([f"a:{number}" for number in range(6)]), min_size=1)
STEPS = st.lists(st.tuples(NAMES, st.none() | SELECTORS), max_size=40)


@given(steps=STEPS, workload=SELECTORS)
def test_a_workload_has_exactly_the_entries_whose_selectors_are_among_its_own(steps, workload):
    index, present = EntryIndex(), {}
    for name, wanted in steps:
        if wanted is None:
            index.remove(EntryId(name))
            present.pop(name, None)
        else:
            present[name] = entry(name, *sorted(wanted))
            index.put(present[name])
    expected = [one for _, one in sorted(present.items()) if frozenset(one.selectors) <= selectors(*workload)]
    assert index.matching(selectors(*workload)) == expected
    assert len(index) == len(present)


def test_a_look_up_does_not_look_at_entries_of_others():
    index = EntryIndex()
    for number in range(1000):
        index.put(entry(f"e{number}", "k8s:ns:all", f"k8s:pod:{number}"))
    looked_at = sum(len(index._under.get(one, ())) for one in selectors("k8s:ns:all", "k8s:pod:7"))
    assert looked_at <= 2, "only the first lies under the selector that they share"
    assert [one.id for one in index.matching(selectors("k8s:ns:all", "k8s:pod:7"))] == ["e7"]


def test_nothing_is_left_of_entries_that_have_gone():
    index = EntryIndex()
    index.put(entry("one", "a:1", "b:2"))
    index.put(entry("one", "c:3"))
    index.remove(EntryId("one"))
    assert not index._under
    assert not index._place
    assert index.remove(EntryId("one")) is None


def test_an_entry_without_selectors_is_nobodys():
    index = EntryIndex()
    index.put(replace(entry("one"), selectors=()))
    assert index.matching(selectors("unix:user:one")) == []
    assert EntryId("one") in index


def test_of_entries_with_one_hint_the_oldest_counts():
    old, new = entry("b", hint="web", created_at=1), entry("a", hint="web", created_at=2)
    assert without_rivals([new, old]) == (old,)


def test_of_equally_old_ones_it_is_that_of_the_lowest_id():
    one, two = entry("a", hint="web", created_at=1), entry("b", hint="web", created_at=1)
    assert without_rivals([one, two]) == (one,)


def test_entries_without_a_hint_are_no_rivals():
    entries = (entry("a"), entry("b"), entry("c", hint="other"), entry("d", hint="web"))
    assert without_rivals(entries) == entries
