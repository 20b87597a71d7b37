"""Programs that a test runs and reads the answers of, one JSON object a line."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any


class Program:
    """A running program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def said(self) -> dict[str, Any]:
        """The next object that it says; what it complains of, if it ends instead."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise AssertionError(await self.complaint())
        found: dict[str, Any] = json.loads(line)
        return found

    async def complaint(self) -> str:
        """What it wrote to standard error, once it has ended."""
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode()

    async def code(self) -> int:
        """Its exit code, once it has ended."""
        return await self._process.wait()


@contextlib.asynccontextmanager
async def running(*command: str) -> AsyncIterator[Program]:
    """Run a program, which is killed at the end of the block if it has not ended."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
