"""Which program runs as a plugin, and what of it is checked."""

import os
import threading
from pathlib import Path

import pytest

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.plugin_host_program import Program
from tests.support.plugins import checksum, program


def output_of(started: Program, **environment: str) -> str:
    process = started.start({**os.environ, **environment})
    output, errors = process.communicate(timeout=60)
    return (output + errors).decode()


@pytest.fixture
def script(tmp_path):
    return program(tmp_path / "script", ['echo "$0|$*|$KEY"', "readlink /proc/$$/fd/* | grep -c memfd"])


def test_a_program_is_run_with_its_arguments_and_environment(script):
    assert output_of(Program(script, ("a", "b c")), KEY="value") == f"{script}|a b c|value\n0\n"


def test_a_program_that_is_verified_is_run_from_its_copy(script):
    name, _, rest = output_of(Program(script, ("a",), checksum(script)), KEY="value").partition("|")
    assert name.startswith("/proc/self/fd/")
    words, copies = rest.splitlines()
    assert words == "a|value"
    assert int(copies)


def test_a_checksum_counts_in_capitals_too(script):
    assert "|a|" in output_of(Program(script, ("a",), checksum(script).upper()))


def test_the_copy_cannot_be_changed(tmp_path):
    script = program(tmp_path / "script", ['printf x >> "$0" || echo refused', 'printf x > "$0" || echo refused'])
    said = output_of(Program(script, (), checksum(script)))
    assert said.count("refused") == 2
    assert "Operation not permitted" in said


def test_a_program_dies_with_the_thread_that_started_it(tmp_path):
    """As it does with its host: the thread's end is the kernel's measure."""
    script = program(tmp_path / "script", ["echo runs", "exec sleep 600"])
    started = []

    def start() -> None:
        process = Program(script).start(dict(os.environ))
        assert process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
        started.append(process)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    [process] = started
    assert process.wait(timeout=60) == -9
    process.communicate()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("no hex", "checksum is not a valid hex string"),
        ("deadbeef", "expected checksum of length 64; got 8"),
        ("00" * 33, "expected checksum of length 64; got 66"),
    ],
)
def test_a_checksum_that_is_none_is_refused(given, text):
    with pytest.raises(InvalidConfig, match=f"plugin_checksum: {text}"):
        Program(Path("/bin/true"), (), given)


def test_another_program_than_the_one_that_is_meant_is_not_run(script, tmp_path):
    ran = tmp_path / "ran"
    other = program(tmp_path / "other", [f"touch {ran}"])
    with pytest.raises(InvalidConfig, match=f"checksums did not match: {other} has {checksum(other)}, plugin_checksum"):
        Program(other, (), checksum(script)).start({})
    assert not ran.exists()


@pytest.mark.parametrize("verified", [False, True], ids=["plain", "verified"])
def test_what_cannot_be_run_is_refused_by_name(tmp_path, verified):
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    plain.chmod(0o644)
    for path, text in (
        (tmp_path / "nothing", f"plugin_cmd: open {tmp_path}/nothing: no such file or directory"),
        (tmp_path, f"plugin_cmd: {tmp_path} is not executable"),
        (plain, f"plugin_cmd: {plain} is not executable"),
    ):
        with pytest.raises(InvalidConfig, match=text):
            Program(path, (), "00" * 32 if verified else "").start({})


def test_a_program_without_an_interpreter_says_so(tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    assert output_of(Program(script)) == f"cannot run {script}: No such file or directory\n"


def test_a_relative_path_is_one_in_the_working_folder_and_not_searched_for(script, monkeypatch):
    monkeypatch.chdir(script.parent)
    assert output_of(Program(Path("script"), ("a",))).startswith(f"{script}|a|")
    with pytest.raises(InvalidConfig, match="no such file"):
        Program(Path("true")).start({})
