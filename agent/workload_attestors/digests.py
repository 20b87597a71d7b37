"""SHA-256 digests of the programs that workloads run.

Reading a program may take long, or for ever where its file system is a network's or a workload's own, so files
are opened and read in threads of their own.  A digest is kept under all that identifies the file's content (device,
inode, size and both times); a file that changed within the last moments is not kept, since another change might
leave its times as they are.  Callers that ask for one file at once wait for one reading.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import file_digest
from time import time_ns
from typing import Final

from spiffe_core.errors import Internal

MOST: Final = 4096
"""Digests that are kept."""
_THREADS: Final = 4
_SETTLED: Final = 2_000_000_000
"""Nanoseconds after which a file's times tell all changes apart, on any file system."""


@dataclass(frozen=True, slots=True)
class _Content:
    """A file at one moment: equal if its bytes must be."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @property
    def is_settled(self) -> bool:
        return time_ns() - max(self.modified, self.changed) > _SETTLED


class Digests:
    """Digests of files, on one event loop."""

    def __init__(self) -> None:
        self._kept: dict[_Content, str] = {}
        self._read: dict[_Content, asyncio.Task[str]] = {}
        self._asked: set[asyncio.Task[str]] = set()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="digests")

    async def of(self, path: str, limit: int) -> str:
        """The digest of the file at ``path``, in hexadecimal; ``limit`` bytes are the most, 0 for any length.

        Raises:
            Internal: if the file cannot be read, or is longer.
        """
        # A caller that gives up leaves this task to close what it has opened.
        task = asyncio.get_running_loop().create_task(self._of(path, limit))
        self._asked.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def close(self) -> None:
        """Begin to read nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _of(self, path: str, limit: int) -> str:
        loop = asyncio.get_running_loop()
        try:
            descriptor, content = await loop.run_in_executor(self._threads, _open, path)
            if content in self._kept or content in self._read or 0 < limit < content.size:
                os.close(descriptor)
            else:
                self._read[content] = loop.create_task(self._digest(descriptor, content))
            if 0 < limit < content.size:
                raise Internal(f"SHA256 digest: workload {path} exceeds size limit ({content.size} > {limit})")
            return self._kept[content] if content in self._kept else await self._read[content]
        except OSError as exc:
            raise Internal(f"SHA256 digest: {path}: {exc.strerror}") from exc

    async def _digest(self, descriptor: int, content: _Content) -> str:
        try:
            digest = await asyncio.get_running_loop().run_in_executor(self._threads, _read, descriptor)
        finally:
            del self._read[content]
        if content.is_settled:
            if len(self._kept) >= MOST:
                del self._kept[next(iter(self._kept))]
            self._kept[content] = digest
        return digest

    def _ended(self, task: asyncio.Task[str]) -> None:
        self._asked.discard(task)
        if not task.cancelled():
            task.exception()  # its caller, if he is still there, has it too


def _open(path: str) -> tuple[int, _Content]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    return descriptor, _Content(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _read(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        return file_digest(file, "sha256").hexdigest()
