"""Data of a plugin, for tests that read it by name."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DiskData:
    """What a plugin of tests is configured with."""

    file: Path | None = None
    """A file."""
