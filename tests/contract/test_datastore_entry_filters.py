"""Lists and counts of entries, filtered and paged, against a plain model of what SPIRE answers."""

from random import Random

import pytest

from server.datastore.entry_filter import EntryFilter
from server.datastore.set_match import MAX_MEMBERS, Match, SetMatch
from spiffe_core.bundle import Bundle
from spiffe_core.entries import Selector
from spiffe_core.errors import InvalidInput
from spiffe_core.ids import TrustDomain
from tests.support.registry import entry, selectors, spiffe_id

pytest_plugins = ["tests.support.database_fixtures"]

SELECTORS = selectors("a:1", "a:2", "b:1", "B:1", "b:1 ")
DOMAINS = tuple(TrustDomain(f"td{number}") for number in range(3))
UNKNOWN = TrustDomain("unknown")


@pytest.fixture
def registry(datastore):
    """Forty entries over few values, so that every filter finds some and misses some."""
    random = Random(7)
    for domain in DOMAINS:
        datastore.bundles.create(Bundle(domain))
    batch = [
        entry(
            f"/w{random.randrange(4)}",
            f"/p{random.randrange(4)}",
            *map(str, random.sample(SELECTORS, random.randint(1, 4))),
            federates_with=tuple(random.sample(DOMAINS, random.randint(0, 3))),
            hint=random.choice(["", "x", "X", "x "]),
            downstream=random.random() < 0.3,
        )
        for _ in range(40)
    ]
    outcomes = datastore.entries.create_batch(batch)
    return [outcome.entry for outcome in outcomes if outcome.error is None]


def set_matches(held, wanted):
    held, members = set(held), set(wanted.members)
    return {
        Match.EXACT: held == members,
        Match.SUBSET: bool(held) and held <= members,
        Match.SUPERSET: held >= members,
        Match.ANY: bool(held & members),
    }[wanted.match]


def expected(registry, wanted):
    """What the filter should find, looked for one by one."""
    return [
        one
        for one in registry
        if wanted.spiffe_id in {None, one.spiffe_id}
        and wanted.parent_id in {None, one.parent_id}
        and wanted.hint in {"", one.hint}
        and (one.downstream or not wanted.downstream)
        and (wanted.selectors is None or set_matches(one.selectors, wanted.selectors))
        and (wanted.federates_with is None or set_matches(one.federates_with, wanted.federates_with))
    ]


def random_filter(random):
    def one_of(*values):
        return random.choice([None, *values])

    def some(values):
        members = frozenset(random.sample(values, random.randint(1, min(3, len(values)))))
        return SetMatch(members, random.choice(list(Match)))

    return EntryFilter(
        spiffe_id=one_of(spiffe_id("/w0"), spiffe_id("/w1"), spiffe_id("/W1")) if random.random() < 0.3 else None,
        parent_id=one_of(spiffe_id("/p0"), spiffe_id("/p1")) if random.random() < 0.3 else None,
        selectors=some([*SELECTORS, Selector("c", "1")]) if random.random() < 0.6 else None,
        federates_with=some([*DOMAINS, UNKNOWN]) if random.random() < 0.5 else None,
        hint=random.choice(["", "", "", "x", "X", "x "]),
        downstream=random.random() < 0.2,
    )


def pages_of(entries, wanted, page_size):
    token, pages = "", []
    while True:
        page = entries.list(wanted, page_size=page_size, page_token=token)
        pages.append(page.items)
        token = page.next_token
        if not token:
            return pages
        assert len(pages) < 100


def test_every_filter_finds_what_a_plain_search_finds(datastore, registry):
    random = Random(8)
    hits = 0
    for _ in range(150):
        wanted = random_filter(random)
        found = list(datastore.entries.list(wanted).items)
        assert found == expected(registry, wanted)
        assert datastore.entries.count(wanted) == len(found)
        hits += 0 < len(found) < len(registry)
    assert hits > 40


