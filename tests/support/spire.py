"""SPIRE's own programs, built elsewhere, in the folder that SPIRE_BIN names; without it tests of them are skipped."""

import os
from pathlib import Path

import pytest


def spire_program(name: str) -> str:
    """The path of one of SPIRE's programs: ``spire-server``, ``spire-agent``, or a client of its integration tests."""
    folder = os.environ.get("SPIRE_BIN")
    if not folder:
        pytest.skip("SPIRE_BIN does not name a folder with SPIRE's programs")
    path = Path(folder, name).absolute()
    if not path.exists():
        pytest.skip(f"there is no {name} in SPIRE_BIN")
    return str(path)
