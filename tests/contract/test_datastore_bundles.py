"""Bundles in every kind of database: what is stored comes back, and nothing that is published at once is lost."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings

from server.datastore.bundles import DeleteMode
from spiffe_core.bundle import Bundle
from spiffe_core.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound
from spiffe_core.ids import TrustDomain
from tests.support import strategies
from tests.support.certificates import HOUR, NOW, Shape
from tests.support.registry import OTHER_TD, TD, entry, jwt_authority, key_id_of, x509_authority

pytest_plugins = ["tests.support.database_fixtures"]


def expiring(seconds):
    """A CA certificate that expires that many seconds after the clock's time."""
    return x509_authority(Shape(validity=(NOW - HOUR, NOW + timedelta(seconds=seconds))))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bundle=strategies.bundles())
def test_a_bundle_comes_back_as_it_was_stored(datastore, bundle):
    datastore.bundles.set(bundle)
    assert datastore.bundles.get(bundle.trust_domain) == bundle


def test_a_sequence_number_may_be_as_large_as_the_wire_allows(datastore):
    bundle = Bundle(OTHER_TD, sequence_number=2**64 - 1, refresh_hint=2**63 - 1)
    assert datastore.bundles.create(bundle) == datastore.bundles.get(OTHER_TD) == bundle


def test_there_is_no_bundle_of_an_unknown_trust_domain(datastore):
    assert datastore.bundles.get(TD) is None


def test_a_bundle_is_created_once(datastore):
    first = datastore.bundles.create(Bundle(OTHER_TD, (x509_authority(),)))
    with pytest.raises(AlreadyExists, match="bundle already exists"):
        datastore.bundles.create(Bundle(OTHER_TD))
    assert datastore.bundles.get(OTHER_TD) == first


def test_an_update_changes_the_named_fields_and_no_others(datastore):
    old = datastore.bundles.create(Bundle(OTHER_TD, (x509_authority(),), (jwt_authority("a"),), 30, 5))
    new = Bundle(OTHER_TD, (x509_authority(),), (jwt_authority("b"),), 60, 9)
    assert datastore.bundles.update(new, ["refresh_hint"]) == replace(old, refresh_hint=60)
    assert datastore.bundles.update(new, ["x509_authorities", "sequence_number"]) == replace(
        new, jwt_authorities=old.jwt_authorities
    )
    assert datastore.bundles.update(new) == datastore.bundles.get(OTHER_TD) == new


def test_an_unknown_bundle_cannot_be_updated(datastore):
    with pytest.raises(NotFound, match="bundle not found"):
        datastore.bundles.update(Bundle(OTHER_TD))


def test_set_makes_or_replaces_a_bundle(datastore):
    for bundle in (Bundle(OTHER_TD, (x509_authority(),), sequence_number=3), Bundle(OTHER_TD, sequence_number=1)):
        assert datastore.bundles.set(bundle) == datastore.bundles.get(OTHER_TD) == bundle


def test_appending_counts_changes_from_the_making_of_the_bundle(datastore):
    first, second = x509_authority(), x509_authority()
    assert datastore.bundles.append(TD, [first]) == Bundle(TD, (first,))
    assert datastore.bundles.append(TD, [first, second]) == Bundle(TD, (first, second), sequence_number=1)
    assert datastore.bundles.append(TD, [second], [jwt_authority("a")]).sequence_number == 2
    assert datastore.bundles.append(TD, [second], [jwt_authority("a")]).sequence_number == 2
    assert datastore.bundles.get(TD) == Bundle(TD, (first, second), (jwt_authority("a"),), sequence_number=2)


def test_servers_that_append_at_once_lose_nothing(datastore, other):
    def append(number):
        return (datastore if number % 2 else other).bundles.append(TD, [], [jwt_authority(f"key-{number}")])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(append, range(32)))
    bundle = other.bundles.get(TD)
    assert {a.id for a in bundle.jwt_authorities} == {f"key-{number}" for number in range(32)}
    assert bundle.sequence_number == 31


def test_our_own_bundle_is_published_to_and_pruned(datastore):
    now = int(NOW.timestamp())
    own = datastore.bundles.own(TD)
    assert own.publish([expiring(-10), expiring(10)], [jwt_authority("a")]) == datastore.bundles.get(TD)
    assert own.prune(now) is True
    assert own.prune(now) is False
    assert len(datastore.bundles.get(TD).x509_authorities) == 1


def test_pruning_takes_out_what_has_expired_and_counts_it_as_one_change(datastore):
    now = int(NOW.timestamp())
    dead, alive = expiring(-10), expiring(10)
    old, young = jwt_authority("old", expires_at=now - 1), jwt_authority("young", expires_at=now + 1)
    datastore.bundles.append(TD, [dead, alive], [old, young])
    assert datastore.bundles.prune(TD, now)
    assert datastore.bundles.get(TD) == Bundle(TD, (alive,), (young,), sequence_number=1)
    assert not datastore.bundles.prune(TD, now)
    assert not datastore.bundles.prune(OTHER_TD, now)


