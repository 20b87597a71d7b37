"""Reading a file that holds a secret: a PIN, or private keys.

A file that every user of the machine may read or write is refused: its secret is none.  One that its group may
read is used, with a warning, since Kubernetes gives the files of a mounted volume to a group.
"""

import os
import stat
from pathlib import Path
from typing import Final

import structlog

from spiffe_core.errors import InvalidConfig

_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH
_GROUP: Final = stat.S_IRGRP | stat.S_IWGRP

log: Final = structlog.get_logger()
_warned: Final[set[Path]] = set()


class SecretExposed(InvalidConfig):
    """A file that should hold a secret is open to every user."""


def read_secret(path: Path, limit: int) -> bytes:
    """The file's content.

    Raises:
        OSError: if it cannot be read.
        SecretExposed: if every user may read or write it.
        InvalidConfig: if it is longer than ``limit`` bytes, or no file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not keep us waiting
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidConfig(f"{path} is no file")
        if status.st_mode & _OTHERS:
            raise SecretExposed(f"every user may read or write {path}: replace the secret, and chmod 600 the file")
        if status.st_mode & _GROUP and path not in _warned:
            _warned.add(path)
            log.warning("File with a secret is open to its group", path=str(path), mode=f"{status.st_mode & 0o777:04o}")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InvalidConfig(f"{path} is longer than {limit} bytes")
    return content
