"""The project as a newcomer finds it, in a folder of its own: scripts, configuration files and the installed ``.venv``.

Ports and sockets of the configuration files are replaced, so that tests can run side by side and beside a real server.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.softhsm import library

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 240


def free_port() -> int:
    """A TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Checkout:
    """One such folder."""

    folder: Path
    sockets: Path
    """A folder with a short name, for sockets and state."""
    env: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, sockets: Path) -> "Checkout":
        """Copy what is needed into ``folder``."""
        module, port = library(), free_port()
        for name in ("examples", "softhsm-setup", "conf"):
            shutil.copytree(ROOT / name, folder / name)
        for path in (folder / "conf").rglob("*.conf"):
            text = path.read_text().replace("8081", str(port)).replace("/tmp/", f"{sockets}/")
            path.write_text(text.replace("/usr/lib/softhsm/libsofthsm2.so", str(module)))
        (folder / ".venv").symlink_to(sys.prefix)
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SPIRE_", "SOFTHSM2_"))}
        env |= {
            "SPIRE_SERVER_PRIVATE_SOCKET": f"{sockets}/spire-server/private/api.sock",
            "SPIRE_AGENT_PUBLIC_SOCKET": f"{sockets}/spire-agent/public/api.sock",
            "SOCKETS": str(sockets),
            "DEMO_STATE": str(folder / ".run/demo"),
        }
        return cls(folder, sockets, env)

    def run(self, *command: str | Path, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in the folder; both its streams are in ``stdout``, in their order."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    @contextmanager
    def running(self, *command: str | Path, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a command in the folder for the length of the block."""
        with (
            log.open("wb") as output,
            subprocess.Popen(
                command,
                cwd=self.folder,
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process
            finally:
                end_group(process)


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a process that was started in a session of its own, and what it has started there."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
    except ProcessLookupError:
        process.wait()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def processes_of(mark: str | Path) -> list[str]:
    """The command lines and environments of running processes that name ``mark``."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        if path.name == str(os.getpid()):
            continue
        try:
            said = b"".join((path / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if str(mark).encode() in said:
            found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found
