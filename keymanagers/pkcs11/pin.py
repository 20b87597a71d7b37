"""Where a token's user PIN comes from: a file, a descriptor, the environment, a systemd credential, or a program.

A source is read at each login, so that a PIN that was changed counts from the next one on; only a descriptor gives
what it has once, and is remembered.  What a source is called says where it is and never what is in it.
"""

import os
import re
import select
import shlex
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Protocol, Self
from urllib.parse import unquote, urlsplit

from keymanagers.secretfile import read_secret
from spiffe_core.errors import InvalidConfig, KeyManagerUnavailable

MAX_PIN_BYTES: Final = 255
"""Longest PIN that is read."""
_LIMIT: Final = MAX_PIN_BYTES + 2
"""With the end of its line."""
_PATIENCE: Final = 10.0
"""Seconds that a descriptor or a program may take, unless it is told otherwise."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")


class PinSource(Protocol):
    """Gives a PIN; ``str`` of it is how messages call it."""

    def read(self) -> bytes:
        """The PIN as it is now.

        Raises:
            InvalidConfig: if there is none, or it is open to every user.
            KeyManagerUnavailable: if it cannot be had now.
        """


@dataclass(frozen=True, slots=True)
class PinFile:
    """A file with a PIN in it; one newline at its end does not count."""

    path: Path

    @classmethod
    def of_uri(cls, uri: str) -> Self:
        """The file of a ``file:`` URI."""
        parts = urlsplit(uri)
        if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment or not parts.path.startswith("/"):
            raise InvalidConfig("pin_source: its file: URI must name a file of this machine, as in file:/etc/pin")
        return cls(Path(unquote(parts.path)))

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> bytes:
        """The PIN, as the file holds it now."""
        try:
            return _line(read_secret(self.path, _LIMIT), self)
        except OSError as exc:
            raise KeyManagerUnavailable(f"pin_source: cannot read {self}: {exc.strerror}") from exc
        except InvalidConfig as exc:
            text = str(exc)
            raise InvalidConfig(text if text.startswith("pin_source: ") else f"pin_source: {text}") from exc


@dataclass(frozen=True, slots=True)
class PinDescriptor:
    """A file descriptor that this process was started with, such as one end of a pipe; it is read once and closed."""

    number: int
    patience: float = _PATIENCE

    def __str__(self) -> str:
        return f"file descriptor {self.number}"

    def read(self) -> bytes:
        """The PIN, as it was when it was read first."""
        return _line(_content(self.number, self.patience), self)


@dataclass(frozen=True, slots=True)
class PinVariable:
    """A variable of the environment."""

    name: str

    def __str__(self) -> str:
        return f"environment variable {self.name}"

    def read(self) -> bytes:
        """The PIN."""
        value = os.environ.get(self.name)
        if value is None:
            raise InvalidConfig(f"pin_source: {self} is not set")
        return _line(os.fsencode(value), self)


@dataclass(frozen=True, slots=True)
class PinCredential:
    """A credential that systemd hands over (``LoadCredential=``, ``LoadCredentialEncrypted=``)."""

    name: str

    def __str__(self) -> str:
        return f"credential {self.name}"

    def read(self) -> bytes:
        """The PIN, as the service was started with it."""
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise InvalidConfig(
                f"pin_source: there is no {self}: $CREDENTIALS_DIRECTORY is not set, so the service was not started by "
                "systemd with LoadCredential"
            )
        return PinFile(Path(folder, self.name)).read()


@dataclass(frozen=True, slots=True)
class PinProgram:
    """A program that prints the PIN; run without a shell, with nothing to read."""

    command: tuple[str, ...]
    patience: float = _PATIENCE

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a command line: words as a shell has them, the first an absolute path."""
        try:
            words = tuple(shlex.split(text))
        except ValueError:
            words = ()
        if not words or not words[0].startswith("/"):
            raise InvalidConfig("pin_source: after | must come a program with its absolute path, and its arguments")
        return cls(words)

    def __str__(self) -> str:
        return f"program {self.command[0]}"

    def read(self) -> bytes:
        """The PIN that the program prints now; what it says on its standard error is not kept, since it may show it."""
        try:
            # The child is a new program at once (vfork, exec): no library of ours is ever forked with.
            done = subprocess.run(  # noqa: S603  it is the operator's choice
                self.command, stdin=subprocess.DEVNULL, capture_output=True, timeout=self.patience, check=False
            )
        except OSError as exc:
            raise KeyManagerUnavailable(f"pin_source: {self} cannot be run: {exc.strerror}") from None
        except subprocess.TimeoutExpired:
            raise KeyManagerUnavailable(f"pin_source: {self} did not end within {self.patience:g} s") from None
        if done.returncode:
            raise KeyManagerUnavailable(f"pin_source: {self} ended with code {done.returncode}")
        return _line(done.stdout, self)


def parse_pin_source(source: str) -> PinSource:
    """Read a ``pin_source``.

    Raises:
        InvalidConfig: if it is none; the text does not show it, since it may be the PIN itself.
    """
    kind, colon, rest = source.partition(":")
    if source.startswith("|"):
        return PinProgram.parse(source[1:])
    if colon and kind == "file":
        return PinFile.of_uri(source)
    if colon and kind == "fd" and rest.isascii() and rest.isdecimal() and len(rest) < 8:  # noqa: PLR2004  an int
        return PinDescriptor(int(rest))
    if colon and kind == "env" and _NAME.fullmatch(rest):
        return PinVariable(rest)
    if colon and kind == "credential" and _CREDENTIAL.fullmatch(rest) and rest not in {".", ".."}:
        return PinCredential(rest)
    if "/" in source and kind not in {"fd", "env", "credential"}:
        return PinFile(Path(source))
    raise InvalidConfig(
        "pin_source: must be a path with a slash in it, a file: URI, fd:NUMBER, env:NAME, credential:NAME, or | and a "
        "program that prints the PIN, but not the PIN itself"
    )


def _line(content: bytes, source: object) -> bytes:
    """The one line that the content is."""
    pin = content.removesuffix(b"\n").removesuffix(b"\r")
    if not pin or len(pin) > MAX_PIN_BYTES or b"\n" in pin or b"\0" in pin:
        raise InvalidConfig(f"pin_source: {source} holds no PIN: it must be one line of 1 to 255 bytes")
    return pin


@cache
def _content(descriptor: int, patience: float) -> bytes:
    """What can be read from a descriptor, which can be done once; it is closed then."""
    content = b""
    end = time.monotonic() + patience
    try:
        while len(content) <= _LIMIT:
            if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
                raise KeyManagerUnavailable(f"pin_source: file descriptor {descriptor} gave no end of its content")
            piece = os.read(descriptor, _LIMIT)
            if not piece:
                break
            content += piece
        os.close(descriptor)
    except (OSError, ValueError) as exc:
        raise KeyManagerUnavailable(f"pin_source: file descriptor {descriptor} cannot be read: {exc}") from exc
    return content
