"""Agents in every kind of database: attestation, renewal, ban, eviction, lists, expiry, and the standing of each."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings

from server.datastore.agent_rows import AgentFilter
from server.datastore.set_match import Match, SetMatch
from server.datastore.standings import Standing
from spiffe_core.entries import unique_selectors
from spiffe_core.errors import DenialReason, Denied, InvalidInput, NotFound
from tests.support import strategies
from tests.support.registry import agent, entry, selectors, spiffe_id

pytest_plugins = ["tests.support.database_fixtures"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=strategies.agents().filter(lambda one: not one.banned))
def test_an_agent_comes_back_as_it_was_stored(datastore, wanted):
    stored = replace(wanted, new_cert_serial="", new_cert_not_after=0, selectors=unique_selectors(wanted.selectors))
    assert datastore.agents.create_or_replace(wanted) == stored
    assert datastore.agents.get(wanted.id) == stored
    assert datastore.agents.selectors_of([wanted.id]) == {wanted.id: stored.selectors}


def test_there_is_no_agent_of_an_unknown_id(datastore):
    assert datastore.agents.get(spiffe_id("/spire/agent/one")) is None
    assert datastore.standings.read(spiffe_id("/spire/agent/one")) is None
    assert datastore.agents.selectors_of([spiffe_id("/spire/agent/one")]) == {}


def test_attesting_again_replaces_everything_and_forgets_a_renewed_svid(datastore):
    first = datastore.agents.create_or_replace(agent("one", "a:1", "a:2", cert_serial="1"))
    datastore.agents.set_new_serial(first.id, "2", 10, beside="1")
    again = agent("one", "a:2", "b:1", cert_serial="3", cert_not_after=5, can_reattest=True, agent_version="2.0")
    assert datastore.agents.create_or_replace(again) == datastore.agents.get(first.id) == again
    for text, found in (("a:1", 0), ("a:2", 1), ("b:1", 1)):
        wanted = AgentFilter(selectors=SetMatch(frozenset(selectors(text)), Match.ANY))
        assert datastore.agents.count(wanted) == found


def test_servers_at_which_one_agent_attests_at_once_agree(datastore, other):
    with ThreadPoolExecutor(6) as threads:
        wanted = [agent("one", f"a:{number}", cert_serial=str(number)) for number in range(1, 7)]
        stores = [datastore, other] * 3
        list(threads.map(lambda store, one: store.agents.create_or_replace(one), stores, wanted))
    assert datastore.agents.count() == 1
    stored = datastore.agents.get(wanted[0].id)
    assert stored in wanted
    assert datastore.agents.count(AgentFilter(selectors=SetMatch(frozenset(stored.selectors), Match.EXACT))) == 1


def test_a_renewed_svid_counts_beside_the_current_one_until_it_is_used(datastore):
    one = datastore.agents.create_or_replace(agent(cert_serial="1", cert_not_after=10))
    datastore.agents.set_new_serial(one.id, "2", 20, beside="1")
    renewed = replace(one, new_cert_serial="2", new_cert_not_after=20)
    assert datastore.agents.get(one.id) == renewed
    assert not datastore.agents.promote(one.id, "3")
    assert not datastore.agents.promote(one.id, "")
    assert datastore.agents.get(one.id) == renewed
    assert datastore.agents.promote(one.id, "2")
    assert datastore.agents.get(one.id) == replace(one, cert_serial="2", cert_not_after=20)


@pytest.mark.parametrize("now_current", ["another attestation", "another renewal"])
def test_an_svid_that_is_not_current_any_more_cannot_be_renewed(datastore, other, now_current):
    one = datastore.agents.create_or_replace(agent(cert_serial="1", cert_not_after=10))
    if now_current == "another attestation":
        other.agents.create_or_replace(replace(one, cert_serial="2"))
    else:
        other.agents.set_new_serial(one.id, "2", 20, beside="1")
        assert other.agents.promote(one.id, "2")
    current = datastore.agents.get(one.id)
    with pytest.raises(Denied, match="agent SVID is not active any more") as caught:
        datastore.agents.set_new_serial(one.id, "3", 30, beside="1")
    assert caught.value.reason is DenialReason.AGENT_NOT_ACTIVE
    assert datastore.agents.get(one.id) == current


def test_a_promotion_that_another_server_made_first_holds_too(datastore, other):
    one = datastore.agents.create_or_replace(agent(cert_serial="1"))
    datastore.agents.set_new_serial(one.id, "2", 20, beside="1")
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda store: store.agents.promote(one.id, "2"), [datastore, other] * 4))
    assert not datastore.agents.promote(one.id, "1")
    assert not datastore.agents.promote(spiffe_id("/spire/agent/unknown"), "1")


def test_a_banned_agent_has_no_serial_and_can_do_nothing(datastore):
    one = datastore.agents.create_or_replace(agent(cert_serial="1", cert_not_after=10))
    datastore.agents.set_new_serial(one.id, "2", 20, beside="1")
    datastore.agents.ban(one.id)
    banned = replace(one, cert_serial="")
    assert datastore.agents.get(one.id) == banned
    assert datastore.standings.read(one.id).banned
    assert not datastore.agents.promote(one.id, "2")
    for attempt in (
        lambda: datastore.agents.create_or_replace(one),
        lambda: datastore.agents.set_new_serial(one.id, "3", 30, beside="1"),
    ):
        with pytest.raises(Denied, match="agent is banned") as caught:
            attempt()
        assert caught.value.reason is DenialReason.AGENT_BANNED
    assert datastore.agents.get(one.id) == banned


def test_a_ban_is_not_undone_by_an_attestation_at_the_same_time(datastore, other):
    for number in range(10):
        one = datastore.agents.create_or_replace(agent(f"a{number}"))

        def attest(one=one):
            with suppress(Denied):
                other.agents.create_or_replace(one)

        with ThreadPoolExecutor(2) as threads:
            ban, attestation = threads.submit(datastore.agents.ban, one.id), threads.submit(attest)
            ban.result()
            attestation.result()
        assert datastore.agents.get(one.id).banned


def test_a_deleted_agent_may_attest_again_even_if_it_was_banned(datastore):
    one = datastore.agents.create_or_replace(agent("one", "a:1"))
    datastore.agents.ban(one.id)
    assert datastore.agents.delete(one.id) == replace(one, cert_serial="")
    assert datastore.agents.get(one.id) is None
    assert datastore.agents.create_or_replace(one) == one


def test_what_needs_an_agent_says_when_there_is_none(datastore):
    unknown = spiffe_id("/spire/agent/unknown")
    agents = datastore.agents
    for act in (
        lambda: agents.ban(unknown),
        lambda: agents.delete(unknown),
        lambda: agents.set_new_serial(unknown, "1", 1, beside="1"),
        lambda: agents.set_version(unknown, "1"),
    ):
        with pytest.raises(NotFound, match="agent not found"):
            act()


def test_a_join_tokens_agent_takes_its_alias_entry_along_and_no_other(datastore):
    parent = "/spire/agent/join_token/t"
    alias = f"spiffe_id:{spiffe_id(parent)}"
    kept = [
        entry("/workload", parent, "unix:uid:1"),
        entry("/two", parent, alias, "unix:uid:1"),
        entry("/elsewhere", "/spire/agent/join_token/u", alias),
    ]
    outcomes = datastore.entries.create_batch([entry("/alias", parent, alias), *kept])
    one = datastore.agents.create_or_replace(agent("join_token/t", attestation_type="join_token"))
    datastore.agents.delete(one.id)
    assert datastore.entries.list().items == tuple(outcome.entry for outcome in outcomes[1:])


def test_another_agents_entries_stay_when_it_is_deleted(datastore):
    one = agent("one", attestation_type="x509pop")
    made = datastore.entries.create_batch([entry("/alias", "/spire/agent/one", f"spiffe_id:{one.id}")])
    datastore.agents.create_or_replace(one)
    datastore.agents.delete(one.id)
    assert datastore.entries.list().items == (made[0].entry,)


def test_a_version_is_kept_and_a_long_one_cut(datastore):
    one = datastore.agents.create_or_replace(agent())
    for version in ("1.2.3", "é" * 300):
        datastore.agents.set_version(one.id, version)
        assert datastore.agents.get(one.id).agent_version == version[:255]


@pytest.fixture
def fleet(datastore):
    """Thirty agents over few values, some of them banned."""
    random = Random(3)
    made = []
    for number in range(30):
        one = agent(
            f"a{number}",
            *random.sample(["a:1", "a:2", "b:1"], random.randint(0, 3)),
            attestation_type=random.choice(["x509pop", "join_token"]),
            cert_not_after=random.randrange(5),
            can_reattest=random.random() < 0.5,
        )
        datastore.agents.create_or_replace(one)
        if random.random() < 0.3:
            datastore.agents.ban(one.id)
            one = replace(one, cert_serial="")
        made.append(one)
    return made


def set_matches(held, wanted):
    held, members = set(held), set(wanted.members)
    return {
        Match.EXACT: held == members,
        Match.SUBSET: bool(held) and held <= members,
        Match.SUPERSET: held >= members,
        Match.ANY: bool(held & members),
    }[wanted.match]


def test_every_filter_finds_what_a_plain_search_finds(datastore, fleet):
    random = Random(4)
    hits = 0
    for _ in range(120):
        members = frozenset(selectors(*random.sample(["a:1", "a:2", "b:1", "c:1"], random.randint(1, 3))))
        wanted = AgentFilter(
            attestation_type=random.choice(["", "", "x509pop", "tpm_devid"]),
            selectors=random.choice([None, SetMatch(members, random.choice(list(Match)))]),
            banned=random.choice([None, True, False]),
            can_reattest=random.choice([None, True, False]),
            expires_before=random.choice([None, None, 0, 2, 9]),
        )
        expected = [
            one
            for one in fleet
            if wanted.attestation_type in {"", one.attestation_type}
            and wanted.banned in {None, one.banned}
            and wanted.can_reattest in {None, one.can_reattest}
            and (wanted.expires_before is None or one.cert_not_after < wanted.expires_before)
            and (wanted.selectors is None or set_matches(one.selectors, wanted.selectors))
        ]
        assert list(datastore.agents.list(wanted).items) == expected
        assert datastore.agents.count(wanted) == len(expected)
        hits += 0 < len(expected) < len(fleet)
    assert hits > 30


def test_agents_are_listed_page_by_page_and_the_last_page_is_empty(datastore, fleet):
    token, found = "", []
    while True:
        page = datastore.agents.list(page_size=8, page_token=token)
        found += page.items
        token = page.next_token
        if not token:
            break
    assert found == fleet
    assert page.items == ()
    with pytest.raises(InvalidInput, match="could not parse token 'x'"):
        datastore.agents.list(page_size=8, page_token="x")


def test_agents_are_not_listed_by_an_empty_set_of_selectors():
    with pytest.raises(InvalidInput, match="cannot list by empty selectors set"):
        AgentFilter(selectors=SetMatch(frozenset(), Match.ANY))


def test_pruning_spares_the_banned_and_those_that_cannot_come_back(datastore):
    def record(name, **fields):
        return datastore.agents.create_or_replace(agent(name, "a:1", cert_not_after=5, **fields))

    gone = [record("one", can_reattest=True), record("two", can_reattest=True)]
    record("banned", can_reattest=True)
    datastore.agents.ban(spiffe_id("/spire/agent/banned"))
    tofu = record("join_token/t", attestation_type="join_token")
    alias = entry("/alias", "/spire/agent/join_token/t", f"spiffe_id:{tofu.id}")
    datastore.entries.create_batch([alias])
    alive = datastore.agents.create_or_replace(agent("alive", can_reattest=True, cert_not_after=6))
    assert datastore.agents.prune(6, at_most=1) == (gone[0],)
    assert datastore.agents.prune(6) == (gone[1],)
    assert datastore.agents.prune(6) == ()
    assert datastore.entries.count() == 1
    assert datastore.agents.prune(6, include_tofu=True) == (tofu,)
    assert datastore.entries.count() == 0
    assert [one.id.path for one in datastore.agents.list().items] == ["/spire/agent/banned", alive.id.path]


def test_a_standing_is_what_a_call_is_let_in_by_and_is_never_stale(datastore, other):
    one = datastore.agents.create_or_replace(agent(cert_serial="1", cert_not_after=9, can_reattest=True))
    reads = [datastore.standings.read, other.standings.read]
    if datastore.standings.inline:
        reads += [datastore.standings.peek, other.standings.peek]

    def standing():
        answers = {read(one.id) for read in reads}
        assert len(answers) == 1
        return answers.pop()

    assert standing() == Standing("1", "", 9, can_reattest=True)
    other.agents.set_new_serial(one.id, "2", 20, beside="1")
    assert standing() == Standing("1", "2", 9, can_reattest=True)
    datastore.agents.promote(one.id, "2")
    assert standing() == Standing("2", "", 20, can_reattest=True)
    other.agents.ban(one.id)
    assert standing() == Standing("", "", 20, can_reattest=True)
    assert standing().banned
    datastore.agents.delete(one.id)
    assert standing() is None


def test_standings_are_read_from_many_threads(datastore):
    made = [datastore.agents.create_or_replace(agent(f"a{n}", cert_serial=str(n + 1))) for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda one: datastore.standings.read(one.id).cert_serial, made * 20))
    assert found == [one.cert_serial for one in made] * 20


def test_only_a_database_on_this_machine_is_read_on_an_event_loop(datastore, kind):
    assert datastore.standings.inline is (kind == "sqlite")
