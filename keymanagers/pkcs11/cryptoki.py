"""The C interface of a Cryptoki library, as far as a key manager needs it (PKCS #11 2.40 §5), through ctypes.

Each method is one C function, or the few that always go together, and raises ``CryptokiError`` for a return
value that is not CKR_OK.  There is no policy here.  ctypes lets other Python threads run during each call; that
the library can bear them is the business of ``keymanagers.pkcs11.module``.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any, Final

from pkcs11 import Attribute, Mechanism, TokenFlag

from keymanagers.pkcs11 import structs
from keymanagers.pkcs11.faults import CryptokiError
from keymanagers.pkcs11.returns import PARTIAL, Rv
from keymanagers.pkcs11.structs import CK_ULONG
from spiffe_core.errors import InvalidConfig

UNAVAILABLE: Final = CK_ULONG(-1).value
"""CK_UNAVAILABLE_INFORMATION."""

Value = bool | int | str | bytes
"""Value of an attribute: CK_BBOOL, CK_ULONG, UTF-8, or bytes as they are."""
Template = Mapping[Attribute, Value]

_ATTRIBUTE_BYTES: Final = 1024
_CKS_RW_USER_FUNCTIONS: Final = 3
_CKU_USER: Final = 1
_FOUND_AT_ONCE: Final = 64
_WRAPPED_BYTES: Final = 8192
_OUT: Final = ctypes.c_void_p
_TEXT: Final = ctypes.c_char_p


class Initialize(IntFlag):
    """Flags of C_Initialize."""

    OS_LOCKING_OK = 2


class SessionFlag(IntFlag):
    """Flags of C_OpenSession."""

    RW = 2
    SERIAL = 4


_FUNCTIONS: Final[Mapping[str, tuple[int, tuple[Any, ...]]]] = {
    "C_Initialize": (0, (_OUT,)),
    "C_Finalize": (1, (_OUT,)),
    "C_GetInfo": (2, (_OUT,)),
    "C_GetSlotList": (4, (ctypes.c_ubyte, _OUT, _OUT)),
    "C_GetTokenInfo": (6, (CK_ULONG, _OUT)),
    "C_OpenSession": (12, (CK_ULONG, CK_ULONG, _OUT, _OUT, _OUT)),
    "C_CloseSession": (13, (CK_ULONG,)),
    "C_GetSessionInfo": (15, (CK_ULONG, _OUT)),
    "C_Login": (18, (CK_ULONG, CK_ULONG, _TEXT, CK_ULONG)),
    "C_CopyObject": (21, (CK_ULONG, CK_ULONG, _OUT, CK_ULONG, _OUT)),
    "C_DestroyObject": (22, (CK_ULONG, CK_ULONG)),
    "C_GetAttributeValue": (24, (CK_ULONG, CK_ULONG, _OUT, CK_ULONG)),
    "C_SetAttributeValue": (25, (CK_ULONG, CK_ULONG, _OUT, CK_ULONG)),
    "C_FindObjectsInit": (26, (CK_ULONG, _OUT, CK_ULONG)),
    "C_FindObjects": (27, (CK_ULONG, _OUT, CK_ULONG, _OUT)),
    "C_FindObjectsFinal": (28, (CK_ULONG,)),
    "C_SignInit": (42, (CK_ULONG, _OUT, CK_ULONG)),
    "C_Sign": (43, (CK_ULONG, _TEXT, CK_ULONG, _OUT, _OUT)),
    "C_GenerateKey": (58, (CK_ULONG, _OUT, _OUT, CK_ULONG, _OUT)),
    "C_GenerateKeyPair": (59, (CK_ULONG, _OUT, _OUT, CK_ULONG, _OUT, CK_ULONG, _OUT, _OUT)),
    "C_WrapKey": (60, (CK_ULONG, _OUT, CK_ULONG, CK_ULONG, _OUT, _OUT)),
}
"""Place in CK_FUNCTION_LIST and the arguments of each function that is called."""
_FOR_THIEVES: Final = frozenset({"C_CopyObject", "C_SetAttributeValue", "C_GenerateKey", "C_WrapKey"})
"""What is called in the negative test of a key only, so that a library can do without."""


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """CK_TOKEN_INFO, as far as it is asked for; padding is off, and counts are None where the token keeps quiet."""

    label: str
    manufacturer: str
    model: str
    serial: str
    flags: TokenFlag
    max_sessions: int | None
    max_rw_sessions: int | None


class MechanismCall:
    """A mechanism with its parameter, in C."""

    __slots__ = ("_parameter", "_struct", "address")

    def __init__(self, mechanism: Mechanism, *parameter: int) -> None:
        """Take the mechanism, and the members of a parameter that is a struct of CK_ULONG."""
        self._parameter = (CK_ULONG * len(parameter))(*parameter)
        self._struct = structs.Mechanism(
            mechanism, ctypes.addressof(self._parameter) if parameter else None, ctypes.sizeof(self._parameter)
        )
        self.address = ctypes.addressof(self._struct)


class Signer:
    """C_SignInit and C_Sign of one session, with their buffers made once.  For one thread at a time."""

    __slots__ = ("_buffer", "_buffer_at", "_init", "_length", "_length_at", "_session", "_sign")

    def __init__(self, functions: Mapping[str, Any], session: int) -> None:
        self._init = functions["C_SignInit"]
        self._sign = functions["C_Sign"]
        self._session = session
        self._buffer = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
        self._buffer_at = ctypes.addressof(self._buffer)
        self._length = CK_ULONG()
        self._length_at = ctypes.addressof(self._length)

    def sign(self, mechanism: MechanismCall, key: int, data: bytes) -> bytes:
        """One signature, in a single part; the length is not asked for first, which a network HSM would be slow at."""
        rv = self._init(self._session, mechanism.address, key)
        if rv:
            raise CryptokiError("C_SignInit", rv)
        self._length.value = _ATTRIBUTE_BYTES
        rv = self._sign(self._session, data, len(data), self._buffer_at, self._length_at)
        if rv:
            raise CryptokiError("C_Sign", rv)
        return self._buffer.raw[: self._length.value]


class Cryptoki:
    """One loaded library."""

    def __init__(self, path: Path) -> None:
        """Load the library and look up its functions; nothing of it runs but C_GetFunctionList.

        Raises:
            InvalidConfig: if it cannot be loaded, or is no Cryptoki library.
        """
        try:
            self._library = ctypes.CDLL(str(path))
            get_list = self._library.C_GetFunctionList
        except (OSError, AttributeError) as exc:
            raise InvalidConfig(f"module: {path} cannot be loaded as a PKCS #11 module: {exc}") from exc
        listed = ctypes.POINTER(structs.FunctionList)()
        if rv := get_list(ctypes.byref(listed)):
            raise InvalidConfig(f"module: {path} is no usable PKCS #11 module: C_GetFunctionList returned {rv:#x}")
        self._functions: dict[str, Any] = {}
        for name, (place, arguments) in _FUNCTIONS.items():
            address = listed.contents.functions[place]
            if not address and name in _FOR_THIEVES:
                self._functions[name] = lambda *_arguments: Rv.FUNCTION_NOT_SUPPORTED
                continue
            if not address:
                raise InvalidConfig(f"module: {path} is no usable PKCS #11 module: it has no {name}")
            self._functions[name] = ctypes.CFUNCTYPE(CK_ULONG, *arguments)(address)

    def _call(self, name: str, *arguments: object) -> None:
        rv = self._functions[name](*arguments)
        if rv:
            raise CryptokiError(name, rv)

    def initialize(self, *, for_threads: bool) -> None:
        """C_Initialize; without ``for_threads`` the caller promises that only one thread at a time is inside."""
        if for_threads:
            self._call("C_Initialize", ctypes.byref(structs.InitializeArgs(flags=Initialize.OS_LOCKING_OK)))
        else:
            self._call("C_Initialize", None)

    def finalize(self) -> None:
        """C_Finalize: every session, login and handle is gone."""
        self._call("C_Finalize", None)

    def manufacturer(self) -> str:
        """C_GetInfo: who made the library."""
        info = structs.LibraryInfo()
        self._call("C_GetInfo", ctypes.byref(info))
        return _text(info.manufacturer)

    def slots(self) -> list[int]:
        """The slots that hold a token."""
        count = CK_ULONG()
        self._call("C_GetSlotList", 1, None, ctypes.byref(count))
        found = (CK_ULONG * max(count.value, 1))()
        self._call("C_GetSlotList", 1, found, ctypes.byref(count))
        return list(found[: count.value])

    def token_info(self, slot: int) -> TokenInfo:
        """C_GetTokenInfo."""
        info = structs.TokenInfo()
        self._call("C_GetTokenInfo", slot, ctypes.byref(info))
        return TokenInfo(
            label=_text(info.label),
            manufacturer=_text(info.manufacturer),
            model=_text(info.model),
            serial=_text(info.serial),
            flags=TokenFlag(info.flags & _KNOWN_TOKEN_FLAGS),
            max_sessions=_limit(info.max_sessions),
            max_rw_sessions=_limit(info.max_rw_sessions),
        )

    def open_session(self, slot: int) -> int:
        """C_OpenSession, read-write: some modules know no other, and none minds."""
        handle = CK_ULONG()
        self._call("C_OpenSession", slot, SessionFlag.SERIAL | SessionFlag.RW, None, None, ctypes.byref(handle))
        return handle.value

    def close_session(self, session: int) -> None:
        """C_CloseSession."""
        self._call("C_CloseSession", session)

    def session_info(self, session: int) -> tuple[int, bool]:
        """C_GetSessionInfo: the session's slot, and whether the normal user is logged in."""
        info = structs.SessionInfo()
        self._call("C_GetSessionInfo", session, ctypes.byref(info))
        return info.slot, info.state == _CKS_RW_USER_FUNCTIONS

    def login(self, session: int, pin: bytes) -> None:
        """C_Login as the normal user (CKU_USER)."""
        self._call("C_Login", session, _CKU_USER, pin, len(pin))

    def signer(self, session: int) -> Signer:
        """What signs in that session."""
        return Signer(self._functions, session)

    def find(self, session: int, template: Template) -> list[int]:
        """The handles of all objects that match."""
        attributes = _Attributes(template)
        self._call("C_FindObjectsInit", session, attributes.array, len(attributes.array))
        try:
            found: list[int] = []
            batch = (CK_ULONG * _FOUND_AT_ONCE)()
            count = CK_ULONG(1)
            while count.value:
                self._call("C_FindObjects", session, batch, _FOUND_AT_ONCE, ctypes.byref(count))
                found.extend(batch[: count.value])
            return found
        finally:
            self._call("C_FindObjectsFinal", session)

    def attributes(self, session: int, handle: int, wanted: Sequence[Attribute]) -> dict[Attribute, bytes]:
        """C_GetAttributeValue: the values there are; what is unknown, sensitive or above a KiB is left out."""
        buffers = [ctypes.create_string_buffer(_ATTRIBUTE_BYTES) for _ in wanted]
        array = (structs.Attribute * len(wanted))(
            *(
                structs.Attribute(kind, ctypes.addressof(buffer), _ATTRIBUTE_BYTES)
                for kind, buffer in zip(wanted, buffers, strict=True)
            )
        )
        try:
            self._call("C_GetAttributeValue", session, handle, array, len(wanted))
        except CryptokiError as exc:
            if exc.rv not in PARTIAL:
                raise
        return {
            kind: buffer.raw[: one.length]
            for kind, buffer, one in zip(wanted, buffers, array, strict=True)
            if one.length <= _ATTRIBUTE_BYTES
        }

    def generate_key_pair(
        self, session: int, mechanism: MechanismCall, public: Template, private: Template
    ) -> tuple[int, int]:
        """C_GenerateKeyPair: the handles of the public and the private key."""
        public_attributes, private_attributes = _Attributes(public), _Attributes(private)
        public_handle, private_handle = CK_ULONG(), CK_ULONG()
        self._call(
            "C_GenerateKeyPair",
            session,
            mechanism.address,
            public_attributes.array,
            len(public),
            private_attributes.array,
            len(private),
            ctypes.byref(public_handle),
            ctypes.byref(private_handle),
        )
        return public_handle.value, private_handle.value

    def destroy(self, session: int, handle: int) -> None:
        """C_DestroyObject."""
        self._call("C_DestroyObject", session, handle)

    # -- what a thief would call (keymanagers.pkcs11.negative)

    def reveal(self, session: int, handle: int, attribute: Attribute) -> int:
        """C_GetAttributeValue of something secret: how many bytes it gave, which are wiped."""
        buffer = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
        asked = structs.Attribute(attribute, ctypes.addressof(buffer), _ATTRIBUTE_BYTES)
        try:
            self._call("C_GetAttributeValue", session, handle, ctypes.byref(asked), 1)
        finally:
            ctypes.memset(buffer, 0, _ATTRIBUTE_BYTES)
        return 0 if asked.length == UNAVAILABLE else int(asked.length)

    def wrap(self, session: int, mechanism: MechanismCall, wrapping_key: int, handle: int) -> int:
        """C_WrapKey: how many bytes it gave, which are wiped."""
        buffer = ctypes.create_string_buffer(_WRAPPED_BYTES)
        length = CK_ULONG(_WRAPPED_BYTES)
        try:
            self._call("C_WrapKey", session, mechanism.address, wrapping_key, handle, buffer, ctypes.byref(length))
        finally:
            ctypes.memset(buffer, 0, _WRAPPED_BYTES)
        return length.value

    def copy(self, session: int, handle: int, changes: Template) -> int:
        """C_CopyObject: the handle of the copy."""
        attributes, made = _Attributes(changes), CK_ULONG()
        self._call("C_CopyObject", session, handle, attributes.array, len(changes), ctypes.byref(made))
        return made.value

    def set_attributes(self, session: int, handle: int, changes: Template) -> None:
        """C_SetAttributeValue."""
        attributes = _Attributes(changes)
        self._call("C_SetAttributeValue", session, handle, attributes.array, len(changes))

    def generate_key(self, session: int, mechanism: MechanismCall, template: Template) -> int:
        """C_GenerateKey: the handle of the secret key."""
        attributes, made = _Attributes(template), CK_ULONG()
        self._call("C_GenerateKey", session, mechanism.address, attributes.array, len(template), ctypes.byref(made))
        return made.value


class _Attributes:
    """A template in C."""

    def __init__(self, template: Template) -> None:
        self._values = [_packed(value) for value in template.values()]
        self.array = (structs.Attribute * len(template))(
            *(
                structs.Attribute(kind, ctypes.cast(value, ctypes.c_void_p), len(value))
                for kind, value in zip(template, self._values, strict=True)
            )
        )


def _packed(value: Value) -> Any:  # noqa: ANN401  a C array
    if isinstance(value, bool):
        raw = bytes((value,))
    elif isinstance(value, int):
        raw = bytes(CK_ULONG(value))
    else:
        raw = value.encode() if isinstance(value, str) else value
    return (ctypes.c_char * len(raw)).from_buffer_copy(raw)


_KNOWN_TOKEN_FLAGS: Final = int(sum(TokenFlag))


def _text(padded: bytes) -> str:
    """Text of a fixed width, padded with blanks (some modules: with zeros)."""
    return padded.split(b"\0")[0].decode(errors="replace").rstrip(" ")


def _limit(count: int) -> int | None:
    """A session count: 0 is "effectively infinite", all ones "not told"."""
    return None if count in {0, UNAVAILABLE} else count
