"""A real server whose disk is full, whose database is locked or read-only: reads go on, and all recovers by itself."""

import signal
import sqlite3
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from server.datastore.config import DatabaseType, SqlConfig
from tests.support import needs
from tests.support.server_processes import server_process
from tests.support.softhsm import missing
from tests.support.troubles import troubled

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm

DISK_BYTES = 12 * 1024 * 1024


def database_at(text):
    return SqlConfig(database_type=DatabaseType.SQLITE, connection_string=str(text))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of twelve megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "steeple-test", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        missing("a mount that this user may make")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"x" * 4096)
    return path


@needs.privileged
async def test_on_a_full_disk_writes_are_refused_and_everything_else_goes_on(own_token, small_disk):
    with server_process(token=own_token, database=database_at(small_disk / "db.sqlite3")) as server:
        server.start()
        async with troubled(server) as trouble:
            signer = await trouble.signs()
            assert not await trouble.writes(10)
            filler = fill(small_disk)
            refused = ""
            acknowledged = await trouble.count()
            while not refused:
                refused = await trouble.writes(50)
                acknowledged += 0 if refused else 50
            assert "its disk is full; make room" in refused
            for _ in range(3):
                assert "its disk is full; make room" in await trouble.writes(50)
                await trouble.reads()
                assert await trouble.signs() == signer
            assert await trouble.count() == acknowledged  # nothing is half written
            filler.unlink()
            await trouble.recovers(signer)
        assert server.end() == 0


async def test_while_another_program_locks_the_database_writes_are_refused_and_everything_else_goes_on(own_token):
    with server_process(token=own_token) as server:
        server.start()
        async with troubled(server) as trouble:
            signer = await trouble.signs()
            locker = sqlite3.connect(server.folder / "db.sqlite3", isolation_level=None)
            locker.execute("BEGIN IMMEDIATE")
            assert "it is locked by another process or transaction" in await trouble.writes()
            await trouble.reads()
            assert await trouble.signs() == signer
            assert await trouble.count() == 0
            locker.execute("ROLLBACK")
            locker.close()
            await trouble.recovers(signer)
        assert server.end() == 0


async def test_a_server_on_a_read_only_database_reads_and_signs_and_says_why_it_does_not_write(own_token):
    with server_process(token=own_token) as first:
        first.start()
        async with troubled(first) as trouble:
            signer = await trouble.signs()
            assert not await trouble.writes()
        assert first.end() == 0
        frozen = database_at(f"file:{first.folder}/db.sqlite3?mode=ro")
        with server_process(token=own_token, database=frozen) as second:
            second.start()
            async with troubled(second) as trouble:
                await trouble.reads()
                assert await trouble.signs() == signer
                assert "it is read-only" in await trouble.writes()
                assert await trouble.count() == 1
            assert second.end() == 0


async def test_a_server_that_is_killed_has_kept_what_it_acknowledged_and_signs_as_before(own_token):
    with server_process(token=own_token) as server:
        server.start()
        async with troubled(server) as trouble:
            signer = await trouble.signs()
            for _ in range(5):
                assert not await trouble.writes(20)
        server.end(signal.SIGKILL)
        server.start()
        async with troubled(server) as trouble:
            assert await trouble.signs() == signer
            assert await trouble.count() == 100
        assert server.end() == 0
