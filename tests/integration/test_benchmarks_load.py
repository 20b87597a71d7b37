"""The load generator of the benchmarks counts what was answered well, and nothing else."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.floor import ECHO, echo_server
from benchmarks.h2 import LoadFailed
from benchmarks.load import Load, Place, Sample, measure
from benchmarks.report import ratios
from spiffe_core.runtime.files import private_folder


@pytest.fixture
def echo() -> Iterator[Place]:
    with private_folder() as folder, echo_server(folder / "echo.sock"):
        yield Place(path=os.fspath(folder / "echo.sock"))


@pytest.mark.parametrize("size", [0, 100, 40_000])
async def test_each_answer_to_a_message_of_any_size_is_counted_with_its_bytes(echo, size):
    sample = await measure(Load("echo", ECHO, bytes(size), units=3), echo, seconds=0.2, connections=2)
    assert sample.per_second > 0
    assert sample.bytes_each == 5 + size  # the prefix of a gRPC message


async def test_a_refused_call_ends_the_measurement(echo):
    with pytest.raises(LoadFailed, match="refused"):
        await measure(Load("nothing", "/echo.Echo/Nothing", b""), echo, seconds=0.2)


async def test_a_connection_that_is_not_there_ends_the_measurement(tmp_path: Path):
    with pytest.raises(OSError):
        await measure(Load("echo", ECHO, b""), Place(path=os.fspath(tmp_path / "nobody")), seconds=0.2)


def test_a_ratio_is_the_median_of_the_ratios_of_each_round():
    rounds = {
        "floor": [Sample("floor", 10), Sample("floor", 100), Sample("floor", 10)],
        "ours": [Sample("ours", 5), Sample("ours", 10), Sample("ours", 9)],
    }
    assert "| ours | 9 | 0.0 | 0.50 | 5, 10, 9 |" in ratios(rounds, ["floor"])
