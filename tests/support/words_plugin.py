"""The plugin in ``tests/go/plugin``, built, for tests that name this module in ``pytest_plugins``."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.support.plugins import declared

SOURCE: Final = Path(__file__).parents[1] / "go" / "plugin"
_ARGS: Final = {
    "KeyManager": "keymanager",
    "UpstreamAuthority": "upstreamauthority",
    "WorkloadAttestor": "workloadattestor",
}


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """What declares the program as a plugin called "words": its type, its data, and its argument if need be."""
    built = tmp_path_factory.mktemp("go") / "words"
    subprocess.run(["go", "build", "-o", str(built), "."], cwd=SOURCE, check=True)

    def declare(kind: str, data: str = "", *, arg: str = "", file: Path | None = None) -> str:
        return declared(built, kind, "words", data, args=(arg or _ARGS[kind],), file=file)

    return declare
