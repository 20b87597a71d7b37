"""Each key manager as the contract's tests open it, several times and in several processes."""

import json
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from keymanagers.base import KeyManager
from keymanagers.disk import DiskConfig, DiskKeyManager
from keymanagers.memory import MemoryKeyManager
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from tests.support.plugins import keymanager_program, open_keys, plugin_of
from tests.support.softhsm import SoftHsmToken

ROOT: Final = Path(__file__).parents[2]


class Backend(ABC):
    """A place where keys live."""

    name: str

    def __init__(self) -> None:
        self._opened: list[KeyManager] = []
        self._processes: list[KeyProcess] = []

    def open(self, group: str = "example.org", **settings: Any) -> KeyManager:
        """A key manager on it, closed at the end of the test if it is not before."""
        manager = self._open(group, **settings)
        self._opened.append(manager)
        return manager

    def other_process(self) -> "KeyProcess":
        """Another process with a key manager of its own on it."""
        process = KeyProcess(self.name, self.plugin_data())
        self._processes.append(process)
        assert process.answer() == "open"
        return process

    def close(self) -> None:
        """End what a test left open."""
        for process in self._processes:
            process.kill()
            process.end()
        for manager in self._opened:
            manager.close()

    @abstractmethod
    def _open(self, group: str, **settings: Any) -> KeyManager: ...

    @abstractmethod
    def plugin_data(self) -> str:
        """The configuration by which another process opens it."""


class MemoryBackend(Backend):
    name = "memory"

    def _open(self, group: str, **settings: Any) -> KeyManager:
        return MemoryKeyManager()

    def plugin_data(self) -> str:
        return ""


class DiskBackend(Backend):
    name = "disk"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _open(self, group: str, **settings: Any) -> KeyManager:
        return DiskKeyManager(DiskConfig(keys_path=self.path))

    def plugin_data(self) -> str:
        return f'keys_path = "{self.path}"\n'


class Pkcs11Backend(Backend):
    name = "pkcs11"

    def __init__(self, token: SoftHsmToken) -> None:
        super().__init__()
        self.token = token

    def _open(self, group: str, **settings: Any) -> KeyManager:
        return Pkcs11KeyManager(self.token.config(authority_group=group, **settings))

    def plugin_data(self) -> str:
        return self.token.plugin_data()


class PluginBackend(Backend):
    """Our host with our plugin, and a token behind it."""

    name = "plugin"

    def __init__(self, token: SoftHsmToken, folder: Path) -> None:
        super().__init__()
        self.token = token
        self.program = keymanager_program(folder)
        self.file = folder / "keys.json"

    def _open(self, group: str, **settings: Any) -> KeyManager:
        return open_keys(plugin_of(self.program, self.token.plugin_data(group)), self.file)

    def plugin_data(self) -> str:
        return json.dumps([str(self.program), self.token.plugin_data(), str(self.file)])


class KeyProcess:
    """``tests/support/key_process.py`` in a process."""

    def __init__(self, name: str, plugin_data: str) -> None:
        command = [sys.executable, "-m", "tests.support.key_process", name, plugin_data]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, *words: str) -> Any:
        """Send a command and return its answer."""
        self.tell(*words)
        return self.answer()

    def tell(self, *words: str) -> None:
        """Send a command and do not wait."""
        pipe = self._pipe(self._process.stdin)
        pipe.write(json.dumps(words) + "\n")
        pipe.flush()

    def answer(self) -> Any:
        """The next answer; None if the process is gone."""
        line = self._pipe(self._process.stdout).readline()
        return json.loads(line) if line.endswith("\n") else None

    def answers(self) -> Sequence[Any]:
        """Every answer that is still to come."""
        found = []
        while (answer := self.answer()) is not None:
            found.append(answer)
        return found

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def end(self) -> int:
        """Close its input, at which it closes its key manager, and return its exit code."""
        with suppress(BrokenPipeError):
            self._pipe(self._process.stdin).close()
        self._pipe(self._process.stdout).close()
        return self._process.wait(timeout=60)

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe
