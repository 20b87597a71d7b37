"""The negative test of a key in a token: whoever has the PIN tries to get at its value, by every way there is.

That a token says ``CKA_EXTRACTABLE`` is false is what it says of itself, and some have said so without heeding it.
So the value is asked for, the key is wrapped with a key that was made for that, copied and changed into one that lets
itself be read; each of it the token has to refuse, with a return value that means just that.

*Nothing is taken.*  What a token gives is wiped where it was written, and told as a number of bytes.  A copy is
destroyed, and an attribute that could be loosened is set back at once.  A key that is loose already is not changed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from pkcs11 import Attribute, Mechanism, ObjectClass
from pkcs11 import KeyType as CkKeyType

from keymanagers.base import Attempt, KeyType, Outcome
from keymanagers.pkcs11.cryptoki import MechanismCall, Template
from keymanagers.pkcs11.faults import CryptokiError
from keymanagers.pkcs11.returns import Rv, name_of
from keymanagers.pkcs11.sessions import Session

_VALUES: Final = (Attribute.VALUE,)
_RSA_VALUES: Final = (
    Attribute.PRIVATE_EXPONENT,
    Attribute.PRIME_1,
    Attribute.PRIME_2,
    Attribute.EXPONENT_1,
    Attribute.EXPONENT_2,
    Attribute.COEFFICIENT,
)
_LOOSE: Final = ((Attribute.EXTRACTABLE, True), (Attribute.SENSITIVE, False))
"""What lets a key's value out, each alone for some way."""
_AES_KEY_GEN: Final = MechanismCall(Mechanism.AES_KEY_GEN)
_WRAPPING_KEY: Final[Template] = {
    Attribute.CLASS: ObjectClass.SECRET_KEY,
    Attribute.KEY_TYPE: CkKeyType.AES,
    Attribute.VALUE_LEN: 32,
    Attribute.TOKEN: False,
    Attribute.WRAP: True,
}
_WRAPPINGS: Final = {
    "CKM_AES_KEY_WRAP_PAD": MechanismCall(Mechanism.AES_KEY_WRAP_PAD),
    "CKM_AES_CBC_PAD": MechanismCall(Mechanism.AES_CBC_PAD, 0, 0),  # 16 bytes
}

_UNREADABLE: Final = frozenset(
    {Rv.ATTRIBUTE_SENSITIVE, Rv.ATTRIBUTE_TYPE_INVALID, Rv.INFORMATION_SENSITIVE, Rv.KEY_UNEXTRACTABLE}
)
_UNWRAPPABLE: Final = frozenset({Rv.KEY_UNEXTRACTABLE, Rv.KEY_NOT_WRAPPABLE})
_UNCHANGEABLE: Final = frozenset(
    {
        Rv.ACTION_PROHIBITED,
        Rv.ATTRIBUTE_READ_ONLY,
        Rv.ATTRIBUTE_VALUE_INVALID,
        Rv.TEMPLATE_INCONSISTENT,
    }
)
"""What refuses each of it, and means that (PKCS #11 2.40 §5.1.6)."""
_NO_SUCH_WAY: Final = frozenset({Rv.FUNCTION_NOT_SUPPORTED, Rv.MECHANISM_INVALID, Rv.MECHANISM_PARAM_INVALID})
_NO_SUCH_KEY: Final = _NO_SUCH_WAY | {
    Rv.ATTRIBUTE_TYPE_INVALID,
    Rv.ATTRIBUTE_VALUE_INVALID,
    Rv.KEY_SIZE_RANGE,
    Rv.TEMPLATE_INCOMPLETE,
    Rv.TEMPLATE_INCONSISTENT,
}
"""C_GenerateKey: the token makes no keys to wrap with."""


class _Vain(Exception):
    """The token took the call, and it led to nothing."""


def attempts(session: Session, handle: int, key_type: KeyType) -> tuple[Attempt, ...]:
    """Try every way to get at the value of a private key.

    Raises:
        CryptokiError: if the token cannot be used.
    """
    return (
        *_reading(session, handle, _VALUES if key_type.curve else _RSA_VALUES),
        *_wrapping(session, handle),
        *_copying(session, handle),
        *_loosening(session, handle),
    )


