"""Secrets in files: never half written, never readable by others, and in no file at all where a name will do."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from spiffe_core.runtime.files import create_private, private_folder, secret_path, write_private


def test_a_file_is_written_with_its_mode_whatever_the_umask(tmp_path):
    for mode in (0o600, 0o644):
        before = os.umask(0o077)
        try:
            write_private(tmp_path / "file", b"content", mode)
        finally:
            os.umask(before)
        assert (tmp_path / "file").read_bytes() == b"content"
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_a_file_is_replaced_and_not_written_over(tmp_path):
    path = tmp_path / "file"
    write_private(path, b"old")
    with path.open("rb") as reader:
        write_private(path, b"new and longer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new and longer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_is_as_it_was(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        write_private(tmp_path / "file", b"content")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_is_made_only_where_there_is_none(tmp_path):
    path = tmp_path / "file"
    create_private(path, b"first")
    with pytest.raises(FileExistsError):
        create_private(path, b"second")
    assert path.read_bytes() == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_nlink == 1
    assert list(tmp_path.iterdir()) == [path]


def test_of_several_who_make_a_file_one_does_and_nobody_ever_sees_half_of_it(tmp_path):
    path, contents = tmp_path / "file", [bytes([number]) * 100_000 for number in range(8)]

    def make(content):
        with suppress(FileExistsError):
            create_private(path, content)
        return path.read_bytes()

    with ThreadPoolExecutor(8) as threads:
        seen = set(threads.map(make, contents))
    assert len(seen) == 1
    assert seen <= set(contents)


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_private(tmp_path / "missing" / "file", b"content")


def test_a_link_is_replaced_and_what_it_names_is_not_touched(tmp_path):
    (tmp_path / "target").write_bytes(b"somebody's")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    write_private(tmp_path / "file", b"ours")
    assert (tmp_path / "target").read_bytes() == b"somebody's"
    assert not (tmp_path / "file").is_symlink()


def test_a_secret_has_a_path_for_the_length_of_the_block_and_cannot_be_changed():
    with secret_path(b"secret") as path:
        assert Path(path).read_bytes() == b"secret"
        descriptor = int(Path(path).name)
        assert not os.get_inheritable(descriptor)
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"X", 0)
    assert not Path(path).exists()


def test_a_secret_is_gone_after_an_error_too():
    with pytest.raises(ZeroDivisionError), secret_path(b"secret") as path:
        raise ZeroDivisionError
    assert not Path(path).exists()


def test_a_private_folder_is_nobody_elses_and_goes_with_all_it_holds():
    with private_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "file").touch()
    assert not folder.exists()
