"""The negative test on tokens as no real one should be: they oblige a thief, or seem to.

SoftHSM refuses all of it, so these are fakes: a dictionary of flags that may be changed, more or less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest
from pkcs11 import Attribute

from keymanagers.base import KeyType, Outcome
from keymanagers.pkcs11.cryptoki import Cryptoki, MechanismCall
from keymanagers.pkcs11.faults import CryptokiError
from keymanagers.pkcs11.negative import attempts
from keymanagers.pkcs11.profiles import GENERIC
from keymanagers.pkcs11.returns import Rv
from keymanagers.pkcs11.sessions import Session

KEY = 1
STRICT = {Attribute.EXTRACTABLE: False, Attribute.SENSITIVE: True}


@dataclass
class FakeToken:
    """A token with one private key, which does as it is told."""

    flags: dict[Attribute, bool] = field(default_factory=lambda: dict(STRICT))
    heeds: bool = True
    """Whether a change that it takes is made."""
    sets_back: bool = True
    quiet: bool = False
    gives: int = 0
    objects: dict[int, dict[Attribute, bool]] = field(default_factory=dict)
    changes: list[Mapping[Attribute, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.objects[KEY] = self.flags

    def signer(self, _session: int) -> None:
        """Nothing is signed here."""

    def session_info(self, _session: int) -> tuple[int, bool]:
        return 0, True

    def token_info(self, _slot: int) -> None:
        """It is there."""

    def reveal(self, _session: int, _handle: int, _attribute: Attribute) -> int:
        return self.gives

    def wrap(self, _session: int, _mechanism: MechanismCall, _key: int, _handle: int) -> int:
        raise CryptokiError("C_WrapKey", Rv.KEY_UNEXTRACTABLE)

    def generate_key(self, *_: object) -> int:
        return self._added({})

    def copy(self, _session: int, handle: int, changes: Mapping[Attribute, bool]) -> int:
        return self._added({**self.objects[handle], **(changes if self.heeds else {})})

    def destroy(self, _session: int, handle: int) -> None:
        del self.objects[handle]

    def attributes(self, _session: int, handle: int, wanted: Sequence[Attribute]) -> dict[Attribute, bytes]:
        return {} if self.quiet else {kind: bytes((self.objects[handle][kind],)) for kind in wanted}

    def set_attributes(self, _session: int, handle: int, changes: Mapping[Attribute, bool]) -> None:
        if not self.sets_back and self.changes and self.changes[-1].keys() == changes.keys():
            raise CryptokiError("C_SetAttributeValue", Rv.ATTRIBUTE_READ_ONLY)
        self.changes.append(changes)
        if self.heeds:
            self.objects[handle].update(changes)

    def _added(self, flags: dict[Attribute, bool]) -> int:
        handle = max(self.objects) + 1
        self.objects[handle] = flags
        return handle

    def tried(self) -> dict[str, tuple[Outcome, str]]:
        session = Session(cast("Cryptoki", self), 7, 0, profile=GENERIC, needs_login=True)
        return {one.way: (one.outcome, one.answer) for one in attempts(session, KEY, KeyType.EC_P256)}


COPIES = ("C_CopyObject(CKA_EXTRACTABLE = true)", "C_CopyObject(CKA_SENSITIVE = false)")
CHANGES = ("C_SetAttributeValue(CKA_EXTRACTABLE = true)", "C_SetAttributeValue(CKA_SENSITIVE = false)")


def test_a_token_that_obliges_is_found_out_and_what_it_did_is_undone():
    token = FakeToken()
    found = token.tried()
    for way in COPIES:
        assert found[way] == (Outcome.GAVE_WAY, "it made the copy, which was destroyed")
    for way in CHANGES:
        assert found[way] == (Outcome.GAVE_WAY, "it was done, and was set back")
    assert token.objects == {KEY: STRICT}


def test_a_token_that_keeps_quiet_about_its_flags_is_taken_to_have_obliged():
    token = FakeToken(quiet=True)
    found = token.tried()
    assert {found[way][0] for way in (*COPIES, *CHANGES)} == {Outcome.GAVE_WAY}
    assert token.objects == {KEY: STRICT}


def test_a_change_that_cannot_be_set_back_is_told():
    found = FakeToken(sets_back=False).tried()
    for way in CHANGES:
        outcome, answer = found[way]
        assert outcome is Outcome.GAVE_WAY
        assert answer == ("it was done and could not be set back: C_SetAttributeValue returned CKR_ATTRIBUTE_READ_ONLY")


def test_a_token_that_takes_a_call_and_does_nothing_has_refused():
    token = FakeToken(heeds=False)
    found = token.tried()
    assert {found[way] for way in COPIES} == {(Outcome.REFUSED, "the copy is as the key is")}
    assert {found[way] for way in CHANGES} == {(Outcome.REFUSED, "it changed nothing")}
    assert token.objects == {KEY: STRICT}


@pytest.mark.parametrize(
    ("gives", "told"), [(0, (Outcome.REFUSED, "it gave nothing")), (32, (Outcome.GAVE_WAY, "it gave 32 bytes"))]
)
def test_an_answer_without_a_value_is_none(gives, told):
    assert FakeToken(gives=gives).tried()["C_GetAttributeValue(CKA_VALUE)"] == told


def test_a_key_that_is_loose_already_is_not_touched():
    token = FakeToken(flags={Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False})
    found = token.tried()
    assert {found[way] for way in CHANGES} == {(Outcome.GAVE_WAY, "it is so already")}
    assert token.changes == []
