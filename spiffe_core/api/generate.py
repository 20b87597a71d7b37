"""Makes the Python modules of the .proto files below this folder.

    python -m spiffe_core.api.generate           writes what is missing or old, deletes what has no source
    python -m spiffe_core.api.generate --check   changes nothing; exit status 1 if something would change

Each ``x.proto`` becomes ``x_pb2.py``, its types ``x_pb2.pyi`` and, if it has a service, ``x_pb2_grpc.py``.
protoc writes imports that are absolute from the folder of its sources (``from spire.api.types import
entry_pb2``); here they are moved below this package, so that nothing called ``spire`` or ``workload_pb2`` is
needed at top level.  The names of the files inside the descriptors stay as they are.

The result depends on the version of grpcio-tools, a development dependency, which is therefore imported late.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from spiffe_core.errors import InvalidInput

ROOT: Final = Path(__file__).parent
PACKAGE: Final = "spiffe_core.api"

_MADE: Final = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")
_INIT: Final = '"""Made of the .proto files here by ``spiffe_core.api.generate``."""\n'
_SERVICE: Final = re.compile(r"^service \w+ \{", re.MULTILINE)
_IMPORT: Final = re.compile(r"^(?:from (?P<package>[\w.]+) )?import (?P<module>\w+_pb2)\b", re.MULTILINE)
_MODULE: Final = re.compile(r"(?<=\(DESCRIPTOR, ')(?P<module>[\w.]+_pb2)(?=', _globals\))")
_VERSION: Final = re.compile(r"^GRPC_GENERATED_VERSION = '(.+)'$", re.MULTILINE)


def generate(root: Path) -> dict[str, str]:
    """What ought to stand below ``root`` besides its .proto files: contents by path, relative and with slashes.

    Raises:
        InvalidInput: if protoc refuses a file; it has said why on standard error.
    """
    protos = sorted(path.relative_to(root) for path in root.rglob("*.proto"))
    folders = {parent for proto in protos for parent in proto.parents if parent.name}
    made = {f"{folder.as_posix()}/__init__.py": _INIT for folder in folders}
    modules = {".".join(proto.with_suffix("").parts) + "_pb2" for proto in protos}
    with tempfile.TemporaryDirectory() as out:
        _run_protoc(root, protos, out)
        for proto in protos:
            endings = ["_pb2.py", "_pb2.pyi"]
            if _SERVICE.search((root / proto).read_text()):
                endings.append("_pb2_grpc.py")
            for ending in endings:
                path = proto.with_name(proto.stem + ending)
                made[path.as_posix()] = moved(Path(out, path).read_text(), modules)
    return made


def moved(source: str, modules: Collection[str]) -> str:
    """The source of a module, with ``modules`` (dotted names from the root) imported and named below ``PACKAGE``."""

    def move(found: re.Match[str]) -> str:
        package, module = found["package"], found["module"]
        if (f"{package}.{module}" if package else module) not in modules:
            return found[0]
        return f"from {PACKAGE}.{package} import {module}" if package else f"from {PACKAGE} import {module}"

    return _MODULE.sub(rf"{PACKAGE}.\g<module>", _IMPORT.sub(move, source))


def standing(root: Path) -> dict[str, str]:
    """What was made below ``root`` before, with a source or not: contents by path, as in ``generate``."""
    made = {path for pattern in _MADE for path in root.rglob(pattern)}
    made |= {path for path in root.rglob("__init__.py") if path.read_text() == _INIT}
    return {path.relative_to(root).as_posix(): path.read_text() for path in made}


def compare(want: Mapping[str, str], have: Mapping[str, str]) -> list[str]:
    """One line for each file that is missing, has no source or differs; a last one if the tool has another version."""
    lines = [f"missing: {path}" for path in sorted(want.keys() - have.keys())]
    lines += [f"has no .proto file: {path}" for path in sorted(have.keys() - want.keys())]
    lines += [f"differs: {path}" for path in sorted(want.keys() & have.keys()) if want[path] != have[path]]
    before, now = _versions(have), _versions(want)
    if lines and before and before != now:
        lines.append(f"made by grpcio-tools {', '.join(before)} before, {', '.join(now)} is installed here")
    return lines


def _run_protoc(root: Path, protos: Sequence[Path], out: str) -> None:
    from grpc_tools import protoc  # noqa: PLC0415  not installed where nothing is developed

    folders = [f"-I{root}", f"-I{files('grpc_tools') / '_proto'}"]
    outputs = [f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(["protoc", *folders, *outputs, *(proto.as_posix() for proto in protos)]):
        raise InvalidInput(f"protoc refused the files below {root}; what it printed names the line")


def _versions(contents: Mapping[str, str]) -> list[str]:
    return sorted({version for text in contents.values() for version in _VERSION.findall(text)})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    ask = argparse.ArgumentParser(prog=f"python -m {PACKAGE}.generate", description=(__doc__ or "").partition("\n")[0])
    ask.add_argument("--check", action="store_true", help="change nothing; fail if something would change")
    ask.add_argument("--root", type=Path, default=ROOT, help="folder of the .proto files (default: this package's)")
    options = ask.parse_args(argv)
    want, have = generate(options.root), standing(options.root)
    if options.check:
        return _report(compare(want, have))
    for path in have.keys() - want.keys():
        (options.root / path).unlink()
    for path in (path for path, text in want.items() if have.get(path) != text):
        (options.root / path).write_text(want[path])
    return 0


def _report(lines: Sequence[str]) -> int:
    if not lines:
        return 0
    text = "\n".join(lines)
    sys.stderr.write(f"{text}\nwhat is made of the .proto files is not up to date: run python -m {PACKAGE}.generate\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
