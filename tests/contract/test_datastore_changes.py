"""The change feed in every kind of database: each change is told once it is there, in whatever order it came."""

from contextlib import ExitStack
from dataclasses import replace
from random import Random

import pytest
import sqlalchemy as sa

from hsm_ca.journal import AuthorityRecord, State, Use
from keymanagers.base import KeyType
from server.datastore.bundles import DeleteMode
from server.datastore.changes import GAP_SECONDS, Changes, Cursor
from server.datastore.database import MAX_NAMED, Write
from server.datastore.tables import CHANGES
from spiffe_core.agents import JoinToken
from spiffe_core.bundle import Bundle
from tests.support.registry import OTHER_TD, TD, agent, entry, jwt_authority, spiffe_id

pytest_plugins = ["tests.support.database_fixtures"]

CONCURRENT = pytest.mark.parametrize(
    "kind",
    [
        pytest.param("postgres", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
    indirect=True,
)
"""Databases with more than one writing transaction at a time."""


@pytest.fixture
def feed(datastore):
    """Tells what changed since it was last asked."""
    return Reader(datastore)


class Reader:
    def __init__(self, datastore):
        self.feed = datastore.changes
        self.cursor = self.feed.start()

    def __call__(self):
        changes = self.feed.changes_since(self.cursor)
        self.cursor = changes.cursor
        return changes


def rows(datastore):
    with datastore._database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(CHANGES)).scalar_one()


class OpenWrite:
    """A writing transaction that took its number in the feed and is not committed."""

    def __init__(self, datastore, stack, *entry_ids):
        self.connection = stack.enter_context(datastore._database._begun())
        write = Write(self.connection, 0)
        write.changed_entries(entry_ids)
        write.append_change()

    def commit(self):
        self.connection.commit()

    def roll_back(self):
        self.connection.rollback()


def test_nothing_is_told_of_before_the_reader_began(datastore, feed):
    assert not feed()
    datastore.entries.create_batch([entry()])
    reader = Reader(datastore)
    assert not reader()
    assert feed()


def test_every_kind_of_change_is_told_once_by_one_row(datastore, other, feed):
    lease = other.lease("g").take("s", None)
    record = AuthorityRecord(key_id="k", use=Use.X509, key_type=KeyType.EC_P256, state=State.RESERVED, reserved_at=1)
    one = agent()
    made = []

    def told(act, **expected):
        before = rows(datastore)
        act()
        assert rows(datastore) == before + 1
        changes = feed()
        assert changes == Changes(cursor=changes.cursor, **{k: frozenset(v) for k, v in expected.items()})
        assert not feed()

    told(lambda: made.extend(other.entries.create_batch([entry("/a", id="a"), entry("/b", id="b")])), entries="ab")
    told(lambda: other.entries.update_batch([(made[0].entry, ["hint"]), (entry(id="?"), None)]), entries="a")
    told(lambda: other.entries.delete_batch(["b", "?"]), entries="b")
    told(lambda: other.bundles.create(Bundle(OTHER_TD)), bundles=[OTHER_TD])
    told(lambda: other.bundles.append(TD, [], [jwt_authority("x")]), bundles=[TD])
    federated = replace(made[0].entry, federates_with=(OTHER_TD,), expires_at=5)
    told(lambda: other.entries.update_batch([(federated, None)]), entries="a")
    told(lambda: other.bundles.delete(OTHER_TD, DeleteMode.DISSOCIATE), entries="a", bundles=[OTHER_TD])
    told(lambda: other.entries.prune(9), entries="a")
    told(lambda: other.agents.create_or_replace(one), agents=[one.id])
    told(lambda: other.agents.set_new_serial(one.id, "2", 3, beside=one.cert_serial), agents=[one.id])
    told(lambda: other.agents.promote(one.id, "2"), agents=[one.id])
    told(lambda: other.agents.ban(one.id), agents=[one.id])
    told(lambda: other.agents.delete(one.id), agents=[one.id])
    told(lambda: other.journal("g").write(lease.epoch, record), journal=["g"])
    told(lambda: other.journal("g").forget(lease.epoch, "k"), journal=["g"])


def test_a_join_tokens_agent_and_its_alias_are_told_together(datastore, other, feed):
    one = agent("join_token/t", attestation_type="join_token")
    other.agents.create_or_replace(one)
    other.entries.create_batch([entry("/alias", one.id.path, f"spiffe_id:{one.id}", id="alias")])
    feed()
    other.agents.delete(one.id)
    changes = feed()
    assert (changes.agents, changes.entries) == ({one.id}, {"alias"})


def test_what_changes_nothing_is_not_told(datastore, other, feed):
    other.bundles.append(TD, [], [jwt_authority("x")])
    made = other.entries.create_batch([entry(id="a")])[0].entry
    feed()
    before = rows(datastore)
    other.bundles.append(TD, [], [jwt_authority("x")])
    other.bundles.prune(TD, 1)
    other.entries.create_batch([made])
    other.entries.update_batch([(entry(id="unknown"), None)])
    other.entries.delete_batch(["unknown"])
    other.entries.prune(1)
    other.agents.prune(1)
    other.agents.promote(spiffe_id("/spire/agent/unknown"), "1")
    other.join_tokens.create(JoinToken("secret", 1))
    other.join_tokens.take("secret")
    other.lease("g").take("s", None)
    assert rows(datastore) == before
    assert not feed()


def test_changes_of_many_transactions_come_together(datastore, other, feed):
    for number in range(30):
        other.entries.create_batch([entry(f"/w{number}", id=f"e{number}")])
    assert feed().entries == {f"e{number}" for number in range(30)}


def test_a_reader_that_is_thousands_of_rows_behind_catches_up_at_once(datastore, feed):
    with datastore._database.write_connection() as connection:
        values = [{"at": 0, "what": f'{{"entries":["e{number}"]}}'} for number in range(2500)]
        connection.execute(sa.insert(CHANGES), values)
    assert len(feed().entries) == 2500
    assert not feed()


def test_a_change_of_too_many_asks_for_everything_to_be_read_again(datastore, feed):
    datastore._database.write(lambda write: write.changed_entries(f"e{n}" for n in range(MAX_NAMED + 1)))
    changes = feed()
    assert changes == Changes(cursor=changes.cursor, reload_needed=True)
    assert not feed()
    datastore._database.write(lambda write: write.changed_entries(f"e{n}" for n in range(MAX_NAMED)))
    assert len(feed().entries) == MAX_NAMED


def test_a_reader_that_fell_behind_what_was_pruned_reads_everything_again(datastore, clock, feed):
    late = Reader(datastore)
    datastore.entries.create_batch([entry("/a")])
    datastore.entries.create_batch([entry("/b")])
    feed()
    clock.advance(100)
    datastore.changes.prune(datastore._database.now())
    assert not feed()
    assert late().reload_needed
    assert not late()
    datastore.entries.create_batch([entry("/c", id="c")])
    assert late().entries == feed().entries == {"c"}


def test_pruning_keeps_what_is_young(datastore, clock, feed):
    datastore.entries.create_batch([entry("/a", id="a")])
    clock.advance(100)
    datastore.entries.create_batch([entry("/b", id="b")])
    datastore.changes.prune(datastore._database.now() - 100)
    assert feed().entries == {"a", "b"}


def test_a_database_that_went_back_in_time_is_read_again(datastore):
    future = Cursor(datastore.changes.start().position + 1000)
    changes = datastore.changes.changes_since(future)
    assert changes.reload_needed
    assert not datastore.changes.changes_since(changes.cursor)


@CONCURRENT
def test_a_change_that_becomes_visible_late_is_told(datastore, other, feed):
    with ExitStack() as stack:
        early = OpenWrite(other, stack, "early")
        other.entries.create_batch([entry(id="later")])
        changes = feed()
        assert changes.entries == {"later"}
        assert len(changes.cursor.gaps) == 1
        assert not feed()
        early.commit()
        changes = feed()
        assert changes.entries == {"early"}
        assert changes.cursor.gaps == ()
        assert not feed()


@CONCURRENT
def test_a_change_that_was_open_when_the_reader_began_is_told(datastore, other):
    with ExitStack() as stack:
        early = OpenWrite(other, stack, "early")
        other.entries.create_batch([entry(id="later")])
        reader = Reader(datastore)
        assert not reader()
        early.commit()
        assert reader().entries == {"early"}


@CONCURRENT
def test_a_change_that_was_rolled_back_is_looked_for_until_it_cannot_come(datastore, other, clock, feed):
    with ExitStack() as stack:
        OpenWrite(other, stack, "never").roll_back()
        other.entries.create_batch([entry(id="later")])
        assert feed().entries == {"later"}
        clock.advance(GAP_SECONDS - 1)
        assert len(feed().cursor.gaps) == 1
        clock.advance(1)
        assert feed().cursor.gaps == ()


@CONCURRENT
def test_changes_that_are_committed_in_any_order_are_all_told_once(datastore, other, feed):
    random = Random(5)
    for round_ in range(4):
        with ExitStack() as stack:
            names = [f"{round_}-{number}" for number in range(6)]
            opened = [OpenWrite(other, stack, name) for name in names]
            random.shuffle(opened)
            told = []
            for number, write in enumerate(opened):
                write.roll_back() if number == 3 else write.commit()
                if random.random() < 0.6:
                    told += feed().entries
            told += feed().entries
        assert len(told) == len(set(told)) == 5


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_file_that_nobody_wrote_to_is_not_read(datastore, other, feed):
    other.entries.create_batch([entry("/a", id="a")])
    statements = []
    sa.event.listen(
        datastore._database._engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2])
    )
    assert feed().entries == {"a"}
    assert statements
    del statements[:]
    assert not feed()
    assert not feed()
    assert statements == []
    other.entries.create_batch([entry("/b", id="b")])
    assert feed().entries == {"b"}
    datastore.entries.create_batch([entry("/c", id="c")])
    assert feed().entries == {"c"}


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_another_cursor_is_not_taken_for_the_one_that_was_up_to_date(datastore, feed):
    behind = feed.cursor
    datastore.entries.create_batch([entry("/a", id="a")])
    assert feed()
    assert not feed()
    assert datastore.changes.changes_since(behind).entries == {"a"}
    assert not feed()
