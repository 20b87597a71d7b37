"""The authorization graph: which agent is entitled to which entries."""

import sys
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.authorized_entries import AuthorizedEntries
from server.datastore.entry_rows import StoredEntry
from spiffe_core.entries import Entry, EntryId
from spiffe_core.ids import SpiffeId
from tests.support.registry import OTHER_TD, TD, entry, selectors, spiffe_id

AGENT = spiffe_id("/spire/agent/one")
SERVER = "/spire/server"


class Graph(AuthorizedEntries):
    """A graph whose entries are numbered as they come; their IDs are their paths unless they are given."""

    def __init__(self, *entries: Entry, **options: bool):
        super().__init__(TD, **options)
        self.numbers = count(1)
        self.add(*entries)

    def add(self, *entries: Entry):
        for one in entries:
            named = replace(one, id=one.id or EntryId(one.spiffe_id.path))
            self.put_entry(StoredEntry(next(self.numbers), named))

    def of(self, agent_id: SpiffeId = AGENT):
        return [one.id for one in self.of_agent(agent_id)]


def test_an_agent_is_entitled_to_what_is_below_its_own_id():
    graph = Graph(entry("/a"), entry("/b"), entry("/c", "/spire/agent/two"))
    assert graph.of() == ["/a", "/b"]


def test_an_agent_is_entitled_to_what_is_below_the_ids_that_it_is_entitled_to():
    graph = Graph(entry("/a"), entry("/a/b", "/a"), entry("/a/b/c", "/a/b"))
    assert graph.of() == ["/a", "/a/b", "/a/b/c"]


def test_entries_come_in_the_order_in_which_they_were_created():
    graph = Graph(entry("/deep", "/top"), entry("/z"), entry("/top"), entry("/a"))
    assert graph.of() == ["/deep", "/z", "/top", "/a"]


def test_a_cycle_ends():
    graph = Graph(entry("/a"), entry("/b", "/a"), entry("/a", "/b", id="back"), entry("/self", "/self", id="self"))
    assert graph.of() == ["/a", "/b", "back"]
    assert graph.entry_of_agent(AGENT, EntryId("back")).id == "back"
    assert graph.entry_of_agent(AGENT, EntryId("self")) is None


def test_a_node_alias_gives_what_is_below_it_to_agents_that_have_all_its_selectors():
    graph = Graph(entry("/fleet", SERVER, "x509pop:ou:fleet", "x509pop:cn:a"), entry("/w", "/fleet"))
    graph.put_agent(AGENT, selectors("x509pop:ou:fleet", "x509pop:cn:a", "x509pop:more:1"))
    assert graph.of() == ["/w"]


def test_a_node_alias_gives_nothing_to_agents_that_lack_one_of_its_selectors():
    graph = Graph(entry("/fleet", SERVER, "x509pop:ou:fleet", "x509pop:cn:a"), entry("/w", "/fleet"))
    graph.put_agent(AGENT, selectors("x509pop:ou:fleet"))
    assert graph.of() == []
    assert graph.entry_of_agent(AGENT, EntryId("/w")) is None


def test_an_alias_itself_is_given_to_nobody():
    graph = Graph(entry("/fleet", SERVER, "a:b"), entry("/w", "/fleet"))
    graph.put_agent(AGENT, selectors("a:b"))
    assert graph.entry_of_agent(AGENT, EntryId("/fleet")) is None
    assert graph.entry_of_agent(AGENT, EntryId("/w")).id == "/w"


def test_an_alias_of_an_alias_is_not_followed():
    graph = Graph(entry("/fleet", SERVER, "a:b"), entry("/w", "/fleet"), entry("/more", SERVER, "spiffe_id:/fleet"))
    graph.add(entry("/x", "/more"))
    graph.put_agent(AGENT, selectors("a:b"))
    assert graph.of() == ["/w"]


def test_what_the_server_is_parent_of_is_not_reached_by_way_of_its_id():
    graph = Graph(entry(SERVER), entry("/fleet", SERVER, "a:b"), entry("/w", "/fleet"))
    assert graph.of() == [SERVER]


