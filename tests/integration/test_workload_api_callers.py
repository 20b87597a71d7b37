"""How the agent tells its callers apart: by what the kernel says of the process at the other end of the socket."""

import asyncio
import contextlib
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import grpc
import pytest
from grpc import StatusCode

from agent.workload_attestors.unix import UnixAttestor, UnixConfig
from spiffe_core.api import workload_pb2
from spiffe_core.runtime.files import private_folder
from tests.support.needs import privileged
from tests.support.workloads import FakeAttestor, Served, calling, refused, serving

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = Path(sys.executable).resolve()
"""What runs as this Python."""
CONNECT: Final = """
import os, socket, sys
connection = socket.socket(fileno=int(sys.argv[1]))
connection.setblocking(True)
connection.connect(sys.argv[2])
print("connected", flush=True)
for user in sys.stdin:
    os.setresuid(int(user), int(user), int(user))
    print("changed", flush=True)
connection.detach()
"""


class Workload:
    """A workload in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def ids(self) -> str:
        """The IDs that it is given, or how it is refused."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"id\n")
        return (await self._process.stdout.readline()).decode().strip()


@contextlib.asynccontextmanager
async def workload(served: Served, program: str = sys.executable, user: int | None = None) -> AsyncIterator[Workload]:
    """Run a workload, perhaps of another program or user."""
    process = await asyncio.create_subprocess_exec(
        program,
        "-m",
        "tests.support.workload_process",
        str(served.socket),
        *([] if user is None else [str(user)]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        yield Workload(process)
    finally:
        await process.communicate(b"exit\n")


@contextlib.contextmanager
def other_program() -> Iterator[str]:
    """A copy of this Python with other content and at another path, which runs as well."""
    with private_folder() as folder:
        copy = folder / "another-python"
        copy.write_bytes(PROGRAM.read_bytes() + b"another")
        copy.chmod(0o700)
        yield str(copy)


@pytest.mark.conformance("W-4", "WE-11")
async def test_two_processes_of_one_user_get_different_identities_over_one_socket():
    async with serving(attestors=[FakeAttestor()]) as served, workload(served) as one, workload(served) as two:
        served.identities.add("/one", f"fake:pid:{one.pid}")
        served.identities.add("/two", f"fake:pid:{two.pid}")
        answers = await asyncio.gather(one.ids(), two.ids())
        assert answers == ["spiffe://example.org/one", "spiffe://example.org/two"]


async def test_two_programs_get_different_identities():
    attestor = UnixAttestor(UnixConfig(discover_workload_path=True))
    with other_program() as program:
        async with (
            serving(attestors=[attestor]) as served,
            workload(served) as usual,
            workload(served, program) as other,
        ):
            digest = hashlib.sha256(PROGRAM.read_bytes() + b"another").hexdigest()
            served.identities.add("/usual", f"unix:path:{PROGRAM}")
            served.identities.add("/other", f"unix:sha256:{digest}", f"unix:path:{program}")
            answers = await asyncio.gather(usual.ids(), other.ids())
            assert answers == ["spiffe://example.org/usual", "spiffe://example.org/other"]


@privileged
async def test_two_users_get_different_identities():
    async with serving() as served:
        served.folder.chmod(0o755)
        async with workload(served, user=65534) as nobody, workload(served) as me:
            served.identities.add("/nobody", "unix:uid:65534")
            served.identities.add("/root", "unix:uid:0")
            assert await nobody.ids() == "spiffe://example.org/nobody"
            assert await me.ids() == "spiffe://example.org/root"


@contextlib.asynccontextmanager
async def carried(served: Served, connection: socket.socket) -> AsyncIterator[Path]:
    """A socket from which bytes are carried over a connection that is open already, and back."""
    there = await asyncio.open_unix_connection(sock=connection)
    carriers: list[asyncio.Task[None]] = []

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.closing(sink):
            while data := await source.read(65536):
                sink.write(data)

    async def here(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carriers.extend([asyncio.create_task(carry(reader, there[1])), asyncio.create_task(carry(there[0], writer))])

    path = served.folder / "carried.sock"
    server = await asyncio.start_unix_server(here, path)
    try:
        yield path
    finally:
        server.close()
        for carrier in carriers:
            carrier.cancel()
        await asyncio.gather(*carriers, return_exceptions=True)
        there[1].close()
        with contextlib.suppress(OSError):
            await there[1].wait_closed()


@contextlib.asynccontextmanager
async def handed_over(served: Served) -> AsyncIterator[tuple[asyncio.subprocess.Process, Path]]:
    """A connection that another process opened, and a socket over which this one speaks on it.

    What the kernel says of the connection stays what it was when it was opened.
    """
    connection = socket.socket(socket.AF_UNIX)
    opener = await asyncio.create_subprocess_exec(
        *opening(served, connection),
        pass_fds=[connection.fileno()],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert opener.stdout is not None
    assert await opener.stdout.readline() == b"connected\n"
    try:
        async with carried(served, connection) as path:
            yield opener, path
    finally:
        await opener.communicate(b"")


def opening(served: Served, connection: socket.socket) -> list[str]:
    """The command of a process that connects a socket which it inherits, and stays until its input ends."""
    return [sys.executable, "-c", CONNECT, str(connection.fileno()), str(served.socket)]


@pytest.mark.conformance("WE-11")
async def test_a_caller_is_known_by_the_process_that_opened_its_connection():
    attestor = FakeAttestor()
    async with (
        serving(attestors=[attestor]) as served,
        handed_over(served) as (opener, path),
        calling(path) as caller,
    ):
        served.identities.add("/opener", f"fake:pid:{opener.pid}")
        [svid] = (await caller.first("FetchX509SVID")).svids
        assert svid.spiffe_id == "spiffe://example.org/opener"
        assert attestor.asked == [opener.pid]


@privileged
@pytest.mark.conformance("WE-11")
async def test_a_process_that_has_become_another_users_does_not_get_that_users_identities():
    async with serving() as served:
        served.folder.chmod(0o755)
        served.identities.add("/root", "unix:uid:0")
        served.identities.add("/nobody", "unix:uid:65534")
        async with handed_over(served) as (opener, path), calling(path) as caller:
            [svid] = (await caller.first("FetchX509SVID")).svids
            assert svid.spiffe_id == "spiffe://example.org/root"
            assert opener.stdin is not None
            assert opener.stdout is not None
            opener.stdin.write(b"65534\n")
            assert await opener.stdout.readline() == b"changed\n"
            text = (
                f"the caller's process {opener.pid} is no longer of the user and group that opened the connection: "
                "connect again"
            )
            async with refused(StatusCode.UNAUTHENTICATED, text):
                await caller.first("FetchX509SVID")
            async with refused(StatusCode.UNAUTHENTICATED, text):
                await caller.call("FetchJWTSVID", workload_pb2.JWTSVIDRequest(audience=["a"]))


@pytest.mark.conformance("WE-11")
async def test_a_connection_whose_process_has_ended_is_nobodys():
    attestor = FakeAttestor()
    async with (
        serving(attestors=[attestor]) as served,
        handed_over(served) as (opener, path),
        calling(path) as caller,
    ):
        served.identities.add("/opener", f"fake:pid:{opener.pid}")
        await caller.first("FetchX509SVID")
        await opener.communicate(b"")
        assert opener.returncode == 0
        for name in ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"):
            async with refused(StatusCode.UNAUTHENTICATED, f"the caller's process {opener.pid} has ended"):
                await caller.first(name)
        assert attestor.asked == [opener.pid]


@pytest.mark.conformance("WE-11")
async def test_a_process_that_ended_before_its_connection_was_taken_is_nobody():
    attestor = FakeAttestor()
    async with serving(attestors=[attestor]) as served:
        # The opener connects and ends while this process, which runs the agent too, does nothing else.
        connection = socket.socket(socket.AF_UNIX)
        subprocess.run(  # noqa: ASYNC221  the agent shall not run meanwhile
            opening(served, connection),
            pass_fds=[connection.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        async with carried(served, connection) as path, calling(path) as caller:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await caller.first("FetchX509SVID")
    assert caught.value.code() is StatusCode.UNAUTHENTICATED  # its text depends on how old the kernel is
    assert not attestor.asked
