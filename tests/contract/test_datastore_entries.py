"""Entries in every kind of database: batches whose items stand alone, likeness, updates, deletion, expiry."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from hypothesis import HealthCheck, given, settings

from server.datastore.entries import EntryOutcome
from spiffe_core.bundle import Bundle
from spiffe_core.entries import unique_selectors
from spiffe_core.errors import AlreadyExists, Internal, InvalidEntry, InvalidSpiffeId, NotFound
from tests.support import strategies
from tests.support.clock import START
from tests.support.registry import OTHER_TD, TD, entry, selectors, spiffe_id

pytest_plugins = ["tests.support.database_fixtures"]

NOW = int(START.timestamp())


def create(datastore, *entries):
    """The entries as they were created; each must be."""
    outcomes = datastore.entries.create_batch(entries)
    assert [outcome.error for outcome in outcomes] == [None] * len(entries)
    return [outcome.entry for outcome in outcomes]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=strategies.entries())
def test_an_entry_comes_back_as_it_was_stored(datastore, wanted):
    datastore.entries.delete_batch([one.id for one in datastore.entries.list().items])  # of the last example
    for trust_domain in wanted.federates_with:
        datastore.bundles.set(Bundle(trust_domain))
    [made] = create(datastore, wanted)
    assert datastore.entries.get(made.id) == made
    assert made == replace(
        wanted,
        id=wanted.id or made.id,
        created_at=NOW,
        revision_number=0,
        selectors=unique_selectors(wanted.selectors),
        federates_with=tuple(dict.fromkeys(wanted.federates_with)),
    )


def test_a_new_entry_has_a_random_id_the_time_and_revision_zero(datastore, clock):
    clock.advance(7)
    [made] = create(datastore, entry(created_at=5, revision_number=9))
    assert uuid.UUID(made.id).version == 4
    assert (made.created_at, made.revision_number) == (NOW + 7, 0)


def test_an_entry_may_bring_its_own_id(datastore):
    [made] = create(datastore, entry(id="my.own-ID_1"))
    assert made.id == "my.own-ID_1"
    assert datastore.entries.get("my.own-ID_1") == made
    assert datastore.entries.get("MY.OWN-id_1") is None


def test_an_id_is_used_once(datastore):
    [first] = create(datastore, entry("/a", id="mine"))
    outcomes = datastore.entries.create_batch([entry("/b", id="mine"), entry("/c", id="new"), entry("/d", id="new")])
    assert [type(outcome.error) for outcome in outcomes] == [AlreadyExists, type(None), AlreadyExists]
    assert str(outcomes[0].error) == 'an entry with ID "mine" already exists'
    assert outcomes[0].entry is None
    assert datastore.entries.list().items == (first, outcomes[1].entry)


def test_a_similar_entry_is_refused_with_the_one_that_is_there(datastore):
    [first] = create(datastore, entry("/a", "/p", "unix:uid:1", "unix:gid:2", hint="first"))
    [outcome] = datastore.entries.create_batch([entry("/a", "/p", "unix:gid:2", "unix:uid:1", id="x", hint="second")])
    assert outcome.entry == first
    assert isinstance(outcome.error, AlreadyExists)
    assert str(outcome.error) == "similar entry already exists"


def test_similar_entries_in_one_batch_are_one_entry(datastore):
    twice = entry("/a", "/p", "unix:uid:1", "unix:uid:1")
    first, second = datastore.entries.create_batch([twice, entry("/a", "/p", "unix:uid:1")])
    assert first.error is None
    assert first.entry.selectors == selectors("unix:uid:1")
    assert second.entry == first.entry
    assert isinstance(second.error, AlreadyExists)
    assert datastore.entries.count() == 1


def test_entries_that_differ_in_one_part_are_not_similar(datastore):
    create(
        datastore,
        entry("/a", "/p", "unix:uid:1"),
        entry("/A", "/p", "unix:uid:1"),
        entry("/a", "/P", "unix:uid:1"),
        entry("/a", "/p", "unix:uid:1 "),
        entry("/a", "/p", "unix:UID:1"),
        entry("/a", "/p", "unix:uid:1", "unix:uid:2"),
    )
    assert datastore.entries.count() == 6


def test_a_federated_trust_domain_needs_a_bundle(datastore):
    datastore.bundles.create(Bundle(TD))
    bad, good = datastore.entries.create_batch(
        [entry("/a", federates_with=(TD, OTHER_TD)), entry("/b", federates_with=(TD,))]
    )
    assert isinstance(bad.error, Internal)
    assert str(bad.error) == 'unable to find federated bundle "spiffe://other.test"'
    assert good.error is None
    assert datastore.entries.list().items == (good.entry,)


def test_outcomes_come_in_the_order_of_the_batch(datastore):
    datastore.bundles.create(Bundle(TD))
    batch = [entry(f"/w{i}", federates_with=((TD,), (OTHER_TD,))[i % 2]) for i in range(600)]
    outcomes = datastore.entries.create_batch(batch)
    assert [outcome.error is None for outcome in outcomes] == [True, False] * 300
    assert [outcome.entry.spiffe_id for outcome in outcomes[::2]] == [one.spiffe_id for one in batch[::2]]
    assert datastore.entries.count() == 300


def test_servers_that_create_the_same_entries_at_once_agree_on_one_of_each(datastore, other):
    batch = [entry(f"/w{number}") for number in range(20)]
    stores = [datastore, other] * 3
    with ThreadPoolExecutor(6) as threads:
        outcomes = list(threads.map(lambda store: store.entries.create_batch(batch), stores))
    assert datastore.entries.count() == 20
    for ofone in zip(*outcomes, strict=True):
        assert len({outcome.entry.id for outcome in ofone}) == 1
        assert sorted(outcome.error is None for outcome in ofone) == [False] * 5 + [True]


def test_an_entry_and_its_federated_bundle_never_part(datastore, other):
    """One server deletes the bundle while another creates an entry that federates with it."""
    for round_ in range(10):
        datastore.bundles.create(Bundle(OTHER_TD))
        wanted = entry(f"/w{round_}", federates_with=(OTHER_TD,))

        def delete():
            try:
                datastore.bundles.delete(OTHER_TD)
            except Exception as exc:  # noqa: BLE001  which one is looked at below
                return exc
            return None

        with ThreadPoolExecutor(2) as threads:
            creation = threads.submit(other.entries.create_batch, [wanted])
            deletion = threads.submit(delete)
            [created], error = creation.result(), deletion.result()
        if error is None:
            assert str(created.error) == 'unable to find federated bundle "spiffe://other.test"'
        else:
            assert str(error) == "cannot delete bundle; federated with 1 registration entries"
            assert created.error is None
            datastore.entries.delete_batch([created.entry.id])
            datastore.bundles.delete(OTHER_TD)


def test_an_update_changes_the_named_fields_and_no_others(datastore):
    datastore.bundles.create(Bundle(OTHER_TD))
    [old] = create(datastore, entry("/a", "/p", "unix:uid:1", hint="old", x509_svid_ttl=60, dns_names=("a.test",)))
    new = entry(
        "/b",
        "/q",
        "k8s:ns:x",
        id=old.id,
        hint="new",
        x509_svid_ttl=99,
        jwt_svid_ttl=88,
        federates_with=(OTHER_TD,),
        dns_names=("b.test",),
        admin=True,
        downstream=True,
        disable_x509_svid_prefetch=True,
        jwt_svid_include_jti=True,
        expires_at=5,
    )
    [outcome] = datastore.entries.update_batch([(new, ["hint", "selectors"])])
    assert outcome.entry == replace(old, hint="new", selectors=new.selectors, revision_number=1)
    [outcome] = datastore.entries.update_batch([(new, None)])
    assert outcome.entry == replace(new, created_at=old.created_at, revision_number=2)
    assert datastore.entries.get(old.id) == outcome.entry


def test_an_update_that_changes_nothing_is_a_revision_too(datastore):
    [made] = create(datastore, entry())
    for fields in ([], None, ["hint"]):
        [outcome] = datastore.entries.update_batch([(made, fields)])
    assert outcome.entry == replace(made, revision_number=3)


def test_each_item_of_an_update_stands_alone(datastore):
    a, b = create(datastore, entry("/a"), entry("/b"))
    unknown = entry("/c", id="unknown")
    worse = replace(b, x509_svid_ttl=-1)
    outcomes = datastore.entries.update_batch([(replace(a, hint="x"), ["hint"]), (unknown, None), (worse, None)])
    assert outcomes[0] == EntryOutcome(replace(a, hint="x", revision_number=1))
    assert isinstance(outcomes[1].error, NotFound)
    assert str(outcomes[1].error) == "entry not found"
    assert isinstance(outcomes[2].error, InvalidEntry)
    assert datastore.entries.list().items == (outcomes[0].entry, b)


def test_what_comes_out_of_an_update_must_be_an_entry_that_may_be_registered(datastore):
    [stored] = create(datastore, entry("/a", "/p", "unix:uid:1", "docker:label:x"))
    for change, error, text in [
        ({"store_svid": True}, InvalidEntry, "selector types must be the same when store SVID is enabled"),
        ({"selectors": ()}, InvalidEntry, "selector list is empty"),
        ({"spiffe_id": spiffe_id("/spire/x")}, InvalidSpiffeId, "reserved namespace"),
        ({"hint": "x" * 1025}, InvalidEntry, "hint is too long"),
    ]:
        [outcome] = datastore.entries.update_batch([(replace(stored, **change), list(change))])
        assert isinstance(outcome.error, error)
        assert text in str(outcome.error)
    one_type = replace(stored, selectors=selectors("unix:uid:1"), store_svid=True)
    [outcome] = datastore.entries.update_batch([(one_type, ["selectors", "store_svid"])])
    assert outcome.error is None
    [outcome] = datastore.entries.update_batch([(stored, ["selectors"])])
    assert "selector types must be the same" in str(outcome.error)


def test_an_update_cannot_make_two_entries_similar(datastore):
    a, b = create(datastore, entry("/a"), entry("/b"))
    [outcome] = datastore.entries.update_batch([(replace(b, spiffe_id=a.spiffe_id), ["spiffe_id"])])
    assert isinstance(outcome.error, AlreadyExists)
    assert str(outcome.error) == "similar entry already exists"
    assert datastore.entries.list().items == (a, b)


def test_the_items_of_an_update_happen_one_after_the_other(datastore):
    a, b = create(datastore, entry("/a"), entry("/b"))
    updates = [
        (replace(a, spiffe_id=spiffe_id("/free")), ["spiffe_id"]),
        (replace(b, spiffe_id=spiffe_id("/a")), ["spiffe_id"]),
        (replace(a, spiffe_id=spiffe_id("/a")), ["spiffe_id"]),
        (replace(a, hint="again"), ["hint"]),
    ]
    outcomes = datastore.entries.update_batch(updates)
    assert [str(outcome.error or "") for outcome in outcomes] == ["", "", "similar entry already exists", ""]
    first, second = datastore.entries.list().items
    assert first == replace(a, spiffe_id=spiffe_id("/free"), hint="again", revision_number=2)
    assert second == replace(b, spiffe_id=spiffe_id("/a"), revision_number=1)


def test_an_updated_entry_cannot_federate_without_a_bundle(datastore):
    [made] = create(datastore, entry())
    [outcome] = datastore.entries.update_batch([(replace(made, federates_with=(OTHER_TD,)), ["federates_with"])])
    assert isinstance(outcome.error, Internal)
    assert datastore.entries.get(made.id) == made


def test_a_federated_entry_keeps_its_bundles_when_something_else_is_updated(datastore):
    datastore.bundles.create(Bundle(OTHER_TD))
    [made] = create(datastore, entry(federates_with=(OTHER_TD,)))
    [outcome] = datastore.entries.update_batch([(entry(id=made.id, hint="x"), ["hint"])])
    assert outcome.entry.federates_with == (OTHER_TD,)
    assert datastore.entries.get(made.id) == outcome.entry


def test_updates_of_one_entry_by_several_servers_all_count(datastore, other):
    [made] = create(datastore, entry())
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda store: store.entries.update_batch([(made, ["hint"])]), [datastore, other] * 6))
    assert datastore.entries.get(made.id).revision_number == 12


def test_deleted_entries_are_gone_and_unknown_ones_are_told(datastore):
    a, b = create(datastore, entry("/a"), entry("/b"))
    outcomes = datastore.entries.delete_batch([a.id, "unknown", a.id])
    assert outcomes[0] == EntryOutcome(a)
    assert [str(outcome.error) for outcome in outcomes[1:]] == ["entry not found"] * 2
    assert all(isinstance(outcome.error, NotFound) for outcome in outcomes[1:])
    assert datastore.entries.list().items == (b,)
    assert create(datastore, entry("/a"))


def test_empty_batches_do_nothing(datastore):
    assert datastore.entries.create_batch([]) == []
    assert datastore.entries.update_batch([]) == []
    assert datastore.entries.delete_batch([]) == []


def test_many_entries_are_fetched_at_once(datastore):
    made = create(datastore, *(entry(f"/w{number}") for number in range(1200)))
    found = datastore.entries.get_many([one.id for one in made] + ["unknown"])
    assert [found[one.id].entry for one in made] == made
    assert len(found) == 1200
    rows = [found[one.id].row_id for one in made]
    assert rows == sorted(set(rows))


def test_expired_entries_are_pruned_some_at_a_time(datastore):
    made = create(datastore, *(entry(f"/w{number}", expires_at=number) for number in range(6)))
    assert datastore.entries.prune(4, at_most=2) == tuple(made[1:3])
    assert datastore.entries.prune(4, at_most=2) == (made[3],)
    assert datastore.entries.prune(4) == ()
    assert datastore.entries.list().items == (made[0], *made[4:])
