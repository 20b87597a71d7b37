"""What a token says of a key's custody: read back, never as it was asked for."""

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Final

from pkcs11 import Attribute, Mechanism, ObjectClass
from pkcs11 import KeyType as CkKeyType

from keymanagers.pkcs11.cryptoki import UNAVAILABLE
from keymanagers.pkcs11.sessions import Session


def _flag(value: bytes) -> bool:
    return any(value)


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _named(kind: type[IntEnum], prefix: str) -> Callable[[bytes], str]:
    def read(value: bytes) -> str:
        number = int.from_bytes(value, "little")
        if number == UNAVAILABLE:
            return "unavailable"
        try:
            return prefix + kind(number).name
        except ValueError:
            return f"{number:#x}"

    return read


_READERS: Final[Mapping[Attribute, Callable[[bytes], bool | str]]] = {
    Attribute.CLASS: _named(ObjectClass, "CKO_"),
    Attribute.KEY_TYPE: _named(CkKeyType, "CKK_"),
    Attribute.LABEL: _text,
    Attribute.ID: bytes.hex,
    Attribute.UNIQUE_ID: _text,
    Attribute.TOKEN: _flag,
    Attribute.PRIVATE: _flag,
    Attribute.SENSITIVE: _flag,
    Attribute.ALWAYS_SENSITIVE: _flag,
    Attribute.EXTRACTABLE: _flag,
    Attribute.NEVER_EXTRACTABLE: _flag,
    Attribute.LOCAL: _flag,
    Attribute.KEY_GEN_MECHANISM: _named(Mechanism, "CKM_"),
    Attribute.MODIFIABLE: _flag,
    Attribute.COPYABLE: _flag,
    Attribute.DESTROYABLE: _flag,
    Attribute.SIGN: _flag,
    Attribute.SIGN_RECOVER: _flag,
    Attribute.DECRYPT: _flag,
    Attribute.UNWRAP: _flag,
    Attribute.DERIVE: _flag,
    Attribute.WRAP_WITH_TRUSTED: _flag,
    Attribute.ALWAYS_AUTHENTICATE: _flag,
    Attribute.START_DATE: _text,
    Attribute.END_DATE: _text,
}
"""How each attribute of a private key is read."""
WANTED: Final[Mapping[str, bool]] = {
    "CKA_TOKEN": True,
    "CKA_PRIVATE": True,
    "CKA_SENSITIVE": True,
    "CKA_ALWAYS_SENSITIVE": True,
    "CKA_EXTRACTABLE": False,
    "CKA_NEVER_EXTRACTABLE": True,
    "CKA_LOCAL": True,
    "CKA_SIGN": True,
    "CKA_SIGN_RECOVER": False,
    "CKA_DECRYPT": False,
    "CKA_UNWRAP": False,
    "CKA_DERIVE": False,
}
"""What a private key of ours is like: made in the token, kept in it, and for signatures only."""


def wanting(said: Mapping[str, bool | str]) -> list[str]:
    """What a key's attributes say that must not be so.  What a token does not say is not held against it."""
    return [f"{name} is {str(said[name]).lower()}" for name, value in WANTED.items() if said.get(name, value) != value]


def read_back(session: Session, handle: int) -> dict[str, bool | str]:
    """The attributes of a private key by their PKCS #11 names; what the module does not know is left out.

    They are asked for one by one: not every module can answer for the rest of a list when it does not know one.
    """
    said = {}
    for attribute, reader in _READERS.items():
        values = session.cryptoki.attributes(session.handle, handle, (attribute,))
        if attribute in values:
            said[f"CKA_{attribute.name}"] = reader(values[attribute])
    return said
