"""Making a key in a token, and destroying it.

A private key is SENSITIVE and not EXTRACTABLE, and it signs: it neither decrypts nor unwraps nor derives.  Where
the module lets itself be told, it can be neither changed nor copied.  What was asked for is read back: a token that
made a key which it would give away loses it again.
"""

from collections.abc import Mapping
from typing import Final

from pkcs11 import Attribute, Mechanism, ObjectClass

from keymanagers.base import KeyId, KeyType
from keymanagers.pkcs11.cryptoki import MechanismCall, Template
from keymanagers.pkcs11.faults import CryptokiError, NotRepeatable
from keymanagers.pkcs11.objects import EC_PARAMS, StoredKey, find, free_id, handles_of, label_of, read_public
from keymanagers.pkcs11.returns import REFUSED_TEMPLATE
from keymanagers.pkcs11.sessions import Session
from spiffe_core.bundle import PublicKey
from spiffe_core.errors import AlreadyExists, FailedPrecondition, Unsupported

_EC: Final = MechanismCall(Mechanism.EC_KEY_PAIR_GEN)
_RSA: Final = MechanismCall(Mechanism.RSA_PKCS_KEY_PAIR_GEN)
_PUBLIC_EXPONENT: Final = bytes.fromhex("010001")

_CUSTODY: Final[Mapping[Attribute, bool]] = {
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}
"""What must be so, and is read back."""
_PRIVATE: Final[Template] = {
    **_CUSTODY,
    Attribute.SIGN: True,
    Attribute.SIGN_RECOVER: False,
    Attribute.DECRYPT: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
    Attribute.MODIFIABLE: False,
    Attribute.COPYABLE: False,
}
_LEFT_OUT: Final[tuple[frozenset[Attribute], ...]] = (
    frozenset(),
    frozenset({Attribute.COPYABLE}),
    frozenset({Attribute.COPYABLE, Attribute.MODIFIABLE}),
)
"""What is left out of ``_PRIVATE`` in one attempt after the other, for modules that know less."""


def create(session: Session, group: str, key_id: KeyId, key_type: KeyType) -> StoredKey:
    """Make a key pair.

    Raises:
        AlreadyExists: if there is an object of that id, even what is left of a key.
        Unsupported: if the token knows no such keys, or has no name for it.
        FailedPrecondition: if the token made a key that it would give away; it is destroyed.
        TokenFault: of any kind.
    """
    label = label_of(group, key_id)
    profile = session.profile
    if len(label.encode()) > profile.label_bytes:
        raise Unsupported(
            f'key "{key_id}" of group "{group}" cannot be named in the token, whose labels have {profile.label_bytes} '
            "bytes at most: choose a shorter authority_group"
        )
    if key_type not in profile.key_types:
        known = ", ".join(sorted(profile.key_types))
        raise Unsupported(f'tokens of kind "{profile.name}" sign with keys of type {known} only, not {key_type}')
    session.check_sight()
    if handles_of(session, label):
        raise AlreadyExists(f'key "{key_id}" of group "{group}" exists already in the token; it was not overwritten')
    cka_id = free_id(session, label)
    if cka_id is None:
        raise Unsupported(f'key "{key_id}" of group "{group}" cannot be made: other keys have all its CKA_IDs')
    names: Mapping[Attribute, str | bytes] = {Attribute.LABEL: label, Attribute.ID: cka_id}
    try:
        public, private = _generate(
            session, _mechanism(key_type), _said({**_public(key_type), **names}, profile.public_left_out), names
        )
        try:
            made = _check(session, cka_id, public, private)
        except (AlreadyExists, FailedPrecondition):
            session.cryptoki.destroy(session.handle, private)
            session.cryptoki.destroy(session.handle, public)
            raise
    except CryptokiError as fault:  # there may be a key now, or half of one
        raise NotRepeatable(fault) from fault
    return StoredKey(key_id, cka_id, made)


def destroy(session: Session, group: str, key_id: KeyId) -> bool:
    """Destroy every object of the key; whether there was any."""
    session.check_sight()
    handles = handles_of(session, label_of(group, key_id))
    for handle in handles:
        session.cryptoki.destroy(session.handle, handle)
    return bool(handles)


def _mechanism(key_type: KeyType) -> MechanismCall:
    return _EC if key_type in EC_PARAMS else _RSA


def _public(key_type: KeyType) -> Template:
    common: Template = {Attribute.TOKEN: True, Attribute.PRIVATE: False, Attribute.VERIFY: True}
    if key_type in EC_PARAMS:
        return {**common, Attribute.EC_PARAMS: EC_PARAMS[key_type]}
    return {
        **common,
        Attribute.ENCRYPT: False,
        Attribute.WRAP: False,
        Attribute.MODULUS_BITS: key_type.bits,
        Attribute.PUBLIC_EXPONENT: _PUBLIC_EXPONENT,
    }


def _generate(
    session: Session, mechanism: MechanismCall, public: Template, names: Mapping[Attribute, str | bytes]
) -> tuple[int, int]:
    """C_GenerateKeyPair with the strictest template that the module takes."""
    template = _said({**_PRIVATE, **names}, session.profile.private_left_out)
    *strict, last = (_said(template, left_out) for left_out in _LEFT_OUT)
    for private in strict:
        try:
            return session.cryptoki.generate_key_pair(session.handle, mechanism, public, private)
        except CryptokiError as exc:
            if exc.rv not in REFUSED_TEMPLATE:
                raise
    return session.cryptoki.generate_key_pair(session.handle, mechanism, public, last)


def _said(template: Template, left_out: frozenset[Attribute]) -> Template:
    return {kind: value for kind, value in template.items() if kind not in left_out}


def _check(session: Session, cka_id: bytes, public: int, private: int) -> PublicKey:
    """The public half of a new key, if the key is what was asked for and the only one of its id."""
    said = session.cryptoki.attributes(session.handle, private, tuple(_CUSTODY))
    for kind, wanted in _CUSTODY.items():
        if said.get(kind) is None and kind in session.profile.unsaid:
            continue
        if said.get(kind) != bytes((wanted,)):
            raise FailedPrecondition(
                f"the token made a key whose CKA_{kind.name} is not {str(wanted).lower()}; the key was destroyed: "
                "this token cannot keep keys"
            )
    if len(find(session, ObjectClass.PRIVATE_KEY, cka_id)) > 1:
        raise AlreadyExists("another server made a key of the same id at the same moment; ours was destroyed")
    made = read_public(session, public)
    if made is None:
        raise FailedPrecondition("the token does not show the public half of the key that it made; it was destroyed")
    return made
