"""Tables of samples, and their place in ``benchmarks/README.md``."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.load import Sample

README: Final = Path(__file__).with_name("README.md")
_BEGIN: Final = "<!-- figures: python -m benchmarks --write -->"
_END: Final = "<!-- end of figures -->"

Rounds = Mapping[str, Sequence[Sample]]
"""The samples of each measurement, one a round."""


def ratios(rounds: Rounds, floors: Sequence[str]) -> str:
    """A table of measurements: their samples, and the median of each round's ratio to each floor of that round."""
    heads = "".join(f" ratio to *{floor}* |" for floor in floors)
    lines = [
        f"| | per s (median) | p50 ms |{heads} samples, per s |",
        "|---|--:|--:|" + "--:|" * len(floors) + "---|",
    ]
    for name, samples in rounds.items():
        cells = [
            name,
            f"{statistics.median(one.per_second for one in samples):,.0f}",
            f"{statistics.median(one.median_ms for one in samples):.1f}",
            *(_ratio(samples, rounds[floor]) for floor in floors),
            ", ".join(f"{one.per_second:,.0f}" for one in samples),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(samples: Sequence[Sample], floor: Sequence[Sample]) -> str:
    each = [one.per_second / base.per_second for one, base in zip(samples, floor, strict=True)]
    return f"{statistics.median(each):.2f}"


def write(figures: str, begin: str = _BEGIN) -> None:
    """Put the figures into the README, in the place of those that begin with that line."""
    text = README.read_text()
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(_END)
    README.write_text(f"{head}{begin}\n\n{figures}\n\n{_END}{tail}")
