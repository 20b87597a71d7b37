"""External plugins in tests: our own program, and a host of ours that runs it."""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from keymanagers.external import ExternalKeyManager
from spiffe_core.api.spire.plugin.server.keymanager.v1 import keymanager_pb2
from spiffe_core.runtime.block import Block
from spiffe_core.runtime.plugin_host import ExternalPlugin
from spiffe_core.runtime.plugin_host_keys import PluginKeys, service_name
from spiffe_core.runtime.plugins import Plugin
from spiffe_core.runtime.tasks import Backoff

ROOT: Final = Path(__file__).parents[2]
AT_ONCE: Final = Backoff(first=0.01, longest=0.05)
"""How soon tests have a plugin that ended started again."""


def keymanager_program(folder: Path, name: str = "pkcs11", environment: Mapping[str, str] | None = None) -> Path:
    """A program that is ``steeple-keymanager`` with one of our key managers."""
    lines = [f"export {key}={shlex.quote(value)}" for key, value in (environment or {}).items()]
    command = f"exec {shlex.join([sys.executable, '-m', 'plugin', name])}"
    return program(folder / f"keymanager-{name}", [f"export PYTHONPATH={shlex.quote(str(ROOT))}", *lines, command])


def program(path: Path, lines: list[str]) -> Path:
    """A shell script."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def checksum(path: Path) -> str:
    """What ``plugin_checksum`` says of it."""
    return sha256(path.read_bytes()).hexdigest()


def plugin_of(path: Path, data: str = "", *, kind: str = "KeyManager", name: str = "test", **more: Any) -> Plugin:
    """The declaration of an external plugin."""
    values: dict[str, Any] = {"checksum": checksum(path), "data": Block.parse(data)}
    return Plugin(type=kind, name=name, cmd=str(path), **values | more)


def start_key_manager(plugin: Plugin, **more: Any) -> ExternalPlugin:
    """Our host with a plugin of type KeyManager."""
    values: dict[str, Any] = {"trust_domain": "example.org", "backoff": AT_ONCE}
    return ExternalPlugin(plugin, service=service_name(keymanager_pb2), **values | more)


def open_keys(plugin: Plugin, file: Path, timeout: float = 30.0) -> ExternalKeyManager:
    """The key manager of a plugin, as a server has it."""
    host = start_key_manager(plugin)
    places = PluginKeys(host, keymanager_pb2, timeout)
    try:
        keys = ExternalKeyManager(places, file)
    except BaseException:
        host.close()
        raise
    places.on_restart(keys.compare)
    return keys


@contextmanager
def running_key_manager(plugin: Plugin, **more: Any) -> Iterator[ExternalPlugin]:
    """Our host with a plugin of type KeyManager, for the length of the block."""
    host = start_key_manager(plugin, **more)
    try:
        yield host
    finally:
        host.close()


def softhsm_environment() -> dict[str, str]:
    """What a program needs to find this test process's tokens."""
    return {"SOFTHSM2_CONF": os.environ["SOFTHSM2_CONF"]}


def declared(
    path: Path, kind: str, name: str, data: str = "", *, args: tuple[str, ...] = (), file: Path | None = None
) -> str:
    """An external plugin as a configuration file declares it."""
    given = f'plugin_data_file = "{file}"' if file else f"plugin_data {{ {data} }}"
    words = ", ".join(f'"{one}"' for one in args)
    return f"""
        {kind} "{name}" {{
            plugin_cmd = "{path}"
            plugin_args = [{words}]
            plugin_checksum = "{checksum(path)}"
            {given}
        }}
    """


def children_of(pid: int) -> list[int]:
    """The processes that a process has started, whichever of its threads did."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found
