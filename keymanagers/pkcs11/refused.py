"""Which PINs are not to be tried again.

A token locks after a few wrong PINs, and a locked HSM is an outage that only its security officer ends.  So a PIN
that a token has refused is remembered for the life of the process, as a keyed digest, and never sent again.
"""

import hmac
import secrets
import threading
from typing import Final

_KEY: Final = secrets.token_bytes(32)
_refused: Final[set[bytes]] = set()
_lock: Final = threading.Lock()


def was_refused(token: str, pin: bytes) -> bool:
    """Whether the token, by library and serial number, has refused that PIN since this process began."""
    with _lock:
        return _mark(token, pin) in _refused


def remember_refused(token: str, pin: bytes) -> None:
    """Never try that PIN on that token again in this process."""
    with _lock:
        _refused.add(_mark(token, pin))


def _mark(token: str, pin: bytes) -> bytes:
    return hmac.digest(_KEY, token.encode() + b"\0" + pin, "sha256")
