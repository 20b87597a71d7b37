"""The generator, on a small folder of its own; and on the package, where nothing may be out of date."""

import pickle
from pathlib import Path

import pytest

from spiffe_core.api import generate
from spiffe_core.api.spire.api.types import entry_pb2
from spiffe_core.errors import InvalidInput

SHAPE = 'syntax = "proto3";\npackage probe.shapes;\n\nmessage Shape {\n  string name = 1;\n}\n'
DRAW = """syntax = "proto3";
package probe.draw;

import "google/protobuf/empty.proto";
import "probe/shape.proto";

service Draw {
  rpc Show(probe.shapes.Shape) returns (google.protobuf.Empty);
}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "shape.proto").write_text(SHAPE)
    (tmp_path / "draw.proto").write_text(DRAW)
    assert generate.main(["--root", str(tmp_path)]) == 0
    return tmp_path


def check(root: Path) -> int:
    return generate.main(["--check", "--root", str(root)])


def test_what_is_checked_in_is_what_the_generator_makes(capfd: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capfd.readouterr().err


def test_only_a_file_with_a_service_gets_grpc_classes(root: Path) -> None:
    assert {path.relative_to(root).as_posix() for path in root.rglob("*.py*")} == {
        "draw_pb2.py",
        "draw_pb2.pyi",
        "draw_pb2_grpc.py",
        "probe/__init__.py",
        "probe/shape_pb2.py",
        "probe/shape_pb2.pyi",
    }


def test_imports_move_below_the_package_and_those_of_others_stay(root: Path) -> None:
    for name in ("draw_pb2.py", "draw_pb2_grpc.py"):
        source = (root / name).read_text()
        assert "\nfrom spiffe_core.api.probe import shape_pb2 as " in source
        assert "\nfrom google.protobuf import empty_pb2 as " in source
    assert "\nfrom spiffe_core.api import draw_pb2 as " not in (root / "draw_pb2.py").read_text()
    assert "from spiffe_core.api.probe import shape_pb2 as " in (root / "draw_pb2.pyi").read_text()


def test_a_module_at_the_root_is_imported_from_the_package() -> None:
    source = "import grpc\nimport draw_pb2 as draw__pb2\nimport other_pb2\n"
    assert generate.moved(source, {"draw_pb2"}) == (
        "import grpc\nfrom spiffe_core.api import draw_pb2 as draw__pb2\nimport other_pb2\n"
    )


def test_messages_know_the_module_that_they_live_in() -> None:
    message = entry_pb2.Entry(id="x")
    assert type(message).__module__ == entry_pb2.__name__
    assert pickle.loads(pickle.dumps(message)) == message


def test_a_second_run_changes_nothing(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.py*")}
    assert check(root) == 0
    assert generate.main(["--root", str(root)]) == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.py*")} == before


def test_check_names_a_file_that_differs_and_leaves_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = root / "probe" / "shape_pb2.py"
    changed.write_text(changed.read_text() + "# by hand\n")
    assert check(root) == 1
    assert capsys.readouterr().err.splitlines() == [
        "differs: probe/shape_pb2.py",
        "what is made of the .proto files is not up to date: run python -m spiffe_core.api.generate",
    ]
    assert changed.read_text().endswith("# by hand\n")


def test_check_names_a_file_that_is_missing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "draw_pb2_grpc.py").unlink()
    assert check(root) == 1
    assert "missing: draw_pb2_grpc.py" in capsys.readouterr().err


def test_what_has_no_source_any_more_is_named_and_deleted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "draw.proto").unlink()
    by_hand = root / "by_hand.py"
    by_hand.write_text("")
    assert check(root) == 1
    assert "has no .proto file: draw_pb2_grpc.py" in capsys.readouterr().err
    assert generate.main(["--root", str(root)]) == 0
    assert not list(root.glob("draw*"))
    assert by_hand.exists()


def test_check_says_when_another_version_of_the_tool_may_be_the_cause(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = root / "draw_pb2_grpc.py"
    (version,) = {line for line in stub.read_text().splitlines() if line.startswith("GRPC_GENERATED_VERSION")}
    stub.write_text(stub.read_text().replace(version, "GRPC_GENERATED_VERSION = '1.2.3'"))
    assert check(root) == 1
    assert "made by grpcio-tools 1.2.3 before, " in capsys.readouterr().err


def test_a_proto_that_is_wrong_is_refused_and_nothing_is_written(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (root / "probe" / "shape.proto").write_text(SHAPE.replace("= 1;", "= ;"))
    before = (root / "probe" / "shape_pb2.py").read_text()
    with pytest.raises(InvalidInput, match="protoc refused"):
        generate.main(["--root", str(root)])
    assert "probe/shape.proto:5" in capfd.readouterr().err
    assert (root / "probe" / "shape_pb2.py").read_text() == before
