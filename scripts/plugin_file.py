"""Makes ``build/steeple-keymanager``: the plugin and everything that it imports, in one file (ADR 8).

``python -m scripts.plugin_file [file]``.  What goes in is what is installed here, in the versions of
``requirements.lock``: our packages, and the libraries below with what they require, compiled for this Python.  The
file's SHA-256, for ``plugin_checksum``, is printed and kept beside it.
"""

import importlib.metadata
import io
import marshal
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final

from plugin.selfcontained import CODE, LIBRARY, TAG

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("plugin", "keymanagers", "spiffe_core")
LIBRARIES: Final = (
    "cryptography",
    "grpcio",
    "grpcio-health-checking",
    "grpcio-status",
    "protobuf",
    "python-pkcs11",
    "structlog",
)
LEFT_OUT: Final = re.compile(r"pkcs11/_pkcs11\.|.*/tests?/")
"""What is installed but not imported: our calls of PKCS#11 are made through ctypes."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_WITHOUT_REFERENCES: Final = 2
"""The version of marshal's format in which a code says nothing of who else holds its constants just now."""
_TIME: Final = (1980, 1, 1, 0, 0, 0)


def main() -> None:
    """Make the file, and say what ``plugin_checksum`` is."""
    path = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build" / "steeple-keymanager"
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = make(path)
    print(f'{path}: {path.stat().st_size / 1e6:.1f} MB\nplugin_checksum = "{digest}"')


def make(path: Path) -> str:
    """Make the file, and the one beside it that says its SHA-256, which is returned."""
    content = f"#!{interpreter()} -IS\n".encode() + archive()
    path.write_bytes(content)
    path.chmod(0o755)
    digest = sha256(content).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    return digest


def interpreter() -> str:
    """The Python that this environment was made from."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def archive() -> bytes:
    """The archive: the same for the same installation."""
    members = {
        TAG: sys.implementation.cache_tag.encode(),
        "__main__.py": b"from selfcontained import main\n\nmain()\n",
        "selfcontained.py": (ROOT / "plugin" / "selfcontained.py").read_bytes(),
    }
    contents = []
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            name = file.relative_to(ROOT).as_posix()
            members[member_of(name)] = compiled(file.read_bytes(), name)
    for one in distributions(LIBRARIES):
        contents.append(f"{one.metadata['Name']} {one.version}\n")
        members.update(members_of(one))
    members["contents.txt"] = "".join(sorted(contents)).encode()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for name in sorted(members):
            made.writestr(zipfile.ZipInfo(name, _TIME), members[name], zipfile.ZIP_DEFLATED)
    return target.getvalue()


def members_of(distribution: importlib.metadata.Distribution) -> Iterator[tuple[str, bytes]]:
    """The modules of an installed library, and its licence."""
    for file in distribution.files or ():
        name, at = PurePosixPath(file).as_posix(), Path(str(file.locate()))
        if name.startswith("..") or LEFT_OUT.match(name):
            continue
        if name.endswith(".py"):
            yield member_of(name), compiled(at.read_bytes(), name)
        elif name.endswith(".so"):
            yield f"{LIBRARY}{name}", at.read_bytes()
        elif ".dist-info/" in name and re.search(r"licen[cs]e|notice|copying", name, re.IGNORECASE):
            yield f"licences/{name}", at.read_bytes()


def distributions(names: tuple[str, ...]) -> list[importlib.metadata.Distribution]:
    """Installed libraries and all that they require here."""
    found: dict[str, importlib.metadata.Distribution] = {}
    wanted = list(names)
    while wanted:
        name = wanted.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            found[key] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if key in names:
                raise
            continue  # required on other systems only
        for requirement in found[key].requires or ():
            required, _, condition = requirement.partition(";")
            match = _NAME.match(required)
            if match and "extra ==" not in condition:
                wanted.append(match[0])
    return list(found.values())


def member_of(name: str) -> str:
    """Where a module's code is in the archive."""
    return f"{LIBRARY}{name.removesuffix('.py')}{CODE}"


def compiled(source: bytes, name: str) -> bytes:
    """A module's code; tracebacks name it as being in the archive."""
    code = compile(source, f"<steeple-keymanager>/{name}", "exec", dont_inherit=True)
    return marshal.dumps(code, _WITHOUT_REFERENCES)


if __name__ == "__main__":
    main()