def test_an_agent_whose_selectors_are_not_known_yet_is_given_what_is_below_its_own_id():
    graph = Graph(entry("/a"), entry("/fleet", SERVER, "a:b"), entry("/w", "/fleet"))
    assert graph.of() == ["/a"]


def test_an_agents_own_id_is_a_selector_only_where_that_is_configured():
    entries = entry("/fleet", SERVER, f"spiffe_id:{AGENT}"), entry("/w", "/fleet")
    plain, configured = Graph(*entries), Graph(*entries, agent_id_as_selector=True)
    for graph in (plain, configured):
        graph.put_agent(AGENT, ())
    assert plain.of() == []
    assert configured.of() == ["/w"]


def test_an_agent_that_loses_a_selector_loses_the_alias():
    graph = Graph(entry("/fleet", SERVER, "a:b"), entry("/w", "/fleet"))
    graph.put_agent(AGENT, selectors("a:b"))
    assert graph.of() == ["/w"]
    graph.put_agent(AGENT, selectors("a:c"))
    assert graph.of() == []


def test_an_agent_that_is_gone_loses_the_alias_and_keeps_what_is_below_its_id():
    graph = Graph(entry("/a"), entry("/fleet", SERVER, "a:b"), entry("/w", "/fleet"))
    graph.put_agent(AGENT, selectors("a:b"))
    assert graph.of() == ["/a", "/w"]
    graph.remove_agent(AGENT)
    assert graph.of() == ["/a"]


def test_entries_and_agents_of_another_trust_domain_are_passed_over():
    foreign = SpiffeId(OTHER_TD, AGENT.path)
    graph = Graph(entry("/a"), replace(entry("/b"), parent_id=foreign), replace(entry("/c"), spiffe_id=foreign))
    assert graph.of() == ["/a"]
    assert graph.of(foreign) == []
    assert graph.entry_of_agent(foreign, EntryId("/a")) is None
    assert len(graph) == 1


def test_flags_hold_for_an_id_whatever_the_parent_of_its_entry():
    graph = Graph(entry("/adm", "/nowhere", admin=True), entry("/down", "/nowhere", downstream=True), entry("/w"))
    assert graph.flags_of(spiffe_id("/adm")).admin
    assert graph.flags_of(spiffe_id("/adm")).downstream is None
    assert graph.flags_of(spiffe_id("/down")).downstream.id == "/down"
    assert not graph.flags_of(spiffe_id("/w")).admin
    assert not graph.flags_of(SpiffeId(OTHER_TD, "/adm")).admin
    graph.remove_entry(EntryId("/adm"))
    assert not graph.flags_of(spiffe_id("/adm")).admin


def test_the_first_of_several_downstream_entries_counts():
    graph = Graph(entry("/d", "/x", downstream=True, id="first"), entry("/d", "/y", downstream=True, id="second"))
    assert graph.flags_of(spiffe_id("/d")).downstream.id == "first"


def test_an_agent_is_given_the_same_object_until_something_of_it_changes():
    graph = Graph(entry("/a"), entry("/b", "/a"), entry("/other", "/spire/agent/two"))
    graph.put_agent(AGENT, ())
    answer = graph.of_agent(AGENT)
    graph.add(entry("/elsewhere", "/spire/agent/two"))
    graph.remove_entry(EntryId("/other"))
    graph.put_agent(spiffe_id("/spire/agent/two"), selectors("a:b"))
    graph.add(entry("/fleet", SERVER, "not:mine"), entry("/w", "/fleet"))
    assert graph.of_agent(AGENT) is answer


