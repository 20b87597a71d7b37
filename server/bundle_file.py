"""The trust bundle in a file, as ``bundle show`` prints it, by which an agent can trust this server the first time.

The file follows the bundle and is replaced in one step.  It is public, and no more to be trusted than its folder.
Servers and workers that are given the same file write the same to it.
"""

import asyncio
from pathlib import Path
from typing import Final, Protocol

import structlog

from spiffe_core.bundle import Bundle
from spiffe_core.errors import Unavailable
from spiffe_core.runtime.cli.pem import pem
from spiffe_core.runtime.files import write_private

PUBLIC_FILE: Final = 0o644

log: Final = structlog.get_logger()


class KnowsOwnBundle(Protocol):
    """Where the bundle of our own trust domain is known."""

    @property
    def own(self) -> Bundle:
        """That bundle."""


class BundleFile:
    """Keeps one file at what the bundle holds."""

    def __init__(self, path: Path, trust: KnowsOwnBundle) -> None:
        self._path = path
        self._trust = trust
        self._written = ""

    async def follow(self) -> None:
        """Write the file if the bundle has changed since it was written, or it is gone.

        Raises:
            Unavailable: if it cannot be written; it is then as it was.
        """
        text = pem("CERTIFICATE", [authority.der for authority in self._trust.own.x509_authorities])
        try:
            if text == self._written and self._path.exists():
                return
            await asyncio.to_thread(write_private, self._path, text.encode(), PUBLIC_FILE)
        except OSError as exc:
            raise Unavailable(f"server.bundle_path: cannot write {self._path}: {exc.strerror}") from exc
        self._written = text
        log.info("Trust bundle written", path=str(self._path), authorities=len(self._trust.own.x509_authorities))
