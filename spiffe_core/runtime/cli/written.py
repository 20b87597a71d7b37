"""Files that commands write: whole or not at all, and with the mode that their content asks for."""

from pathlib import Path
from typing import Final

from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.files import write_private
from spiffe_core.runtime.gotext import os_error

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644


def write(path: Path, content: bytes, mode: int, complaint: str = "") -> None:
    """Write a file.

    Raises:
        CommandError: if that is impossible, with the reason after the ``complaint``.
    """
    try:
        write_private(path, content, mode)
    except (OSError, ValueError) as exc:
        reason = os_error("open", path, exc) if isinstance(exc, OSError) else str(exc)
        raise CommandError(f"{complaint}{reason}") from exc