@pytest.mark.parametrize("match", Match)
def test_selector_sets_are_compared_in_four_ways(datastore, registry, match):
    for members in (SELECTORS[:1], SELECTORS[:2], SELECTORS[2:4], SELECTORS):
        wanted = EntryFilter(selectors=SetMatch(frozenset(members), match))
        assert list(datastore.entries.list(wanted).items) == expected(registry, wanted)


@pytest.mark.parametrize("match", Match)
def test_federated_trust_domains_are_compared_in_four_ways(datastore, registry, match):
    for members in (DOMAINS[:1], DOMAINS[:2], DOMAINS, (UNKNOWN,), (DOMAINS[0], UNKNOWN)):
        wanted = EntryFilter(federates_with=SetMatch(frozenset(members), match))
        assert list(datastore.entries.list(wanted).items) == expected(registry, wanted)


def test_no_filter_is_set_by_an_empty_hint_or_by_downstream_false(datastore, registry):
    wanted = EntryFilter(hint="", downstream=False)
    assert list(datastore.entries.list(wanted).items) == registry
    assert datastore.entries.count() == len(registry)


def test_an_empty_set_is_no_filter_but_an_error():
    with pytest.raises(InvalidInput, match="malformed selectors filter: empty selector set"):
        EntryFilter(selectors=SetMatch(frozenset(), Match.ANY))
    with pytest.raises(InvalidInput, match="malformed federates with filter: empty trust domain set"):
        EntryFilter(federates_with=SetMatch(frozenset(), Match.ANY))


def test_pages_join_up_to_the_whole_list_and_the_last_page_is_empty(datastore, registry):
    for wanted in (EntryFilter(), EntryFilter(selectors=SetMatch(frozenset(SELECTORS[:3]), Match.SUBSET))):
        matching = expected(registry, wanted)
        for page_size in (1, 7, len(matching), 1000):
            pages = pages_of(datastore.entries, wanted, page_size)
            assert [one for page in pages for one in page] == matching
            assert pages[-1] == ()
            assert all(len(page) == page_size for page in pages[:-2])


def test_without_a_page_size_everything_comes_and_no_token(datastore, registry):
    page = datastore.entries.list(page_token="junk")
    assert list(page.items) == registry
    assert page.next_token == ""


@pytest.mark.parametrize(
    "token", ["x", "-1", "+1", " 1", "1.0", "0x1", "\u0661", "1_0", "18446744073709551616", "9" * 30]
)
def test_a_token_that_is_none_is_refused_by_name(datastore, token):
    with pytest.raises(InvalidInput, match="could not parse token '") as caught:
        datastore.entries.list(page_size=1, page_token=token)
    assert str(caught.value) == f"could not parse token '{token}'"


def test_a_token_behind_every_row_finds_an_empty_page(datastore, registry):
    page = datastore.entries.list(page_size=5, page_token="18446744073709551615")
    assert (page.items, page.next_token) == ((), "")
    assert registry


def test_a_row_that_was_deleted_does_not_disturb_the_pages_after_it(datastore, registry):
    page = datastore.entries.list(page_size=10)
    datastore.entries.delete_batch([page.items[-1].id])
    after = datastore.entries.list(page_size=1000, page_token=page.next_token)
    assert list(after.items) == registry[10:]


@pytest.mark.parametrize("match", list(Match))
def test_the_largest_set_that_may_be_asked_for_is_answered(datastore, match):
    datastore.entries.create_batch([entry("/one", "/p", "a:1")])
    many = frozenset(Selector("a", str(number)) for number in range(MAX_MEMBERS))
    found = datastore.entries.list(EntryFilter(selectors=SetMatch(many, match))).items
    assert len(found) == (match in {Match.SUBSET, Match.ANY})


def test_a_larger_set_is_refused_with_the_limit():
    with pytest.raises(InvalidInput, match="a filter names 10001 members; 10000 are the most"):
        SetMatch(frozenset(range(MAX_MEMBERS + 1)), Match.ANY)
