"""The ``plugins`` block: which plugin of each type a process runs, and with what data.

``Type "name" { plugin_data { ... } }`` declares one.  A plugin that is declared twice, one that is not built in and
a type with too many or too few are refused here, so that nothing starts with a plugin silently left out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.block import Block, merged
from spiffe_core.runtime.gotext import os_error, quote
from spiffe_core.runtime.hcl import MAX_LENGTH
from spiffe_core.runtime.hcl_text import hcl_text


@dataclass(frozen=True, slots=True)
class PluginType:
    """How many plugins of a type a process runs (``most`` 0: any number), and what is built in.

    ``built_in`` has the dataclass of each plugin's data as ``module:Class``, empty for one that has no settings.  It is
    named and not imported, since a plugin may need libraries that the others do not.  ``external``: whether programs
    can be plugins of that type.
    """

    name: str
    least: int
    most: int
    built_in: Mapping[str, str]
    external: bool = False

    def check_count(self, count: int) -> None:
        """Raise unless so many may be configured, in SPIRE's words.

        Raises:
            InvalidConfig: if they are too many or too few.
        """
        if self.most and self.least == self.most != count:
            raise InvalidConfig(f"constraint not satisfied: expected exactly {self.least} but got {count}")
        if count < self.least:
            raise InvalidConfig(f"constraint not satisfied: expected at least {self.least} but got {count}")
        if self.most and count > self.most:
            raise InvalidConfig(f"constraint not satisfied: expected at most {self.most} but got {count}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """One declared plugin."""

    type: str
    name: str
    data: Block = field(default_factory=Block)
    """``plugin_data``; empty if the data are in a file."""
    data_file: Path | None = None
    """``plugin_data_file``, which is read again on SIGUSR1."""
    cmd: str = ""
    """``plugin_cmd``: the program of an external plugin."""
    args: tuple[str, ...] = ()
    checksum: str = ""
    """SHA-256 of the program, hexadecimal."""
    enabled: bool = True

    @property
    def title(self) -> str:
        """The plugin as its declaration begins: ``KeyManager "disk"``."""
        return f"{self.type} {quote(self.name)}"

    @property
    def file_name(self) -> str:
        """The plugin's name as it can stand in the name of a file."""
        return re.sub(r"[^A-Za-z0-9_-]", "_", self.name)

    @property
    def program(self) -> Path:
        """The program of an external plugin."""
        return Path(self.cmd)

    def data_text(self) -> str:
        """What an external plugin is configured with, from the file now if it is in one.

        Raises:
            InvalidConfig: if that file cannot be read.
        """
        return hcl_text(self.data.items) if self.data_file is None else self._read_file(self.data_file)

    def load_data(self) -> Block:
        """The plugin's data, from the file now if they are in one.

        Raises:
            InvalidConfig: if that file cannot be read, or is malformed.
        """
        if self.data_file is None:
            return self.data
        text = self._read_file(self.data_file)
        try:
            return Block.parse(text, self._data_path)
        except InvalidConfig as exc:
            raise InvalidConfig(f"{self._data_path}_file: {self.data_file}: {exc}") from exc

    @property
    def _data_path(self) -> str:
        return f"plugins.{self.type}.{self.name}.plugin_data"

    def _read_file(self, file: Path) -> str:
        path = f"{self._data_path}_file"
        try:
            with file.open(encoding="utf-8") as opened:
                return opened.read(MAX_LENGTH + 1)
        except UnicodeDecodeError as exc:
            raise InvalidConfig(f"{path}: {file} is no UTF-8 text") from exc
        except OSError as exc:
            raise InvalidConfig(f"{path}: {os_error('open', file, exc)}") from exc


class InvalidPlugins(InvalidConfig):
    """Plugins that are missing, too many, or not built in; ``notes`` has the reasons by what they are about."""

    def __init__(self, notes: Mapping[str, Sequence[str]]) -> None:
        self.notes = notes
        super().__init__("; ".join(f"plugins.{what}: {note}" for what, more in notes.items() for note in more))