def test_an_x509_authority_is_tainted_once_and_revoked_once_tainted(datastore):
    kept, bad = x509_authority(), x509_authority()
    datastore.bundles.append(TD, [kept, bad])
    with pytest.raises(InvalidInput, match="it is not possible to revoke an untainted root CA"):
        datastore.bundles.revoke_x509(TD, key_id_of(bad))
    tainted = datastore.bundles.taint_x509(TD, key_id_of(bad))
    assert tainted == Bundle(TD, (kept, replace(bad, tainted=True)), sequence_number=1) == datastore.bundles.get(TD)
    with pytest.raises(InvalidInput, match="root CA is already tainted"):
        datastore.bundles.taint_x509(TD, key_id_of(bad))
    assert datastore.bundles.revoke_x509(TD, key_id_of(bad)) == Bundle(TD, (kept,), sequence_number=2)
    with pytest.raises(NotFound, match="no root CA found with provided subject key ID"):
        datastore.bundles.revoke_x509(TD, key_id_of(bad))
    with pytest.raises(NotFound, match="no ca found with provided subject key ID"):
        datastore.bundles.taint_x509(TD, key_id_of(bad))


def test_a_jwt_authority_is_tainted_once_and_revoked_once_tainted(datastore):
    datastore.bundles.append(TD, [], [jwt_authority("kept"), jwt_authority("bad")])
    with pytest.raises(InvalidInput, match="it is not possible to revoke an untainted key"):
        datastore.bundles.revoke_jwt(TD, "bad")
    assert datastore.bundles.taint_jwt(TD, "bad").jwt_authority("bad").tainted
    with pytest.raises(InvalidInput, match="key is already tainted"):
        datastore.bundles.taint_jwt(TD, "bad")
    assert datastore.bundles.revoke_jwt(TD, "bad") == Bundle(TD, (), (jwt_authority("kept"),), sequence_number=2)
    for change in (datastore.bundles.taint_jwt, datastore.bundles.revoke_jwt):
        with pytest.raises(NotFound, match="no JWT Key found with provided key ID"):
            change(TD, "bad")


def test_nothing_is_tainted_or_revoked_without_a_bundle(datastore):
    bundles = datastore.bundles
    for change in (bundles.taint_x509, bundles.revoke_x509, bundles.taint_jwt, bundles.revoke_jwt):
        with pytest.raises(NotFound, match="bundle not found"):
            change(TD, "any")


@pytest.fixture
def federated(datastore):
    """Two entries that federate with the other trust domain, one of them with a third one too."""
    third = TrustDomain("third.test")
    datastore.bundles.create(Bundle(OTHER_TD))
    datastore.bundles.create(Bundle(third))
    made = datastore.entries.create_batch(
        [
            entry("/a", federates_with=(OTHER_TD,)),
            entry("/b", federates_with=(third, OTHER_TD)),
            entry("/c", federates_with=(third,)),
        ]
    )
    return [outcome.entry for outcome in made]


def test_a_bundle_that_entries_federate_with_is_not_deleted_unless_it_is_said_how(datastore, federated):
    with pytest.raises(FailedPrecondition, match="cannot delete bundle; federated with 2 registration entries"):
        datastore.bundles.delete(OTHER_TD)
    assert datastore.bundles.get(OTHER_TD)
    assert datastore.entries.list().items == tuple(federated)


def test_a_bundle_is_deleted_with_its_entries(datastore, federated):
    datastore.bundles.delete(OTHER_TD, DeleteMode.DELETE)
    assert datastore.bundles.get(OTHER_TD) is None
    assert datastore.entries.list().items == (federated[2],)


def test_a_bundle_is_deleted_from_under_its_entries_which_get_a_new_revision(datastore, federated):
    datastore.bundles.delete(OTHER_TD, DeleteMode.DISSOCIATE)
    a, b, c = datastore.entries.list().items
    assert (a.federates_with, a.revision_number) == ((), 1)
    assert (b.federates_with, b.revision_number) == ((TrustDomain("third.test"),), 1)
    assert c == federated[2]
    datastore.bundles.delete(TrustDomain("third.test"), DeleteMode.DISSOCIATE)
    assert all(not one.federates_with for one in datastore.entries.list().items)


def test_an_unknown_bundle_cannot_be_deleted(datastore):
    with pytest.raises(NotFound, match="bundle not found"):
        datastore.bundles.delete(OTHER_TD)


def test_bundles_are_listed_page_by_page_and_the_last_page_is_empty(datastore):
    made = [datastore.bundles.create(Bundle(TrustDomain(f"td{number}"))) for number in range(5)]
    assert datastore.bundles.count() == 5
    assert datastore.bundles.list().items == tuple(made)
    assert datastore.bundles.list().next_token == ""
    pages, token = [], ""
    while True:
        page = datastore.bundles.list(page_size=2, page_token=token)
        pages.append(page.items)
        token = page.next_token
        if not token:
            break
    assert [len(items) for items in pages] == [2, 2, 1, 0]
    assert sum(pages, ()) == tuple(made)
