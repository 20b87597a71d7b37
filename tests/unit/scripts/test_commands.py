import re

import pytest

from scripts.commands import PROGRAMS, ROOT, leaves, main, render


def test_the_page_of_the_commands_is_current(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_page_is_reported_and_written_anew(tmp_path, capsys):
    page = tmp_path / "docs/commands.md"
    page.parent.mkdir()
    assert main(["--check"], tmp_path) == 1
    page.write_text("old")
    assert main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err == "docs/commands.md is stale: run make docs\n" * 2
    assert main(["--write"], tmp_path) == 0
    assert page.read_text() == (ROOT / "docs/commands.md").read_text()


@pytest.mark.parametrize("program", [0, 1], ids=["server", "agent"])
def test_every_command_says_what_it_does(program):
    found = [(name, text) for name, text, _ in leaves(PROGRAMS[program][1])]
    assert [name for name, text in found if not text] == []
    assert len(found) > 8


def test_a_command_is_shown_with_its_own_flags():
    (section,) = re.findall(r"^### steeple-server token generate\n(.*?)^###", render(), re.DOTALL | re.MULTILINE)
    assert re.findall(r"^\| `(\S+)`", section, re.MULTILINE) == ["-spiffeID", "-ttl"]
    assert "`600`" in section


def test_the_socket_of_a_server_is_a_setting_of_run():
    (section,) = re.findall(r"^### steeple-server run\n(.*?)^###", render(), re.DOTALL | re.MULTILINE)
    assert "`-socketPath`" in section