def read_plugins(block: Block) -> tuple[Plugin, ...]:
    """Every plugin that the ``plugins`` block declares, in the order of the file, disabled ones included.

    Raises:
        InvalidConfig: if one is declared twice, or its declaration is malformed.
    """
    found: dict[tuple[str, str], Plugin] = {}
    for kind, name, declaration in _declarations(block):
        if (kind, name) in found:
            raise InvalidConfig(f"{declaration.path}: plugin {quote(kind)}/{quote(name)} declared more than once")
        read = declaration.read(_Declaration)
        found[kind, name] = Plugin(
            type=kind,
            name=name,
            data=read.data or Block(path=declaration.path_of("plugin_data")),
            data_file=read.data_file,
            cmd=read.cmd,
            args=read.args,
            checksum=read.checksum,
            enabled=read.enabled,
        )
    return tuple(found.values())


def check_plugins(plugins: Iterable[Plugin], types: Iterable[PluginType]) -> None:
    """Raise unless these enabled plugins may run together.

    Raises:
        InvalidPlugins: with every reason.
    """
    notes: dict[str, list[str]] = {}
    known = {one.name: one for one in types}
    counts = dict.fromkeys(known, 0)
    for plugin in plugins:
        kind = known.get(plugin.type)
        if kind is None:
            notes.setdefault(plugin.type, []).append(f"unsupported plugin type {quote(plugin.type)}")
            continue
        counts[plugin.type] += 1
        if plugin.cmd:
            if not kind.external:
                note = f"external plugins (plugin_cmd) of type {plugin.type} are not supported by this version"
                notes.setdefault(plugin.title, []).append(note)
        elif plugin.name not in kind.built_in:
            names = ", ".join(sorted(kind.built_in)) or "none"
            notes.setdefault(plugin.title, []).append(f"{plugin.title} is not built in (built in: {names})")
    for name, count in counts.items():
        try:
            known[name].check_count(count)
        except InvalidConfig as exc:
            notes.setdefault(name, []).append(str(exc))
    if notes:
        raise InvalidPlugins(notes)


def check_plugin_data(
    plugins: Iterable[Plugin],
    types: Iterable[PluginType],
    defaults: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Raise unless the data of built-in plugins can be read; nothing that they name is opened.

    What an external plugin is to be configured with is the plugin's to judge.

    ``defaults`` has, by a plugin's title, what the process itself would add to its data.

    Raises:
        InvalidPlugins: with the first reason for each plugin.
    """
    known = {one.name: one.built_in for one in types}
    notes = {}
    for plugin in plugins:
        if plugin.cmd:
            continue
        module, _, name = known[plugin.type][plugin.name].partition(":")
        try:
            data = plugin.load_data().with_defaults(defaults.get(plugin.title, {}))
            data.read(getattr(import_module(module), name) if module else _NoSettings)
        except InvalidConfig as exc:
            notes[plugin.title] = [str(exc)]
    if notes:
        raise InvalidPlugins(notes)


@dataclass(frozen=True)
class _NoSettings:
    """Data of a plugin that has none."""


@dataclass(frozen=True, kw_only=True)
class _Declaration:
    """What may stand between a plugin's braces."""

    data: Block | None = field(default=None, metadata={"key": "plugin_data"})
    data_file: Path | None = field(default=None, metadata={"key": "plugin_data_file"})
    cmd: str = field(default="", metadata={"key": "plugin_cmd"})
    args: tuple[str, ...] = field(default=(), metadata={"key": "plugin_args"})
    checksum: str = field(default="", metadata={"key": "plugin_checksum"})
    enabled: bool = True

    def __post_init__(self) -> None:
        if self.data is not None and self.data_file is not None:
            raise InvalidConfig("only one of [plugin_data, plugin_data_file] can be used")


def _declarations(block: Block) -> Iterator[tuple[str, str, Block]]:
    """Type, name and body of each declaration, however its two names are nested."""
    for kind in block.items:
        path = block.path_of(kind.key)
        for name in merged([kind], path):
            body_path = f"{path}.{name.key}"
            yield kind.key, name.key, Block(merged([name], body_path), body_path)
