from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import pytest

from scripts.settings import ROOT, Unreadable, filled, main, missing, table
from spiffe_core.runtime.levels import Level

HEAD = "| setting | value | default | |\n|---|---|---|---|\n"
HERE = f"{__name__}:"


class Kind(StrEnum):
    ONE = "one"


@dataclass(frozen=True, kw_only=True)
class Inner:
    much: int = 3
    """A number."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    place: Path
    """Where | it is,
    over two lines."""
    later: Path | None = None
    """Not set."""
    many: tuple[str, ...] = ()
    """Several, with ``two`` backticks."""
    on: bool = False
    """A switch."""
    kind: Kind = Kind.ONE
    """A choice."""
    level: Level = Level.INFO
    """A level."""
    wait: timedelta = timedelta(minutes=90)
    """A time."""
    none: timedelta = timedelta()
    """No time."""
    inner: Inner = field(default_factory=Inner)
    """What belongs together."""
    named: str = field(default="", metadata={"key": "NamedOtherwise", "deprecated": "use place"})
    """A former name."""

    NOT_SUPPORTED: ClassVar = {"a": "too bad"}
    WITHOUT_EFFECT: ClassVar = {"b": "no such thing", "c": "no such thing"}


@dataclass(frozen=True)
class Empty:
    pass


@dataclass(frozen=True)
class Silent:
    unexplained: int = 0


def test_a_table_says_what_the_dataclass_says():
    assert table(f"{HERE}Sample") == HEAD + (
        "| `place` | path | **required** | Where \\| it is, over two lines. |\n"
        "| `later` | path |  | Not set. |\n"
        "| `many` | list of text |  | Several, with `two` backticks. |\n"
        "| `on` | `true` or `false` | `false` | A switch. |\n"
        "| `kind` | name | `one` | A choice. |\n"
        "| `level` | name | `info` | A level. |\n"
        "| `wait` | duration | `1h30m` | A time. |\n"
        "| `none` | duration | `0s` | No time. |\n"
        "| `inner` | block | as below | What belongs together. |\n"
        "| `NamedOtherwise` | text |  | A former name. *Deprecated: use place.* |\n"
        "\nRefused:\n\n- `a`: too bad\n"
        "\nTaken without effect, with a warning:\n\n- `b`, `c`: no such thing\n"
    )


def test_a_dataclass_without_settings_says_so():
    assert table(f"{HERE}Empty") == "It has no settings.\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Silent", "Silent.unexplained has no description"),
        ("Missing", "there is no "),
        ("Kind", "is no dataclass"),
    ],
)
def test_what_cannot_be_described_is_named(name, text):
    with pytest.raises(Unreadable, match=text):
        table(f"{HERE}{name}")


def test_only_what_lies_between_the_marks_is_replaced():
    page = f"# Title\n\n<!-- settings: {HERE}Inner -->\nold\n<!-- end of settings -->\n\nThe end.\n"
    made = filled(page)
    assert made == (
        f"# Title\n\n<!-- settings: {HERE}Inner -->\n\n{HEAD}| `much` | number | `3` | A number. |\n\n"
        "<!-- end of settings -->\n\nThe end.\n"
    )
    assert filled(made) == made


def copy_of_the_docs(folder: Path) -> Path:
    for path in sorted((ROOT / "docs").rglob("*.md")):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    return folder


def test_the_documentation_is_current(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_table_is_reported_and_written_anew(tmp_path, capsys):
    root = copy_of_the_docs(tmp_path)
    page = root / "docs/configuration_server.md"
    before = page.read_text()
    page.write_text(before.replace("| `bind_port` | number | `8081` |", "| `bind_port` | number | `8082` |"))
    assert main(["--check"], root) == 1
    assert capsys.readouterr().err == "docs/configuration_server.md is stale: run make docs\n"
    assert main(["--write"], root) == 0
    assert page.read_text() == before


def test_a_plugin_without_page_or_table_is_reported(tmp_path):
    root = copy_of_the_docs(tmp_path)
    (root / "docs/plugins/keymanager_pkcs11.md").unlink()
    (root / "docs/plugins/keymanager_disk.md").write_text("# Nothing\n")
    assert list(missing(root)) == [
        "docs/plugins/keymanager_disk.md has no table for keymanagers.disk:DiskConfig",
        "there is no docs/plugins/keymanager_pkcs11.md",
    ]


def test_a_block_without_table_is_reported(tmp_path):
    root = copy_of_the_docs(tmp_path)
    page = root / "docs/configuration_agent.md"
    page.write_text(page.read_text().replace("<!-- settings: agent.config:RateLimit -->\n", ""))
    assert list(missing(root)) == ["no page has a table for agent.config:RateLimit"]


def test_a_page_that_names_no_dataclass_is_reported(tmp_path, capsys):
    root = copy_of_the_docs(tmp_path)
    (root / "docs/wrong.md").write_text("<!-- settings: server.config:Nothing -->\n<!-- end of settings -->\n")
    assert main(["--check"], root) == 1
    assert capsys.readouterr().err == "docs/wrong.md: there is no server.config:Nothing\n"
