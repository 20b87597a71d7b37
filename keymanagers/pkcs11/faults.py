"""What can go wrong with a token, what each return value means, and which rungs of the ladder may cure it.

``FAULTS`` is the one place where return values are judged, and each row says how we know.  A value that is not in it,
such as a vendor's own, is taken for a lost device.  ``keymanagers.pkcs11.device`` climbs the ladder, as often as
``keymanagers.pkcs11.ladder`` lets it; what is still wrong at its end leaves this package as the error of the table.

Sources: a section is one of PKCS #11 2.40, base specification; a project's name with a number is an issue in its
public tracker, where somebody met that value in operation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from keymanagers.pkcs11.returns import Rv, name_of
from spiffe_core.errors import (
    InvalidConfig,
    KeyManagerUnavailable,
    ResourceExhausted,
    SpiffeError,
    Unsupported,
)


class Rung(IntEnum):
    """The rungs of recovery within one token, from the cheapest to the one that disturbs every user of the module.

    Behind the last is the next token (``keymanagers.pkcs11.tokens``).
    """

    SESSION = 1
    """Open another session and find the objects again."""
    LOGIN = 2
    """Log in again."""
    MODULE = 3
    """Re-initialise the library."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """The error that a caller gets, the rungs that are tried first, and what to do."""

    error: type[SpiffeError]
    ladder: tuple[Rung, ...]
    advice: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A row of the table: what a return value means, and how we know."""

    meaning: Meaning
    source: str


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
    InvalidConfig, (), "correct the PIN: this one is not tried again, since tokens lock after a few wrong ones"
)
PIN_NEEDS_OPERATOR: Final = Meaning(KeyManagerUnavailable, (), "its security officer must set the user PIN anew")
OTHER_USER: Final = Meaning(KeyManagerUnavailable, (), "its security officer is logged in by this process")
OUR_FAULT: Final = Meaning(KeyManagerUnavailable, (Rung.SESSION,), "the module refused a call that should be right")

