"""``python -m benchmarks [--seconds S] [--rounds N] [--entries N,N] [--write]``."""

import argparse
import asyncio
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from benchmarks import report
from benchmarks.floor import ECHO, RAW_SIGN, echo_server, raw_signatures
from benchmarks.load import Load, Place, Sample, measure
from benchmarks.world import World, world
from tests.support.softhsm import SoftHsmToken, init_token, library

_ECHO: Final = Load("grpcio alone: echo on a Unix socket", ECHO, bytes(100))


async def _speeds(token: SoftHsmToken, workers: int, *, seconds: float, rounds: int) -> dict[str, list[Sample]]:
    """Every measurement once a round, beside the floors, so that what disturbs the machine disturbs all."""
    found: dict[str, list[Sample]] = defaultdict(list)
    async with world(token, workers=workers) as one:
        with tempfile.TemporaryDirectory() as folder, echo_server(Path(folder) / "echo.sock"):
            echo = Place(path=f"{folder}/echo.sock")
            for _ in range(rounds):
                samples = [
                    await asyncio.to_thread(raw_signatures, token, seconds),
                    await measure(_ECHO, echo, seconds=seconds),
                    *[await measure(load, place, seconds=seconds) for load, place in one.loads()],
                ]
                for sample in samples:
                    found[sample.name].append(sample)
    return found


async def _scale(token: SoftHsmToken, totals: Sequence[int], *, seconds: float, rounds: int) -> str:
    """How a registry of many entries weighs on a sync of an agent that is entitled to ten."""
    lines = [
        "| entries | created per s, batches of 500 | full sync p50 ms | p99 ms | bytes | RSS MB | samples p50 ms |",
        "|--:|--:|--:|--:|--:|--:|---|",
    ]
    async with world(token, own=10) as one:
        there, created = 10, 0.0
        for total in (there, *totals):
            if total > there:
                created = (await one.add_entries_of_others(total - there, there)).per_second
                there = total
                await asyncio.sleep(1.0)  # the registry in memory follows
            lines.append(await _scale_line(one, total, created, seconds=seconds, rounds=rounds))
    return "\n".join(lines)


async def _scale_line(one: World, total: int, created: float, *, seconds: float, rounds: int) -> str:
    samples = [await measure(one.sync, one.node, seconds=seconds, connections=1, depth=1) for _ in range(rounds)]
    best = min(samples, key=lambda sample: sample.median_ms)
    middles = ", ".join(f"{sample.median_ms:.2f}" for sample in samples)
    return (
        f"| {total:,} | {f'{created:,.0f}' if created else ''} | {best.median_ms:.2f} | {best.p99_ms:.2f} "
        f"| {best.bytes_each:,} | {one.memory() / 1e6:,.0f} | {middles} |"
    )


async def _run(options: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory(prefix="steeple-bench-") as folder:
        token = init_token(Path(folder), "bench", library())
        os.environ["SOFTHSM2_CONF"] = str(token.softhsm2_conf)
        parts = [f"{options.rounds} rounds of {options.seconds:g} s each, on {os.cpu_count()} processors."]
        for workers in (1, 2):
            found = await _speeds(token, workers, seconds=options.seconds, rounds=options.rounds)
            parts += ["### One process" if workers == 1 else f"### `workers = {workers}`"]
            parts += [report.ratios(found, (RAW_SIGN, _ECHO.name))]
        totals = [int(total) for total in options.entries.split(",") if total]
        parts += ["### A large registry", await _scale(token, totals, seconds=options.seconds, rounds=options.rounds)]
    return "\n\n".join(parts)


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--entries", default="10000,100000", help="sizes of the registry, ascending")
    parser.add_argument("--write", action="store_true", help="put the figures into benchmarks/README.md")
    options = parser.parse_args()
    figures = uvloop.run(_run(options))
    print(figures)  # noqa: T201  this is what it is for
    if options.write:
        report.write(figures)


if __name__ == "__main__":
    main()
