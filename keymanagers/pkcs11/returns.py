"""The return values of Cryptoki functions, and those that single functions answer with in the normal course of things.

What the others mean, and what may cure them, is in ``keymanagers.pkcs11.faults``.
"""

from enum import IntEnum
from typing import Final


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
    KEY_NOT_WRAPPABLE = 0x69
    KEY_UNEXTRACTABLE = 0x6A
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
    INFORMATION_SENSITIVE = 0x170
    CRYPTOKI_NOT_INITIALIZED = 0x190
    CRYPTOKI_ALREADY_INITIALIZED = 0x191


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


def name_of(rv: int) -> str:
    """The return value as text: ``CKR_DEVICE_REMOVED``, or its number."""
    try:
        return f"CKR_{Rv(rv).name}"
    except ValueError:
        return f"{rv:#x}"
