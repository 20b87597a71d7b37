"""Real SoftHSM tokens for tests, made with ``softhsm-setup/init-token.sh``.

A Cryptoki library's state belongs to the process, and tokens that are made after it was initialised stay invisible.
So ``TokenPool`` makes its tokens beforehand, in a folder of its own, and points SOFTHSM2_CONF there; a test borrows
one and it is emptied afterwards.  A test that needs a token folder for itself takes a copy of the library instead
(``own_library``): a library at another path has a state of its own.

Where a tool is missing, tests are skipped, but in continuous integration they fail.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from keymanagers.pkcs11 import module as modules
from keymanagers.pkcs11.config import Pkcs11Config

INIT_TOKEN: Final = Path(__file__).parents[2] / "softhsm-setup" / "init-token.sh"
_LIBRARIES: Final = ("/usr/lib/softhsm", "/usr/lib64/pkcs11", "/usr/lib64/softhsm", "/usr/local/lib/softhsm")


def missing(what: str) -> None:
    """Skip the test because of a tool that is not installed; fail it where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed")
    pytest.skip(f"{what} is not installed")


def library() -> Path:
    """SoftHSM's library, if it can be used here."""
    if shutil.which("pkcs11-tool") is None:
        missing("pkcs11-tool (opensc)")
    found = [Path(folder, "libsofthsm2.so") for folder in _LIBRARIES]
    for path in [*found, *Path("/usr/lib").glob("*/softhsm/libsofthsm2.so")]:
        if path.exists():
            return path
    missing("SoftHSM 2")
    raise AssertionError


def own_library(folder: Path) -> Path:
    """A copy of SoftHSM's library, whose state nobody shares."""
    return Path(shutil.copy(library(), folder / "own-softhsm.so"))


@dataclass(frozen=True)
class SoftHsmToken:
    """A token that was made."""

    label: str
    folder: Path
    """Where SoftHSM keeps its objects."""
    softhsm2_conf: Path
    pin_file: Path
    library: Path

    def config(self, **changed: Any) -> Pkcs11Config:
        """The configuration of a key manager on it."""
        values: dict[str, Any] = {
            "module": self.library,
            "token": self.label,
            "pin_source": str(self.pin_file),
            "authority_group": "example.org",
            "reinitialize_interval": timedelta(),
        }
        return Pkcs11Config(**values | changed)

    def plugin_data(self, group: str = "example.org") -> str:
        """The same as a configuration file has it."""
        return (
            f'module = "{self.library}"\ntoken = "{self.label}"\npin_source = "{self.pin_file}"\n'
            f'authority_group = "{group}"\n'
        )

    def empty(self) -> None:
        """Destroy every object in it."""
        module = modules.acquire(self.library)
        try:
            cryptoki = module.cryptoki
            (slot,) = (one for one in cryptoki.slots() if cryptoki.token_info(one).label == self.label)
            session = cryptoki.open_session(slot)
            if not cryptoki.session_info(session)[1]:
                cryptoki.login(session, self.pin_file.read_bytes().strip())
            for handle in cryptoki.find(session, {}):
                cryptoki.destroy(session, handle)
            cryptoki.close_session(session)
        finally:
            modules.release(module, 10.0)


def init_token(folder: Path, label: str, module: Path) -> SoftHsmToken:
    """Make a token as anybody would."""
    before = set(folder.glob("tokens/*"))
    subprocess.run(
        [INIT_TOKEN, "-d", folder, "-l", label, "-m", module], check=True, stdout=subprocess.DEVNULL, timeout=60
    )
    (made,) = set(folder.glob("tokens/*")) - before
    return SoftHsmToken(label, made, folder / "softhsm2.conf", folder / f"{label}.pin", module)


class TokenPool:
    """Tokens of this test process."""

    def __init__(self, folder: Path, size: int) -> None:
        numbers = count(1)
        self._free = [init_token(folder, f"pool-{next(numbers)}", library()) for _ in range(size)]
        os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")

    @contextmanager
    def borrow(self) -> Iterator[SoftHsmToken]:
        """An empty token, for the length of the block."""
        token = self._free.pop()
        try:
            yield token
        finally:
            token.empty()
            self._free.append(token)
