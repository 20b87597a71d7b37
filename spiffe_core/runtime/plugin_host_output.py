"""What a plugin writes: the line by which it says where it listens, and log lines.

Plugins of go-plugin log to standard error in JSON (hashicorp/go-hclog), one object a line; anything else is logged as
it is, at level debug, as is what a plugin writes to standard output after its first line.
"""

import io
import json
import select
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self, cast

import structlog

from spiffe_core.errors import InvalidConfig

_LONGEST_LINE: Final = 1 << 20
_LAST_WORDS: Final = 5
_FIELDS: Final = 6
_LOGGERS: Final = {"trace": "debug", "debug": "debug", "info": "info", "warn": "warning", "error": "error"}

log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Address:
    """Where a plugin listens."""

    target: str
    """As gRPC takes it."""

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read the handshake line.

        Raises:
            InvalidConfig: if it is none, or one of a protocol that is not ours.
        """
        handshake, version, network, address, protocol, *_ = [*line.strip().split("|"), *[""] * _FIELDS]
        if not protocol and not address:
            raise InvalidConfig(f"failed to launch plugin: Unrecognized remote plugin message: {line.strip()[:200]}")
        if handshake != "1" or version != "1":
            raise InvalidConfig(
                f"failed to launch plugin: it speaks version {version} of the plugin protocol (handshake {handshake}), "
                "this host version 1"
            )
        if protocol != "grpc":
            raise InvalidConfig(f"failed to launch plugin: it speaks {protocol or 'net/rpc'}, this host gRPC")
        if network == "unix" and Path(address).is_absolute():
            return cls(f"unix:{address}")
        host, _, port = address.rpartition(":")
        if network == "tcp" and host in {"127.0.0.1", "[::1]"} and port.isdecimal():
            return cls(f"ipv4:{address}" if host == "127.0.0.1" else f"ipv6:{address}")
        raise InvalidConfig(f"failed to launch plugin: it listens on {network} {address}, which is not on this machine")


class PluginOutput:
    """The two pipes of a plugin process."""

    def __init__(self, stdout: IO[bytes], stderr: IO[bytes], fields: Mapping[str, str]) -> None:
        self._stdout = stdout
        self._fields = dict(fields)
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._threads = [self._reading(stderr, from_stderr=True)]

    def address(self, patience: float) -> Address:
        """Wait for the handshake line.

        Raises:
            InvalidConfig: if the plugin ends or takes longer, or its line is not one; with its last words.
        """
        deadline, line = time.monotonic() + patience, b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._stdout], [], [], left)[0]:
                raise InvalidConfig(f"failed to launch plugin: it did not say within {patience:g} s where it listens")
            byte = self._stdout.read(1)
            if not byte or len(line) > _LONGEST_LINE:
                self._threads[0].join(1.0)  # it has more to tell why
                words = f": {' / '.join(self._last_words)}" if self._last_words else ""
                raise InvalidConfig(f"failed to launch plugin: it ended without saying where it listens{words}")
            line += byte
        self._threads.append(self._reading(self._stdout, from_stderr=False))
        return Address.parse(line.decode(errors="replace"))

    def drain(self) -> None:
        """Read to the end; the process has ended."""
        for thread in self._threads:
            thread.join(1.0)
        if len(self._threads) == 1:
            self._stdout.close()

    def _reading(self, pipe: IO[bytes], *, from_stderr: bool) -> threading.Thread:
        thread = threading.Thread(target=self._read, args=(pipe, from_stderr), name="plugin output", daemon=True)
        thread.start()
        return thread

    def _read(self, pipe: IO[bytes], from_stderr: bool) -> None:  # noqa: FBT001  a thread's argument
        with io.BufferedReader(cast("io.RawIOBase", pipe)) as lines:
            while line := lines.readline(_LONGEST_LINE):
                text = line.decode(errors="replace").rstrip("\r\n")
                if from_stderr:
                    self._last_words.append(self._log(text))
                else:
                    log.debug("Plugin wrote to standard output", line=text, **self._fields)

    def _log(self, line: str) -> str:
        """Log a line, and return what it says."""
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            log.debug(line, **self._fields)
            return line
        message = str(entry.pop("@message", ""))
        level = _LOGGERS.get(str(entry.pop("@level", "")), "debug")
        fields = {str(key): value for key, value in entry.items() if not str(key).startswith("@") and key != "event"}
        getattr(log, level)(message, **{**fields, **self._fields})
        return message
