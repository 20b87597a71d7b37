"""The program of an external plugin: which file it is, that it is the one that is meant, and how it is started.

With a checksum the file is copied into an anonymous file of the kernel's (a memfd), which is sealed against writing,
and that copy is what the checksum is computed from and what runs: between the two nobody can change it, whoever may
write to the path.  Without one the path is run as it is, as SPIRE does.

A plugin must not outlive its host, not even one that was killed.  The kernel sees to that (``PR_SET_PDEATHSIG``) if the
child asks for it, which a few lines of Python do before they become the plugin.  The signal is sent when the
*thread* that started the child ends, so that thread has to live as long as the plugin.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.gotext import os_error

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_CHUNK: Final = 1 << 20
_DIES_WITH_ITS_HOST: Final = """
import ctypes, os, signal, sys
host, path = int(sys.argv[1]), sys.argv[2]
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != host:
    sys.exit("the host is gone")
try:
    os.execv(path, sys.argv[3:])
except OSError as exc:
    sys.exit(f"cannot run {sys.argv[3]}: {exc.strerror}")
"""
"""1 is PR_SET_PDEATHSIG (linux/prctl.h)."""


@dataclass(frozen=True, slots=True)
class Program:
    """What ``plugin_cmd``, ``plugin_args`` and ``plugin_checksum`` say; a relative path is in the working folder."""

    path: Path
    args: tuple[str, ...] = ()
    checksum: str = ""
    """SHA-256, hexadecimal; empty if any file will do."""

    def __post_init__(self) -> None:
        try:
            length = len(bytes.fromhex(self.checksum))
        except ValueError:
            raise InvalidConfig("plugin_checksum: checksum is not a valid hex string") from None
        if self.checksum and length != sha256().digest_size:
            raise InvalidConfig(
                f"plugin_checksum: expected checksum of length {2 * sha256().digest_size}; got {len(self.checksum)}"
            )

    def start(self, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """Start it, with pipes for what it writes.

        Raises:
            InvalidConfig: if it is missing, not executable, or not the file that the checksum is of.
        """
        path = self.path.absolute()
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise InvalidConfig(f"plugin_cmd: {os_error('open', path, exc)}") from exc
        try:
            if not os.access(path, os.X_OK) or path.is_dir():
                raise InvalidConfig(f"plugin_cmd: {path} is not executable")
            verified = self._verified_copy(descriptor) if self.checksum else None
        finally:
            os.close(descriptor)
        try:
            return self._spawn(path, verified, environment)
        finally:
            if verified is not None:
                os.close(verified)

    def _spawn(self, path: Path, verified: int | None, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        runs = str(path) if verified is None else f"/proc/self/fd/{verified}"
        command = [sys.executable, "-IS", "-c", _DIES_WITH_ITS_HOST, str(os.getpid()), runs, str(path), *self.args]
        return subprocess.Popen(  # noqa: S603  the operator's program
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=() if verified is None else (verified,),
        )

    def _verified_copy(self, descriptor: int) -> int:
        """A sealed copy of the file, if it is the one that the checksum is of."""
        copy = os.memfd_create(self.path.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            while os.sendfile(copy, descriptor, None, _CHUNK):
                pass
            fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
            self._verify(copy)
        except OSError as exc:
            os.close(copy)
            raise InvalidConfig(f"plugin_cmd: {os_error('read', self.path, exc)}") from exc
        except BaseException:
            os.close(copy)
            raise
        return copy

    def _verify(self, copy: int) -> None:
        os.lseek(copy, 0, os.SEEK_SET)
        found = sha256()
        while chunk := os.read(copy, _CHUNK):
            found.update(chunk)
        if found.digest() != bytes.fromhex(self.checksum):
            raise InvalidConfig(
                f"plugin_checksum: checksums did not match: {self.path} has {found.hexdigest()}, "
                f"plugin_checksum is {self.checksum.lower()}"
            )
