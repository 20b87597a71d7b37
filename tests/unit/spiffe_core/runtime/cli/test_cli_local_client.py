"""Calls to a socket at which nobody, or somebody else, is: what is told is what grpc-go tells."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor

from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.api.spire.api.types.bundle_pb2 import Bundle
from spiffe_core.runtime.cli.local_client import LocalClient, RpcFailure, code_name
from spiffe_core.runtime.files import private_folder

BUNDLES: FileDescriptor = bundle_pb2.DESCRIPTOR
UNREACHED = 'rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing: dial unix'


@pytest.fixture
def folder() -> Iterator[Path]:
    with private_folder() as path:
        yield path


def failure(path: object, timeout: float | None = None) -> RpcFailure:
    with LocalClient(str(path)) as client, pytest.raises(RpcFailure) as caught:
        client.call(BUNDLES, "GetBundle", bundle_pb2.GetBundleRequest(), Bundle, timeout=timeout)
    return caught.value


def test_a_socket_that_is_not_there_is_named(folder):
    found = failure(folder / "no.sock")
    assert found.message == f'{UNREACHED} {folder}/no.sock: connect: no such file or directory"'
    assert found.code is grpc.StatusCode.UNAVAILABLE


def test_a_server_that_died_leaves_a_socket_that_refuses(folder):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "dead.sock"))
    assert failure(folder / "dead.sock").message == f'{UNREACHED} {folder}/dead.sock: connect: connection refused"'


def test_a_file_is_no_socket(folder):
    (folder / "file").touch()
    assert failure(folder / "file").message == f'{UNREACHED} {folder}/file: connect: connection refused"'


def test_a_path_that_is_too_long_is_told_as_such():
    path = "/tmp/" + "x" * 200
    assert failure(path).message == f'{UNREACHED} {path}: connect: invalid argument"'


def test_an_empty_path_is_no_address():
    assert failure("").message == f'{UNREACHED}: missing address"'


@pytest.mark.parametrize("name", ["with space", "per%20cent", "☃", "a:b?c#d"])
def test_odd_names_are_taken_as_they_are(folder, name):
    assert f"dial unix {folder}/{name}: connect: no such" in failure(folder / name).message


@contextlib.contextmanager
def listening(path: Path, *, hang_up: bool) -> Iterator[None]:
    """Somebody who accepts connections and says nothing, or hangs up."""
    held = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    if hang_up:
                        connection.close()
                    else:
                        held.append(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def test_somebody_who_hangs_up_speaks_no_grpc(folder):
    with listening(folder / "a.sock", hang_up=True):
        message = failure(folder / "a.sock").message
    assert message in {
        f'rpc error: code = Unavailable desc = connection error: desc = "error reading server preface: {reason}"'
        for reason in ("EOF", "connection reset by peer")
    }


def test_somebody_who_says_nothing_is_waited_for_no_longer_than_asked(folder):
    with listening(folder / "a.sock", hang_up=False):
        message = failure(folder / "a.sock", timeout=0.2).message
    assert message == "rpc error: code = DeadlineExceeded desc = context deadline exceeded"


@pytest.mark.parametrize(("code", "name"), [(0, "OK"), (1, "Canceled"), (5, "NotFound"), (16, "Unauthenticated")])
def test_codes_have_gos_names(code, name):
    assert code_name(code) == name


@pytest.mark.parametrize("code", [-1, 17, 1000])
def test_a_code_that_is_not_known_is_told_by_its_number(code):
    assert code_name(code) == f"Code({code})"
