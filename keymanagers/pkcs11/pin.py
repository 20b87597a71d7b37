"""Where a token's user PIN comes from, and which PINs are not to be tried again.

A token locks after a few wrong PINs, and a locked HSM is an outage that only its security officer ends.  So a PIN
that a token has refused is remembered for the life of the process, as a keyed digest, and never sent again.
"""

import hmac
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from keymanagers.secretfile import read_secret
from spiffe_core.errors import InvalidConfig, KeyManagerUnavailable

MAX_PIN_BYTES: Final = 255
"""Longest PIN that is read."""


@dataclass(frozen=True, slots=True)
class PinFile:
    """A file with a PIN in it; one newline at its end does not count."""

    path: Path

    @classmethod
    def parse(cls, source: str) -> Self:
        """Read a path or a ``file:`` URI.

        Raises:
            InvalidConfig: if it is neither; the text does not show it, since it may be the PIN itself.
        """
        if source.startswith("file:"):
            parts = urlsplit(source)
            if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment or not parts.path.startswith("/"):
                raise InvalidConfig("pin_source: its file: URI must name a file of this machine, as in file:/etc/pin")
            return cls(Path(unquote(parts.path)))
        if "/" not in source or source.startswith("|"):
            raise InvalidConfig("pin_source: must be a path with a slash in it, or a file: URI, not the PIN itself")
        return cls(Path(source))

    def read(self) -> bytes:
        """The PIN, as the file holds it now.

        Raises:
            InvalidConfig: if the file is open to every user, empty, or holds no PIN.
            KeyManagerUnavailable: if it cannot be read.
        """
        try:
            pin = read_secret(self.path, MAX_PIN_BYTES + 2)
        except OSError as exc:
            raise KeyManagerUnavailable(f"pin_source: cannot read {self.path}: {exc.strerror}") from exc
        except InvalidConfig as exc:
            raise InvalidConfig(f"pin_source: {exc}") from exc
        pin = pin.removesuffix(b"\n").removesuffix(b"\r")
        if not pin or len(pin) > MAX_PIN_BYTES or b"\n" in pin or b"\0" in pin:
            raise InvalidConfig(f"pin_source: {self.path} holds no PIN: it must be one line of 1 to 255 bytes")
        return pin


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
