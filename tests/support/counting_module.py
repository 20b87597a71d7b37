"""The Cryptoki module of ``counting_module.c``: SoftHSM behind it, calls counted, hardware's moods in front."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.support.softhsm import missing

_TOLD: Final = (
    "refuse_locking",
    "token_flags",
    "max_sessions",
    "session_limit",
    "sign_as",
    "fail_function",
    "fail_times",
    "fail_with",
    "sign_micros",
)
_COUNTED: Final = ("initialized", "logins", "finds", "signatures", "sessions", "inside", "most_inside")

FUNCTIONS: Final = {
    "C_Initialize": 0,
    "C_GetTokenInfo": 6,
    "C_OpenSession": 12,
    "C_Login": 18,
    "C_FindObjectsInit": 26,
    "C_SignInit": 42,
    "C_Sign": 43,
    "C_GenerateKeyPair": 59,
}
"""Those that can be made to fail; C_GenerateKeyPair fails after it has made the key."""


class _Counting(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_ulong) for name in (*_TOLD, *_COUNTED))


class CountingModule:
    """One copy of the module, with SoftHSM of its own behind it."""

    def __init__(self, path: Path, behind: Path) -> None:
        os.environ["COUNTED_MODULE"] = str(behind)  # read when the module is first used, which is now
        self.path = path
        loaded = ctypes.CDLL(str(path))
        assert loaded.C_GetFunctionList(ctypes.byref(ctypes.c_void_p())) == 0
        self.now = _Counting.in_dll(loaded, "counting")

    def fail(self, function: str, rv: int, times: int = 1) -> None:
        """Let the next calls of a function return ``rv``."""
        self.now.fail_function = FUNCTIONS[function]
        self.now.fail_with = rv
        self.now.fail_times = times


def compile_counting_module(folder: Path) -> Path:
    """The module, compiled; a test takes a copy."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        missing("a C compiler")
    source = Path(__file__).with_name("counting_module.c")
    made = folder / "counting_module.so"
    command = [str(compiler), "-std=gnu11", "-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o", made, source, "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return made