def _reading(session: Session, handle: int, values: tuple[Attribute, ...]) -> Iterator[Attempt]:
    for attribute in values:
        way = f"C_GetAttributeValue(CKA_{attribute.name})"
        yield _tried(session, way, _UNREADABLE, partial(_read, session, handle, attribute))


def _read(session: Session, handle: int, attribute: Attribute) -> str:
    count = session.cryptoki.reveal(session.handle, handle, attribute)
    if not count:
        raise _Vain("it gave nothing")
    return f"it gave {count} bytes"


def _wrapping(session: Session, handle: int) -> Iterator[Attempt]:
    with _wrapping_key(session) as found:
        for name, mechanism in _WRAPPINGS.items():
            way = f"C_WrapKey({name})"
            if isinstance(found, CryptokiError):
                outcome = Outcome.IMPOSSIBLE if found.rv in _NO_SUCH_KEY else Outcome.UNCLEAR
                yield Attempt(way, outcome, f"{found.function} for a wrapping key: {name_of(found.rv)}")
            else:
                yield _tried(session, way, _UNWRAPPABLE, partial(_wrap, session, handle, mechanism, found))


def _wrap(session: Session, handle: int, mechanism: MechanismCall, key: int) -> str:
    return f"it gave {session.cryptoki.wrap(session.handle, mechanism, key, handle)} bytes"


@contextmanager
def _wrapping_key(session: Session) -> Iterator[int | CryptokiError]:
    """A new AES key of this session that may wrap others, or why there is none."""
    try:
        key = session.cryptoki.generate_key(session.handle, _AES_KEY_GEN, _WRAPPING_KEY)
    except CryptokiError as exc:
        session.check_sight()
        yield exc
        return
    try:
        yield key
    finally:
        session.cryptoki.destroy(session.handle, key)


def _copying(session: Session, handle: int) -> Iterator[Attempt]:
    for attribute, value in _LOOSE:
        way = f"C_CopyObject(CKA_{attribute.name} = {str(value).lower()})"
        yield _tried(session, way, _UNCHANGEABLE, partial(_copy, session, handle, attribute, value))


def _copy(session: Session, handle: int, attribute: Attribute, value: bool) -> str:  # noqa: FBT001  an attribute's
    made = session.cryptoki.copy(session.handle, handle, {Attribute.TOKEN: False, attribute: value})
    try:
        if _says(session, made, attribute) is (not value):
            raise _Vain("the copy is as the key is")
        return "it made the copy, which was destroyed"
    finally:
        session.cryptoki.destroy(session.handle, made)


def _loosening(session: Session, handle: int) -> Iterator[Attempt]:
    for attribute, value in _LOOSE:
        way = f"C_SetAttributeValue(CKA_{attribute.name} = {str(value).lower()})"
        yield _tried(session, way, _UNCHANGEABLE, partial(_loosen, session, handle, attribute, value))


def _loosen(session: Session, handle: int, attribute: Attribute, value: bool) -> str:  # noqa: FBT001  an attribute's
    if _says(session, handle, attribute) is value:
        return "it is so already"
    session.cryptoki.set_attributes(session.handle, handle, {attribute: value})
    if _says(session, handle, attribute) is (not value):
        raise _Vain("it changed nothing")
    try:
        session.cryptoki.set_attributes(session.handle, handle, {attribute: not value})
    except CryptokiError as exc:
        return f"it was done and could not be set back: {exc}"
    return "it was done, and was set back"


def _says(session: Session, handle: int, attribute: Attribute) -> bool | None:
    """What the token says of a flag; None if it keeps quiet."""
    said = session.cryptoki.attributes(session.handle, handle, (attribute,)).get(attribute)
    return None if said is None else any(said)


def _tried(session: Session, way: str, refusals: frozenset[Rv], attempt: Callable[[], str]) -> Attempt:
    """What came of an attempt, which returns what it achieved."""
    try:
        return Attempt(way, Outcome.GAVE_WAY, attempt())
    except _Vain as exc:
        return Attempt(way, Outcome.REFUSED, str(exc))
    except CryptokiError as exc:
        if exc.rv in refusals:
            return Attempt(way, Outcome.REFUSED, name_of(exc.rv))
        if exc.rv in _NO_SUCH_WAY:
            return Attempt(way, Outcome.IMPOSSIBLE, name_of(exc.rv))
        session.check_sight()  # else a token that is away would seem to have answered
        return Attempt(way, Outcome.UNCLEAR, name_of(exc.rv))
