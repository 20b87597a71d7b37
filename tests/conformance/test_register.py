"""The register finds every mark, and complains of what is missing, wrong or stale."""

from pathlib import Path

import pytest

from tests.conformance.register import Malformed, claims_of, load, main

REQUIREMENTS = """
[[document]]
name = "A.md"
title = "A"
requirements = [
    { id = "A-1", level = "M", roles = "IV", section = "1", title = "one" },
    { id = "A-2", level = "S/M!", roles = "C", section = "2", title = "two | three" },
]

[[decision]]
ids = ["A-2"]
title = "Not two"
text = "because\\nit is."
"""


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "tests/conformance/requirements.toml", REQUIREMENTS)
    write(tmp_path, "tests/unit/test_a.py", 'import pytest\n@pytest.mark.conformance("A-1")\ndef test_one(): pass\n')
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def found(source):
    return [(claim.test, claim.id) for claim in sorted(claims_of("test_x.py", source))]


def test_the_repository_s_own_register_can_be_read():
    register = load(Path(__file__).parents[2])

    assert len(list(register.requirements())) == 219
    assert [problem for problem in register.problems() if "is no requirement" in problem] == []


def test_what_is_written_passes_the_check(root, capsys):
    assert main(["--write"], root) == 0
    assert main(["--check"], root) == 0
    assert capsys.readouterr() == ("", "")


def test_the_document_links_each_requirement_to_its_tests(root):
    main(["--write"], root)
    text = (root / "docs/conformance.md").read_text()

    assert "Tests show 1 of 1 requirements" in text
    assert "| A-1 | M | I V | 1 | one | [one](../tests/unit/test_a.py) |" in text
    assert "| A-2 | S/M! | C | 2 | two \\| three |  |" in text
    assert "**Not two** (A-2).  because it is." in text
    assert (root / "docs" / "../tests/unit/test_a.py").exists()


def test_a_demanded_requirement_without_a_test_fails_the_check(root, capsys):
    write(root, "tests/unit/test_a.py", "def test_one(): pass\n")
    main(["--write"], root)

    assert main(["--check"], root) == 1
    assert capsys.readouterr().err == "A-1 (one) is shown by no test\n"


def test_a_mark_that_names_no_requirement_fails_the_check(root, capsys):
    write(root, "tests/test_b.py", '@pytest.mark.conformance("A-9")\ndef test_two(): pass\n')
    main(["--write"], root)

    assert main(["--check"], root) == 1
    assert capsys.readouterr().err == "tests/test_b.py:2: test_two shows A-9, which is no requirement\n"


@pytest.mark.parametrize("change", ["", "other"])
def test_a_stale_or_missing_document_fails_the_check(root, capsys, change):
    if change:
        write(root, "docs/conformance.md", change)

    assert main(["--check"], root) == 1
    assert capsys.readouterr().err == "docs/conformance.md is stale: run make docs\n"


def test_a_decision_about_no_requirement_fails_the_check(root, capsys):
    write(root, "tests/conformance/requirements.toml", REQUIREMENTS.replace('ids = ["A-2"]', 'ids = ["A-3"]'))
    main(["--write"], root)

    assert main(["--check"], root) == 1
    assert 'decision "Not two" is about A-3, which is no requirement' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"A-2", level', '"A-1", level', "A-1 stands twice"),
        ('"IV"', '"IX"', "A-1 has unknown roles or level"),
        ('"IV"', '""', "A-1 has unknown roles or level"),
        ('level = "M",', 'level = "MUST",', "A-1 has unknown roles or level"),
        ('section = "1", ', "", "a row lacks a member or has an unknown one"),
        ('section = "1", ', 'section = "1", x = 1, ', "a row lacks a member or has an unknown one"),
    ],
)
def test_a_malformed_requirement_is_refused(root, capsys, old, new, why):
    write(root, "tests/conformance/requirements.toml", REQUIREMENTS.replace(old, new, 1))

    assert main(["--check"], root) == 1
    assert why in capsys.readouterr().err


def test_marks_are_found_on_tests_parameters_classes_and_modules():
    source = """
import pytest
pytestmark = [pytest.mark.slow, pytest.mark.conformance("M-1")]
@pytest.mark.conformance("A-1", "A-2")
@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.conformance("P-1")), 2])
async def test_a(x): ...
@pytest.mark.conformance("C-1")
class TestThings:
    @pytest.mark.conformance("A-3")
    def test_b(self): ...
    def helper(self): ...
def helper(): ...
"""
    assert found(source) == [
        ("test_a", "A-1"),
        ("test_a", "A-2"),
        ("test_a", "M-1"),
        ("test_a", "P-1"),
        ("test_b", "A-3"),
        ("test_b", "C-1"),
        ("test_b", "M-1"),
    ]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ('@pytest.mark.conformance("A-1")\ndef check_a(): ...', "stands neither on a test"),
        ('CASES = [pytest.param(1, marks=pytest.mark.conformance("A-1"))]', "stands neither on a test"),
        ('def test_a():\n    pytest.mark.conformance("A-1")', "stands neither on a test"),
        ("@pytest.mark.conformance\ndef test_a(): ...", "names requirements, as strings"),
        ("@pytest.mark.conformance()\ndef test_a(): ...", "names requirements, as strings"),
        ("@pytest.mark.conformance(*IDS)\ndef test_a(): ...", "names requirements, as strings"),
        ('@pytest.mark.conformance(id="A-1")\ndef test_a(): ...', "names requirements, as strings"),
        ('@pytest.mark.skip\n@pytest.mark.conformance("A-1")\ndef test_a(): ...', "may be skipped or fail"),
        ('@pytest.mark.xfail(x)\n@pytest.mark.conformance("A-1")\ndef test_a(): ...', "may be skipped or fail"),
        (
            'pytestmark = pytest.mark.skipif(x)\n@pytest.mark.conformance("A")\ndef test_a(): ...',
            "may be skipped or fail",
        ),
        ("def test_a(:", "invalid syntax"),
    ],
)
def test_a_claim_that_shows_nothing_is_refused(source, why):
    with pytest.raises(Malformed, match=why):
        found(source)