@pytest.mark.parametrize(
    ("change", "now"),
    [
        (lambda g: g.add(entry("/c", "/b")), ["/a", "/b", "/c"]),
        (lambda g: g.remove_entry(EntryId("/b")), ["/a"]),
        (lambda g: g.remove_entry(EntryId("/a")), []),
        (lambda g: g.add(entry("/a", "/spire/agent/two")), []),
        (lambda g: g.add(entry("/fleet", SERVER, "a:b"), entry("/w", "/fleet")), ["/a", "/b", "/w"]),
        (lambda g: (g.add(entry("/w", "/fleet")), g.add(entry("/fleet", SERVER, "a:b"))), ["/a", "/b", "/w"]),
    ],
    ids=["an entry below", "one gone", "the way to one gone", "another parent", "an alias", "an alias that comes last"],
)
def test_a_change_is_seen_by_the_next_look(change, now):
    graph = Graph(entry("/a"), entry("/b", "/a"))
    graph.put_agent(AGENT, selectors("a:b"))
    assert graph.of() == ["/a", "/b"]
    change(graph)
    assert graph.of() == now


def test_an_entry_that_is_written_again_is_given_as_it_is_now():
    graph = Graph(entry("/a"))
    assert graph.of_agent(AGENT)[0].revision_number == 0
    graph.put_entry(StoredEntry(1, entry("/a", revision_number=1, id="/a")))
    assert graph.of_agent(AGENT)[0].revision_number == 1


def test_an_entry_that_is_read_again_as_it_was_changes_nothing():
    graph = Graph(entry("/a"))
    answer = graph.of_agent(AGENT)
    graph.put_entry(StoredEntry(1, entry("/a", id="/a")))
    assert graph.of_agent(AGENT) is answer


def test_a_look_touches_no_more_of_a_large_graph_than_of_a_small_one():
    small, large = Graph(), Graph(*(entry(f"/far/{number}", f"/spire/agent/{number}") for number in range(3000)))
    lines = []
    for graph in (small, large):
        graph.add(*(entry(f"/near/{number}") for number in range(10)))
        lines.append(_lines_run(lambda graph=graph: (graph.of_agent(AGENT), graph.of_agent(AGENT))))
        lines.append(_lines_run(lambda graph=graph: graph.entry_of_agent(AGENT, EntryId("/near/3"))))
    assert lines[:2] == lines[2:]


def _lines_run(work):
    """How many lines of Python the work takes: what it costs, on any machine."""
    lines = 0

    def trace(_frame, event, _argument):
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines


PATHS = st.sampled_from([AGENT.path, "/spire/agent/two", "/a", "/b", "/c"])
IDS = st.sampled_from(["1", "2", "3", "4", "5", "6"])
SOME = st.sampled_from([(), ("a:1",), ("b:2",), ("a:1", "b:2")])
STEPS = st.one_of(
    st.tuples(
        st.just("put"), IDS, PATHS, PATHS | st.just(SERVER), SOME.map(lambda some: some or ("a:1",)), st.integers(0, 1)
    ),
    st.tuples(st.just("remove"), IDS),
    st.tuples(st.just("agent"), SOME),
    st.tuples(st.just("no agent")),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(STEPS, min_size=2, max_size=30))
def test_what_is_kept_is_always_what_a_new_graph_finds(steps):
    graph, stored, agents = AuthorizedEntries(TD), {}, {}
    for step in steps:
        match step:
            case "put", entry_id, path, parent, wanted, revision:
                one = entry(path, parent, *wanted, id=entry_id, revision_number=revision)
                stored[entry_id] = StoredEntry(int(entry_id), one)
                graph.put_entry(stored[entry_id])
            case "remove", entry_id:
                stored.pop(entry_id, None)
                graph.remove_entry(EntryId(entry_id))
            case "agent", held:
                agents[AGENT] = selectors(*held)
                graph.put_agent(AGENT, agents[AGENT])
            case _:
                agents.clear()
                graph.remove_agent(AGENT)
        new = AuthorizedEntries(TD)
        for one in stored.values():
            new.put_entry(one)
        for agent_id, held in agents.items():
            new.put_agent(agent_id, held)
        found = graph.of_agent(AGENT)
        assert found == new.of_agent(AGENT)
        assert graph.of_agent(AGENT) is found
        for entry_id in stored:
            entitled = next((one for one in found if one.id == entry_id), None)
            assert graph.entry_of_agent(AGENT, EntryId(entry_id)) == entitled
