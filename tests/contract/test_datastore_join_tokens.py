"""Join tokens in every kind of database: each is used once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from server.datastore.tables import JOIN_TOKENS
from spiffe_core.agents import JoinToken
from spiffe_core.errors import AlreadyExists

pytest_plugins = ["tests.support.database_fixtures"]


def test_a_token_is_taken_once(datastore):
    datastore.join_tokens.create(JoinToken("secret", 1000))
    assert datastore.join_tokens.take("secret") == JoinToken("secret", 1000)
    assert datastore.join_tokens.take("secret") is None


def test_a_token_that_never_was_is_not_taken(datastore):
    datastore.join_tokens.create(JoinToken("secret", 1000))
    for other in ("SECRET", "secret ", "secre", ""):
        assert datastore.join_tokens.take(other) is None
    assert datastore.join_tokens.take("secret")


def test_a_token_is_created_once_until_it_is_used(datastore):
    datastore.join_tokens.create(JoinToken("secret", 1000))
    with pytest.raises(AlreadyExists, match="join token already exists"):
        datastore.join_tokens.create(JoinToken("secret", 2000))
    assert datastore.join_tokens.take("secret").expires_at == 1000
    datastore.join_tokens.create(JoinToken("secret", 3000))


def test_of_servers_that_race_for_a_token_one_gets_it(datastore, other):
    for round_ in range(8):
        value = f"secret-{round_}"
        datastore.join_tokens.create(JoinToken(value, 1000))
        with ThreadPoolExecutor(4) as threads:
            taken = list(threads.map(lambda store, v=value: store.join_tokens.take(v), [datastore, other] * 2))
        assert [token for token in taken if token] == [JoinToken(value, 1000)]


def test_expired_tokens_are_pruned_and_others_stay(datastore):
    for number in range(4):
        datastore.join_tokens.create(JoinToken(f"token-{number}", 1000 + number))
    assert datastore.join_tokens.prune(1002) == 2
    assert [bool(datastore.join_tokens.take(f"token-{number}")) for number in range(4)] == [False, False, True, True]


def test_a_token_itself_is_not_in_the_database(datastore):
    datastore.join_tokens.create(JoinToken("very-secret-token", 1000))
    with datastore._database.read() as connection:
        row = connection.execute(sa.select(JOIN_TOKENS)).one()
    assert b"very-secret" not in bytes(row.digest)
    assert len(row.digest) == 32


def test_a_token_may_be_long_and_of_any_text(datastore):
    value = "тoken-é" * 1000
    datastore.join_tokens.create(JoinToken(value, 1))
    assert datastore.join_tokens.take(value) == JoinToken(value, 1)