FAULTS: Final[Mapping[int, Fault]] = {
    Rv.HOST_MEMORY: Fault(FULL, "§5.1.1: the machine has too little memory"),
    Rv.SLOT_ID_INVALID: Fault(LOST_MODULE, "§5.1.6; slots are numbered anew: OpenSC 1603, privacyidea 1309"),
    Rv.GENERAL_ERROR: Fault(
        LOST_SESSION, "§5.1.1: may be unrecoverable; a wedged TPM context until C_Finalize: thin-edge.io 4353"
    ),
    Rv.FUNCTION_FAILED: Fault(
        LOST_SESSION, "§5.1.1: worth another try; a lost connector of a YubiHSM: yubihsm-shell 267 and 541"
    ),
    Rv.ARGUMENTS_BAD: Fault(OUR_FAULT, "§5.1.6"),
    Rv.ATTRIBUTE_READ_ONLY: Fault(CANNOT, "§5.1.6"),
    Rv.ATTRIBUTE_SENSITIVE: Fault(CANNOT, "§5.1.6"),
    Rv.ATTRIBUTE_TYPE_INVALID: Fault(CANNOT, "§5.1.6"),
    Rv.ATTRIBUTE_VALUE_INVALID: Fault(CANNOT, "§5.1.6"),
    Rv.ACTION_PROHIBITED: Fault(CANNOT, "§5.1.6"),
    Rv.DATA_INVALID: Fault(CANNOT, "§5.1.6"),
    Rv.DATA_LEN_RANGE: Fault(CANNOT, "§5.1.6"),
    Rv.DEVICE_ERROR: Fault(LOST_SESSION, "§5.1.3: some problem of token or slot; thin-edge.io 4353"),
    Rv.DEVICE_MEMORY: Fault(FULL, "§5.1.3: the token has too little memory"),
    Rv.DEVICE_REMOVED: Fault(LOST_MODULE, "§5.1.2: removed while the call ran; thin-edge.io 4353"),
    Rv.FUNCTION_NOT_SUPPORTED: Fault(CANNOT, "§5.1.6"),
    Rv.KEY_HANDLE_INVALID: Fault(LOST_HANDLE, "§5.1.6; handles from before a reconnection: pkcs11-provider 494"),
    Rv.KEY_SIZE_RANGE: Fault(CANNOT, "§5.1.6"),
    Rv.KEY_TYPE_INCONSISTENT: Fault(LOST_HANDLE, "§5.1.6; a handle that names another key by now: pkcs11-provider 495"),
    Rv.KEY_FUNCTION_NOT_PERMITTED: Fault(
        LOST_HANDLE, "§5.1.6: the key must not sign; ours may, so the handle names another key: pkcs11-provider 495"
    ),
    Rv.MECHANISM_INVALID: Fault(CANNOT, "§5.1.6"),
    Rv.MECHANISM_PARAM_INVALID: Fault(CANNOT, "§5.1.6"),
    Rv.OBJECT_HANDLE_INVALID: Fault(LOST_HANDLE, "§5.1.6; handles from before a reconnection: pkcs11-provider 494"),
    Rv.OPERATION_ACTIVE: Fault(OUR_FAULT, "§5.1.6; two operations in one session: boulder 795"),
    Rv.OPERATION_NOT_INITIALIZED: Fault(
        LOST_SESSION, "§5.1.6: after C_SignInit only if the session was lost in between"
    ),
    Rv.PIN_INCORRECT: Fault(WRONG_PIN, "§5.1.6; retried until the token locked: pkcs11-provider 455"),
    Rv.PIN_INVALID: Fault(WRONG_PIN, "§5.1.6: it has characters that no PIN has"),
    Rv.PIN_LEN_RANGE: Fault(WRONG_PIN, "§5.1.6"),
    Rv.PIN_EXPIRED: Fault(PIN_NEEDS_OPERATOR, "§5.1.6"),
    Rv.PIN_LOCKED: Fault(PIN_NEEDS_OPERATOR, "§5.1.6"),
    Rv.SESSION_CLOSED: Fault(LOST_SESSION, "§5.1.2: closed while the call ran; thin-edge.io 4353"),
    Rv.SESSION_COUNT: Fault(BUSY, "§5.1.6: too many open; 16 in a YubiHSM: offline-keystore 44 and 190"),
    Rv.SESSION_HANDLE_INVALID: Fault(LOST_SESSION, "§5.1.2; pooled for ever: crypto11 142"),
    Rv.SESSION_READ_ONLY: Fault(READ_ONLY, "§5.1.6"),
    Rv.SESSION_READ_WRITE_SO_EXISTS: Fault(OTHER_USER, "§5.1.6"),
    Rv.TEMPLATE_INCOMPLETE: Fault(CANNOT, "§5.1.6"),
    Rv.TEMPLATE_INCONSISTENT: Fault(CANNOT, "§5.1.6"),
    Rv.TOKEN_NOT_PRESENT: Fault(LOST_MODULE, "§5.1.3; thin-edge.io 4353"),
    Rv.TOKEN_NOT_RECOGNIZED: Fault(LOST_MODULE, "§5.1.6; thin-edge.io 4353"),
    Rv.TOKEN_WRITE_PROTECTED: Fault(READ_ONLY, "§5.1.6"),
    Rv.USER_NOT_LOGGED_IN: Fault(LOST_LOGIN, "§5.1.6; a C_Logout anywhere in the process ends it for all: cfssl 329"),
    Rv.USER_PIN_NOT_INITIALIZED: Fault(PIN_NEEDS_OPERATOR, "§5.1.6"),
    Rv.USER_ANOTHER_ALREADY_LOGGED_IN: Fault(OTHER_USER, "§5.1.6"),
    Rv.DOMAIN_PARAMS_INVALID: Fault(CANNOT, "§5.1.6"),
    Rv.CURVE_NOT_SUPPORTED: Fault(CANNOT, "§5.1.6"),
    Rv.BUFFER_TOO_SMALL: Fault(OUR_FAULT, "§5.1.6"),
    Rv.CRYPTOKI_NOT_INITIALIZED: Fault(LOST_MODULE, "§5.1.6; a client library that gave its HSM up: Pkcs11Interop 214"),
}
UNKNOWN: Final = Fault(LOST_SESSION, "vendors have values of their own: CKR_VENDOR_DEFINED and above")


class TokenFault(Exception):
    """Something went wrong between us and a token; inside this package only."""

    meaning: Meaning = LOST_SESSION
    of_key: bool = False
    """Whether it is about one key, and the token may do well with others."""

    def translated(self, token: str, operation: str) -> SpiffeError:
        """The error for those above, naming the token and what was being done."""
        return self.meaning.error(f'token "{token}": cannot {operation}: {self}; {self.meaning.advice}')


class CryptokiError(TokenFault):
    """A function returned something other than CKR_OK."""

    def __init__(self, function: str, rv: int) -> None:
        super().__init__(f"{function} returned {name_of(rv)}")
        self.function = function
        self.rv = rv
        self.meaning = FAULTS.get(rv, UNKNOWN).meaning


class TokenAbsent(TokenFault):
    """The module answers but does not show the token."""

    meaning = LOST_MODULE


class KeyAbsent(TokenFault):
    """The token answers but does not show a key that it must hold."""

    meaning = Meaning(KeyManagerUnavailable, (Rung.SESSION, Rung.MODULE), "check that it is the right token")
    of_key = True

    def __init__(self) -> None:
        super().__init__("the token does not show the key")


class KeyChanged(TokenFault):
    """The token has another key in the place of the one that is wanted."""

    meaning = Meaning(
        KeyManagerUnavailable, (Rung.SESSION,), "nothing was signed: find out who replaced the token or the key"
    )
    of_key = True

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not that of the key")


class NotRepeatable(TokenFault):
    """A fault in the middle of something that must not be done twice."""

    def __init__(self, fault: TokenFault) -> None:
        super().__init__(str(fault))
        self.meaning = replace(fault.meaning, ladder=())
