"""Sockets that listen: their modes, what they replace, what they refuse; and how connections are taken from them."""

import asyncio
import contextlib
import os
import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.files import private_folder
from spiffe_core.runtime.sockets import MAX_SOCKET_PATH, Acceptor, listen_abstract, listen_tcp, listen_unix
from tests.support.houses import until


@pytest.fixture
def folder():
    with private_folder() as path:
        yield path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def is_served(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


@pytest.mark.parametrize("wanted", [0o600, 0o660, 0o770, 0o777], ids=oct)
def test_a_socket_has_its_mode_whatever_the_umask(folder, wanted):
    with listen_unix(folder / "api.sock", mode=wanted):
        assert mode(folder / "api.sock") == wanted
        assert [entry.name for entry in folder.iterdir()] == ["api.sock"]


def test_folders_that_are_missing_are_made_and_closed_to_others(folder):
    before = os.umask(0o022)
    try:
        with listen_unix(folder / "a" / "api.sock", mode=0o777):
            assert mode(folder / "a") == 0o750
    finally:
        os.umask(before)


def test_a_socket_that_a_killed_process_left_is_replaced(folder):
    path = folder / "api.sock"
    code = "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, path], check=False, timeout=60)
    assert path.is_socket()
    assert not is_served(path)
    with listen_unix(path, mode=0o600):
        assert is_served(path)


def test_a_socket_that_still_listens_is_replaced_in_one_step(folder):
    path = folder / "api.sock"
    with listen_unix(path, mode=0o600) as old, listen_unix(path, mode=0o600) as new:
        assert is_served(path)
        new.accept()[0].close()
        with pytest.raises(BlockingIOError):
            old.accept()


def test_what_is_no_socket_is_not_replaced(folder):
    for name, make in (("file", Path.touch), ("folder", Path.mkdir)):
        path = folder / name
        make(path)
        with pytest.raises(InvalidConfig, match="there is something else of that name"):
            listen_unix(path, mode=0o600)
        assert path.exists()


def test_a_link_is_not_followed(folder):
    with listen_unix(folder / "real.sock", mode=0o600):
        (folder / "link").symlink_to(folder / "real.sock")
        with pytest.raises(InvalidConfig, match="something else"):
            listen_unix(folder / "link", mode=0o600)


def test_a_path_too_long_for_the_kernel_is_refused_and_the_longest_is_not(folder):
    longest = folder / ("s" * (MAX_SOCKET_PATH - len(str(folder)) - 1))
    with listen_unix(longest, mode=0o600):
        assert is_served(longest)
    with pytest.raises(InvalidConfig, match="is too long: 107 bytes are the most"):
        listen_unix(folder / f"{longest.name}s", mode=0o600)


def test_a_path_is_measured_in_bytes(folder):
    name = "ü" * ((MAX_SOCKET_PATH - len(str(folder))) // 2 + 1)
    with pytest.raises(InvalidConfig, match="too long"):
        listen_unix(folder / name, mode=0o600)


def test_a_folder_that_is_a_file_is_named(folder):
    (folder / "file").touch()
    with pytest.raises(InvalidConfig, match=r"cannot listen on '.*/file/api\.sock': File exists"):
        listen_unix(folder / "file" / "api.sock", mode=0o600)
    assert [entry.name for entry in folder.iterdir()] == ["file"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_tcp_address_is_listened_on(address):
    with listen_tcp(address, 0) as listener, socket.create_connection(listener.getsockname()[:2], timeout=10):
        connection, where = listener.accept()
        connection.close()
        assert where[0] == address


@pytest.mark.parametrize("address", ["localhost", "nowhere.test", "203.0.113.1", "fe80::1", "127.0.0.1:80"])
def test_what_is_no_address_of_this_machine_is_refused(address):
    with pytest.raises(InvalidConfig, match=r"^cannot listen on"):
        listen_tcp(address, 0)


def test_a_port_that_is_taken_is_refused_unless_both_share_it():
    with listen_tcp("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(InvalidConfig, match=f"cannot listen on '127.0.0.1' port {port}: Address already in use"):
            listen_tcp("127.0.0.1", port)
        with pytest.raises(InvalidConfig, match="already in use"):
            listen_tcp("127.0.0.1", port, shared=True)
    with listen_tcp("127.0.0.1", 0, shared=True) as first, listen_tcp("127.0.0.1", first.getsockname()[1], shared=True):
        pass


def test_no_descriptor_of_ours_goes_to_a_child(folder):
    with listen_tcp("127.0.0.1", 0) as tcp, listen_unix(folder / "s", mode=0o600) as unix, listen_abstract("s") as name:
        for listener in (tcp, unix, name):
            assert not os.get_inheritable(listener.fileno())


async def test_an_acceptor_waits_while_there_are_no_descriptors_and_then_goes_on(folder):
    taken: list[socket.socket] = []
    acceptor = Acceptor(listen_unix(folder / "s", mode=0o600), lambda connection, _address: taken.append(connection))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.setblocking(False)
        with structlog.testing.capture_logs() as logs:
            resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
            try:
                with contextlib.ExitStack() as hoard:  # descriptors below the limit that are still free
                    with contextlib.suppress(OSError):
                        while True:
                            hoard.callback(os.close, os.dup(client.fileno()))
                    client.connect(str(folder / "s"))
                    await until(lambda: bool(logs))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [(line["event"], line["error"]) for line in logs] == [
            ("Connections cannot be accepted", "Too many open files")
        ]
        await until(lambda: len(taken) == 1)
    acceptor.close()
    acceptor.close()
    taken[0].close()
    await asyncio.sleep(0)
