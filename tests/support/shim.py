"""The Cryptoki module of ``shim.c``: SoftHSM behind it, calls counted, hardware's moods in front.

It is told what to do over a Unix socket, so that it can be in this process or in that of a server.
"""

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from pkcs11 import TokenFlag

from tests.support.softhsm import missing

FUNCTIONS: Final = {
    "C_Initialize": 0,
    "C_Finalize": 1,
    "C_GetSlotList": 4,
    "C_GetTokenInfo": 6,
    "C_OpenSession": 12,
    "C_CloseSession": 13,
    "C_GetSessionInfo": 15,
    "C_Login": 18,
    "C_CopyObject": 21,
    "C_DestroyObject": 22,
    "C_GetAttributeValue": 24,
    "C_SetAttributeValue": 25,
    "C_FindObjectsInit": 26,
    "C_FindObjects": 27,
    "C_FindObjectsFinal": 28,
    "C_SignInit": 42,
    "C_Sign": 43,
    "C_GenerateKey": 58,
    "C_GenerateKeyPair": 59,
    "C_WrapKey": 60,
}
"""Place in CK_FUNCTION_LIST of every function that is counted and can be made to fail."""
ALWAYS: Final = 10**9


class Shim:
    """One copy of the module in one process."""

    def __init__(self, path: Path, folder: Path, pid: int) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(folder / f"shim-{pid}.sock"))
        self._answers = self._socket.makefile("r")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()
        self._answers.close()
        self._socket.close()

    # -- told

    def fail(self, function: str, rv: int, times: int = 1, *, after: int = 0, late: bool = False) -> None:
        """Let calls of a function return ``rv``, the first ``after`` of them not; ``late`` when their work is done."""
        self._tell("fail", FUNCTIONS[function], int(rv), times, after, "late" if late else "early")

    def heal(self) -> None:
        """Let no function fail any more."""
        for function in FUNCTIONS:
            self.fail(function, 0, 0)
        for setting in ("refuse_locking", "token_flags", "told_sessions", "session_limit", "sign_as", "corrupt"):
            self._tell("set", setting, 0)
        self._tell("set", "wedged", 0)
        self.restore()

    def delay(self, function: str, seconds: float) -> None:
        """Let each call of a function take so much longer."""
        self._tell("delay", FUNCTIONS[function], int(seconds * 1e6))

    def hang(self, function: str) -> None:
        """Let every call of a function hang until ``release``."""
        self._tell("hang", FUNCTIONS[function])

    def release(self) -> None:
        """Let go on what hangs."""
        self._tell("release")

    def refuse_locking(self) -> None:
        """Let C_Initialize refuse CKF_OS_LOCKING_OK."""
        self._tell("set", "refuse_locking", 1)

    def add_token_flags(self, flags: TokenFlag) -> None:
        """Let every token have these flags as well."""
        self._tell("set", "token_flags", int(flags))

    def allow_sessions(self, count: int, *, told: bool = True) -> None:
        """Let there be so many sessions; whether C_GetTokenInfo says so."""
        self._tell("set", "session_limit", count)
        self._tell("set", "told_sessions", count if told else 0)

    def sign_as(self, key: int) -> None:
        """Let every key handle name this key; 0: its own."""
        self._tell("set", "sign_as", key)

    def corrupt_signatures(self, count: int) -> None:
        """Let the next signatures be wrong in a bit."""
        self._tell("set", "corrupt", count)

    def wedge(self, rv: int) -> None:
        """Let every function return ``rv`` until C_Finalize."""
        self._tell("set", "wedged", int(rv))

    def steal_sessions(self, label: str, most: int = ALWAYS) -> None:
        """Close sessions of a token, the youngest first, behind their users' backs."""
        self._tell("steal", most, label)

    def log_out(self, label: str) -> None:
        """Log out of a token behind its users' backs."""
        self._tell("logout", label)

    def remove(self, label: str) -> None:
        """Take the token out of its slot."""
        self._tell("remove", label)

    def restore(self) -> None:
        """Put every token back."""
        self._tell("restore")

    # -- asked

    def count(self, function: str) -> int:
        """The calls of a function so far."""
        return self._ask("count", FUNCTIONS[function])

    @property
    def logins(self) -> int:
        """The calls of C_Login so far: the PINs that were tried."""
        return self.count("C_Login")

    def most_inside(self, function: str) -> int:
        """Most calls of a function that ran at once."""
        return self._ask("most_inside", FUNCTIONS[function])

    @property
    def failing(self) -> int:
        """The calls that are still to fail."""
        return self._ask("failing")

    @property
    def hanging(self) -> int:
        """The calls that hang now."""
        return self._ask("hanging")

    @property
    def sessions(self) -> int:
        """The sessions that are open now."""
        return self._ask("sessions")

    @property
    def last_key(self) -> int:
        """The key handle of the last C_SignInit."""
        return self._ask("last_key")

    def _ask(self, *words: str | int) -> int:
        self._socket.sendall((" ".join(map(str, words)) + "\n").encode())
        return int(self._answers.readline())

    def _tell(self, *words: str | int) -> None:
        assert self._ask(*words) == 0


@contextmanager
def shim_environment(folder: Path, behind: Path) -> Iterator[dict[str, str]]:
    """Let a shim that is loaded in this block find its library and its folder; what a child process needs for that."""
    values = {"SHIM_MODULE": str(behind), "SHIM_FOLDER": str(folder)}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield values
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def load_shim(path: Path, folder: Path, behind: Path) -> Shim:
    """The shim at a path, in this process, in front of a library; its folder must have a short path."""
    with shim_environment(folder, behind):
        loaded = ctypes.CDLL(str(path))
        assert loaded.C_GetFunctionList(ctypes.byref(ctypes.c_void_p())) == 0
    return Shim(path, folder, os.getpid())


def compile_shim(folder: Path) -> Path:
    """The module, compiled; a test takes a copy."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        missing("a C compiler")
    source, made = Path(__file__).with_name("shim.c"), folder / "shim.so"
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run([str(compiler), *flags, "-o", made, source, "-ldl", "-lpthread"], check=True, timeout=60)
    return made
