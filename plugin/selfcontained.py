"""The first code of the self-contained ``steeple-keymanager``: it imports everything else from that one file.

The file is a zip archive behind a ``#!`` line (``scripts.plugin_file`` makes it).  It is read once, in whole, and
closed; from then on modules come from that memory.  So what runs is what a host's ``plugin_checksum`` was computed
from: nothing is looked up by a path again, and nothing is unpacked to a folder where somebody could change it.  A
shared library cannot be loaded from memory: it goes into an anonymous file of the kernel's, sealed against writing,
and is loaded from there.

The interpreter runs with ``-I -S``: neither the environment, the current folder nor any ``site-packages`` adds a
module.  Python itself with its standard library, the system's libraries and the PKCS#11 module are outside the
file and outside the checksum.

This module stands alone: it imports the standard library only.
"""

import fcntl
import io
import marshal
import os
import sys
import zipfile
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

LIBRARY: Final = "lib/"
"""Where in the archive the modules are."""
TAG: Final = "python"
"""Name of the archive's member that says for which Python it was made."""
CODE: Final = ".code"
"""How the members' names end that are modules: what ``marshal`` makes of their code."""
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class ArchiveFinder(MetaPathFinder):
    """Finds modules in an archive that is held in memory."""

    def __init__(self, content: bytes) -> None:
        self._archive = zipfile.ZipFile(io.BytesIO(content))
        self._names = frozenset(self._archive.namelist())
        self._folders = frozenset(
            name[:at] for name in self._names for at in range(len(name)) if name[at] == "/" and at >= len(LIBRARY)
        )

    def read(self, name: str) -> bytes:
        """A member of the archive."""
        return self._archive.read(name)

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module of that name, if the archive has it."""
        base = LIBRARY + fullname.replace(".", "/")
        if f"{base}/__init__{CODE}" in self._names:
            return spec_from_loader(fullname, _CodeLoader(self, f"{base}/__init__{CODE}"), is_package=True)
        if f"{base}{CODE}" in self._names:
            return spec_from_loader(fullname, _CodeLoader(self, f"{base}{CODE}"), is_package=False)
        for suffix in EXTENSION_SUFFIXES:
            if base + suffix in self._names:
                path = _sealed(fullname, self.read(base + suffix))
                return spec_from_file_location(fullname, path, loader=ExtensionFileLoader(fullname, path))
        if base in self._folders:  # a namespace package, such as "google"
            found = ModuleSpec(fullname, None, is_package=True)
            found.submodule_search_locations = [f"<{base}>"]
            return found
        return None


class _CodeLoader(InspectLoader):
    """Loads one module that was compiled when the archive was made."""

    def __init__(self, finder: ArchiveFinder, name: str) -> None:
        self._finder = finder
        self._name = name

    def get_code(self, _fullname: str) -> CodeType:
        """The module's code."""
        code = marshal.loads(self._finder.read(self._name))  # noqa: S302  it is our own code
        assert isinstance(code, CodeType)
        return code

    def is_package(self, _fullname: str) -> bool:
        """Whether it has modules below it."""
        return self._name.endswith(f"/__init__{CODE}")

    def get_source(self, _fullname: str) -> None:
        """There is none: tracebacks name lines without showing them."""


def _sealed(name: str, content: bytes) -> str:
    """The path of an anonymous file with this content, which nobody can change; it stays open."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return f"/proc/self/fd/{descriptor}"


def main() -> None:
    """Import from the archive that this was started from, and run the program."""
    path = sys.path.pop(0)
    finder = ArchiveFinder(Path(path).read_bytes())
    made_for, running = finder.read(TAG).decode(), sys.implementation.cache_tag
    if made_for != running:
        sys.exit(f"steeple-keymanager: this file was made for {made_for} and is run by {running}: make it anew")
    sys.meta_path.append(finder)
    from plugin.main import main as run  # noqa: PLC0415  it is in the archive

    run()
