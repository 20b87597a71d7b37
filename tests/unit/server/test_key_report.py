"""Journal against key manager: which keys are missing, orphans or others than they should be."""

from contextlib import closing
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hsm_ca.journal import AuthorityId, AuthorityRecord, State, Use
from hsm_ca.keyring import encoded
from keymanagers.base import Attempt, Examination, KeyId, KeyType, Outcome
from keymanagers.memory import MemoryKeyManager
from server.key_report import compare
from tests.support.certificates import ca

A, B = KeyId("a"), KeyId("b")


@pytest.fixture
def manager():
    with closing(MemoryKeyManager()) as manager:
        yield manager


def record(key_id: KeyId, state: State = State.ACTIVE, public: bytes = b"", **more) -> AuthorityRecord:
    return AuthorityRecord(
        key_id=key_id,
        use=Use.X509,
        key_type=KeyType.EC_P256,
        state=state,
        reserved_at=1_700_000_000,
        public_key=public,
        authority_id=AuthorityId("6a"),
        **more,
    )


def test_a_key_that_is_journalled_and_shown_is_as_it_should_be(manager):
    key = manager.generate(A, KeyType.EC_P256)
    [report] = compare([record(A, public=encoded(key.public))], manager.keys())
    assert (report.state, report.missing, report.problems) == ("active", False, ())
    assert report.public_key == encoded(key.public)


@pytest.mark.parametrize("state", [State.CREATED, State.PREPARED, State.ACTIVE])
def test_a_key_that_its_authority_cannot_do_without_is_missing_and_a_problem(state):
    public = encoded(ec.generate_private_key(ec.SECP256R1()).public_key())
    [report] = compare([record(A, state, public)], [])
    assert (report.state, report.missing, report.public_key) == (state.value, True, public)
    assert report.problems == (
        f"the key manager does not show it, and its authority, which is {state}, cannot do without it",
    )


@pytest.mark.parametrize("state", [State.OLD, State.REVOKED])
def test_a_key_that_signs_no_more_may_be_missing(state):
    [report] = compare([record(A, state)], [])
    assert (report.missing, report.problems) == (True, ())


def test_a_key_that_is_still_to_be_made_is_not_missing():
    [report] = compare([record(A, State.RESERVED)], [])
    assert (report.state, report.missing, report.public_key, report.problems) == ("reserved", False, b"", ())


def test_a_key_that_was_made_and_not_recorded_yet_is_no_orphan(manager):
    manager.generate(A, KeyType.EC_P256)
    [report] = compare([record(A, State.RESERVED)], manager.keys())
    assert (report.state, report.problems) == ("reserved", ())


def test_a_key_that_the_journal_does_not_name_is_an_orphan_and_comes_last(manager):
    key = manager.generate(A, KeyType.RSA_2048)
    first, second = compare([record(B, State.REVOKED)], manager.keys())
    assert (first.key_id, second.key_id, second.key_type) == (B, A, key.type)
    assert (second.state, second.missing, second.record) == ("orphan", False, None)
    assert second.problems == (
        "the journal does not name it, and it signs nothing: find out who made it; no server destroys it",
    )


def test_another_key_in_the_place_of_one_is_a_problem(manager):
    manager.generate(A, KeyType.EC_P256)
    other = encoded(ec.generate_private_key(ec.SECP256R1()).public_key())
    [report] = compare([record(A, public=other)], manager.keys())
    assert report.problems == ("the key manager shows another key in its place: the journal knows another public key",)


def test_the_serial_number_is_that_of_the_authoritys_certificate():
    made = ca()
    [report] = compare([record(A, State.REVOKED, chain=(made.der,))], [])
    assert report.serial_number == made.certificate.serial_number
    [report] = compare([record(A, State.REVOKED)], [])
    assert report.serial_number is None


def test_what_a_device_does_with_a_key_is_a_problem_under_the_devices_name(manager):
    manager.generate(A, KeyType.EC_P256)
    [report] = compare([record(A, public=encoded(manager.keys()[0].public))], manager.keys())
    attempts = (
        Attempt("C_WrapKey", Outcome.GAVE_WAY, "it gave 8 bytes"),
        Attempt("C_CopyObject", Outcome.UNCLEAR, "0x80000001"),
        Attempt("reading", Outcome.REFUSED, "CKR_ATTRIBUTE_SENSITIVE"),
        Attempt("another", Outcome.IMPOSSIBLE, "CKR_MECHANISM_INVALID"),
    )
    seen = Examination(device="east", serial="1", attempts=attempts, wanting=("CKA_LOCAL is false",))
    assert replace(report, examinations=(seen,), troubles=("it did not sign",)).problems == (
        "it did not sign",
        "east: CKA_LOCAL is false",
        "east: C_WrapKey gave way: it gave 8 bytes",
        "east: C_CopyObject unclear: 0x80000001",
    )
