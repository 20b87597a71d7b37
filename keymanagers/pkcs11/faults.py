"""What can go wrong with a token, what each return value means, and which rungs of the ladder may cure it.

``MEANING`` is the one place where return values are judged.  A value that is not in it, such as a vendor's own,
is taken for a lost device.  ``keymanagers.pkcs11.device`` climbs the ladder; what is still wrong at its end
leaves this package as the error of the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from spiffe_core.errors import (
    InvalidConfig,
    KeyManagerUnavailable,
    ResourceExhausted,
    SpiffeError,
    Unsupported,
)


class Rung(IntEnum):
    """The rungs of recovery, from the cheapest to the one that disturbs every user of the module."""

    SESSION = 1
    """Open another session and find the objects again."""
    LOGIN = 2
    """Log in again."""
    MODULE = 3
    """Re-initialise the library."""


class Rv(IntEnum):
    """Return values of Cryptoki functions, CKR_ left out (PKCS #11 2.40 §5.1)."""

    HOST_MEMORY = 0x2
    SLOT_ID_INVALID = 0x3
    GENERAL_ERROR = 0x5
    FUNCTION_FAILED = 0x6
    ARGUMENTS_BAD = 0x7
    NEED_TO_CREATE_THREADS = 0x9
    CANT_LOCK = 0xA
    ATTRIBUTE_READ_ONLY = 0x10
    ATTRIBUTE_SENSITIVE = 0x11
    ATTRIBUTE_TYPE_INVALID = 0x12
    ATTRIBUTE_VALUE_INVALID = 0x13
    ACTION_PROHIBITED = 0x1B
    DATA_INVALID = 0x20
    DATA_LEN_RANGE = 0x21
    DEVICE_ERROR = 0x30
    DEVICE_MEMORY = 0x31
    DEVICE_REMOVED = 0x32
    FUNCTION_NOT_SUPPORTED = 0x54
    KEY_HANDLE_INVALID = 0x60
    KEY_SIZE_RANGE = 0x62
    KEY_TYPE_INCONSISTENT = 0x63
    KEY_FUNCTION_NOT_PERMITTED = 0x68
    MECHANISM_INVALID = 0x70
    MECHANISM_PARAM_INVALID = 0x71
    OBJECT_HANDLE_INVALID = 0x82
    OPERATION_ACTIVE = 0x90
    OPERATION_NOT_INITIALIZED = 0x91
    PIN_INCORRECT = 0xA0
    PIN_INVALID = 0xA1
    PIN_LEN_RANGE = 0xA2
    PIN_EXPIRED = 0xA3
    PIN_LOCKED = 0xA4
    SESSION_CLOSED = 0xB0
    SESSION_COUNT = 0xB1
    SESSION_HANDLE_INVALID = 0xB3
    SESSION_READ_ONLY = 0xB5
    SESSION_READ_WRITE_SO_EXISTS = 0xB8
    TEMPLATE_INCOMPLETE = 0xD0
    TEMPLATE_INCONSISTENT = 0xD1
    TOKEN_NOT_PRESENT = 0xE0
    TOKEN_NOT_RECOGNIZED = 0xE1
    TOKEN_WRITE_PROTECTED = 0xE2
    USER_ALREADY_LOGGED_IN = 0x100
    USER_NOT_LOGGED_IN = 0x101
    USER_PIN_NOT_INITIALIZED = 0x102
    USER_ANOTHER_ALREADY_LOGGED_IN = 0x104
    DOMAIN_PARAMS_INVALID = 0x130
    CURVE_NOT_SUPPORTED = 0x140
    BUFFER_TOO_SMALL = 0x150
    CRYPTOKI_NOT_INITIALIZED = 0x190
    CRYPTOKI_ALREADY_INITIALIZED = 0x191


@dataclass(frozen=True, slots=True)
class Meaning:
    """The error that a caller gets, the rungs that are tried first, and what to do."""

    error: type[SpiffeError]
    ladder: tuple[Rung, ...]
    advice: str


LOST_HANDLE: Final = Meaning(KeyManagerUnavailable, (Rung.SESSION,), "the key is not in the token any more")
LOST_SESSION: Final = Meaning(KeyManagerUnavailable, (Rung.SESSION, Rung.MODULE), "check the device")
LOST_LOGIN: Final = Meaning(KeyManagerUnavailable, (Rung.LOGIN, Rung.MODULE), "check the device and its PIN")
LOST_MODULE: Final = Meaning(KeyManagerUnavailable, (Rung.MODULE,), "check the device and its service")
BUSY: Final = Meaning(
    KeyManagerUnavailable, (), "the token has no session left: lower max_sessions, or close other programs that use it"
)
FULL: Final = Meaning(ResourceExhausted, (), "the token or the machine has no memory left")
CANNOT: Final = Meaning(Unsupported, (), "the token cannot do that: choose another key type or token")
READ_ONLY: Final = Meaning(Unsupported, (), "the token does not let itself be written to")
WRONG_PIN: Final = Meaning(
    InvalidConfig, (), "correct the PIN file: this PIN is not tried again, since tokens lock after a few wrong ones"
)
PIN_NEEDS_OPERATOR: Final = Meaning(KeyManagerUnavailable, (), "its security officer must set the user PIN anew")
OTHER_USER: Final = Meaning(KeyManagerUnavailable, (), "its security officer is logged in by this process")
OUR_FAULT: Final = Meaning(KeyManagerUnavailable, (Rung.SESSION,), "the module refused a call that should be right")

MEANING: Final[Mapping[int, Meaning]] = {
    Rv.HOST_MEMORY: FULL,
    Rv.SLOT_ID_INVALID: LOST_MODULE,
    Rv.GENERAL_ERROR: LOST_SESSION,
    Rv.FUNCTION_FAILED: LOST_SESSION,
    Rv.ARGUMENTS_BAD: OUR_FAULT,
    Rv.ATTRIBUTE_READ_ONLY: CANNOT,
    Rv.ATTRIBUTE_SENSITIVE: CANNOT,
    Rv.ATTRIBUTE_TYPE_INVALID: CANNOT,
    Rv.ATTRIBUTE_VALUE_INVALID: CANNOT,
    Rv.ACTION_PROHIBITED: CANNOT,
    Rv.DATA_INVALID: CANNOT,
    Rv.DATA_LEN_RANGE: CANNOT,
    Rv.DEVICE_ERROR: LOST_SESSION,
    Rv.DEVICE_MEMORY: FULL,
    Rv.DEVICE_REMOVED: LOST_MODULE,
    Rv.FUNCTION_NOT_SUPPORTED: CANNOT,
    Rv.KEY_HANDLE_INVALID: LOST_HANDLE,
    Rv.KEY_SIZE_RANGE: CANNOT,
    Rv.KEY_TYPE_INCONSISTENT: LOST_HANDLE,
    Rv.KEY_FUNCTION_NOT_PERMITTED: CANNOT,
    Rv.MECHANISM_INVALID: CANNOT,
    Rv.MECHANISM_PARAM_INVALID: CANNOT,
    Rv.OBJECT_HANDLE_INVALID: LOST_HANDLE,
    Rv.OPERATION_ACTIVE: OUR_FAULT,
    Rv.OPERATION_NOT_INITIALIZED: LOST_SESSION,
    Rv.PIN_INCORRECT: WRONG_PIN,
    Rv.PIN_INVALID: WRONG_PIN,
    Rv.PIN_LEN_RANGE: WRONG_PIN,
    Rv.PIN_EXPIRED: PIN_NEEDS_OPERATOR,
    Rv.PIN_LOCKED: PIN_NEEDS_OPERATOR,
    Rv.SESSION_CLOSED: LOST_SESSION,
    Rv.SESSION_COUNT: BUSY,
    Rv.SESSION_HANDLE_INVALID: LOST_SESSION,
    Rv.SESSION_READ_ONLY: READ_ONLY,
    Rv.SESSION_READ_WRITE_SO_EXISTS: OTHER_USER,
    Rv.TEMPLATE_INCOMPLETE: CANNOT,
    Rv.TEMPLATE_INCONSISTENT: CANNOT,
    Rv.TOKEN_NOT_PRESENT: LOST_MODULE,
    Rv.TOKEN_NOT_RECOGNIZED: LOST_MODULE,
    Rv.TOKEN_WRITE_PROTECTED: READ_ONLY,
    Rv.USER_NOT_LOGGED_IN: LOST_LOGIN,
    Rv.USER_PIN_NOT_INITIALIZED: PIN_NEEDS_OPERATOR,
    Rv.USER_ANOTHER_ALREADY_LOGGED_IN: OTHER_USER,
    Rv.DOMAIN_PARAMS_INVALID: CANNOT,
    Rv.CURVE_NOT_SUPPORTED: CANNOT,
    Rv.BUFFER_TOO_SMALL: OUR_FAULT,
    Rv.CRYPTOKI_NOT_INITIALIZED: LOST_MODULE,
}

REFUSED_PIN: Final = frozenset({Rv.PIN_INCORRECT, Rv.PIN_INVALID, Rv.PIN_LEN_RANGE})
"""The PIN itself is wrong: it must not be tried again."""
CANNOT_LOCK: Final = frozenset({Rv.CANT_LOCK, Rv.ARGUMENTS_BAD, Rv.NEED_TO_CREATE_THREADS, Rv.FUNCTION_NOT_SUPPORTED})
"""C_Initialize: the library does not do its own locking."""
REFUSED_TEMPLATE: Final = frozenset(
    {
        Rv.ATTRIBUTE_READ_ONLY,
        Rv.ATTRIBUTE_TYPE_INVALID,
        Rv.ATTRIBUTE_VALUE_INVALID,
        Rv.TEMPLATE_INCONSISTENT,
        Rv.ACTION_PROHIBITED,
    }
)
"""C_GenerateKeyPair: an attribute is not to the module's liking; one that may be left out perhaps."""
PARTIAL: Final = frozenset({Rv.ATTRIBUTE_SENSITIVE, Rv.ATTRIBUTE_TYPE_INVALID, Rv.BUFFER_TOO_SMALL})
"""C_GetAttributeValue: some of the values are there."""


class TokenFault(Exception):
    """Something went wrong between us and a token; inside this package only."""

    meaning: Meaning = LOST_SESSION

    def translated(self, token: str, operation: str) -> SpiffeError:
        """The error for those above, naming the token and what was being done."""
        return self.meaning.error(f'token "{token}": cannot {operation}: {self}; {self.meaning.advice}')


class CryptokiError(TokenFault):
    """A function returned something other than CKR_OK."""

    def __init__(self, function: str, rv: int) -> None:
        super().__init__(f"{function} returned {name_of(rv)}")
        self.function = function
        self.rv = rv
        self.meaning = MEANING.get(rv, LOST_SESSION)


class TokenAbsent(TokenFault):
    """The module answers but does not show the token."""

    meaning = LOST_MODULE


class KeyAbsent(TokenFault):
    """The token answers but does not show a key that it must hold."""

    meaning = Meaning(KeyManagerUnavailable, (Rung.SESSION, Rung.MODULE), "check that it is the right token")

    def __init__(self) -> None:
        super().__init__("the token does not show the key")


class KeyChanged(TokenFault):
    """The token has another key in the place of the one that is wanted."""

    meaning = Meaning(
        KeyManagerUnavailable, (Rung.SESSION,), "nothing was signed: find out who replaced the token or the key"
    )

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not that of the key")


class NotRepeatable(TokenFault):
    """A fault in the middle of something that must not be done twice."""

    def __init__(self, fault: TokenFault) -> None:
        super().__init__(str(fault))
        self.meaning = replace(fault.meaning, ladder=())


def name_of(rv: int) -> str:
    """The return value as text: ``CKR_DEVICE_REMOVED``, or its number."""
    try:
        return f"CKR_{Rv(rv).name}"
    except ValueError:
        return f"{rv:#x}"
