"""Files that hold secrets or must never be seen half written.

``write_private`` replaces a file in one step and makes it durable: a reader, or the next start after a power
cut, finds the old content or the new one; ``create_private`` does so where there is no file yet.  ``secret_path``
gives a C library that insists on a file name the bytes without any file: a sealed memfd, reachable by this process
only and gone with the block.  ``private_folder`` is where sockets live that no other user may reach.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

PRIVATE_FILE: Final = 0o600
"""Mode of a file that only its owner reads."""


def write_private(path: Path, content: bytes, mode: int = PRIVATE_FILE) -> None:
    """Make ``content`` the whole content of ``path``, atomically and durably.

    Raises:
        OSError: if that is impossible; ``path`` is then as it was.
    """
    with _written(path, content, mode) as temporary:
        temporary.replace(path)
    _sync_folder(path.parent)


def create_private(path: Path, content: bytes, mode: int = PRIVATE_FILE) -> None:
    """Make a file with that content, atomically and durably, unless there is one.

    Raises:
        FileExistsError: if there is one: it is not touched, and whole.
        OSError: if that is impossible; there is then no file.
    """
    with _written(path, content, mode) as temporary:
        os.link(temporary, path)
    _sync_folder(path.parent)


@contextmanager
def _written(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """A temporary file beside ``path`` with the content, durable; what is left of it after the block is removed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what ``write_private`` has left beside ``path`` where its process was killed."""
    for left in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 8}"):
        with suppress(OSError):
            left.unlink()


@contextmanager
def secret_path(content: bytes) -> Iterator[str]:
    """A path from which ``content`` can be read inside the block, and that is on no disk."""
    descriptor = os.memfd_create("secret", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        fcntl.fcntl(
            descriptor,
            fcntl.F_ADD_SEALS,
            fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL,
        )
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


@contextmanager
def private_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder of mode 0700, removed with all it holds at the end.

    Its path is short, since the path of a Unix socket has at most 107 bytes; without a ``parent`` it lies
    where the machine keeps temporary files.
    """
    folder = Path(tempfile.mkdtemp(prefix="steeple-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Make the folder's entries durable: a rename is not before this."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
