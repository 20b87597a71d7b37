"""Configuration files: reading them, and their variables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.config import expand, read_file
from tests.support.needs import unprivileged


def test_a_file_is_read(tmp_path):
    (tmp_path / "a.conf").write_text('a = "${HOME}"')
    assert read_file(tmp_path / "a.conf").items[0].value == "${HOME}"


def test_variables_are_expanded_only_if_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("WHO", "me")
    (tmp_path / "a.conf").write_text('a = "${WHO} $WHO"')
    assert read_file(tmp_path / "a.conf").items[0].value == "${WHO} $WHO"
    assert read_file(tmp_path / "a.conf", expand_env=True).items[0].value == "me me"


def test_a_missing_file_is_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidConfig) as caught:
        read_file("no.conf")
    assert str(caught.value) == f"could not find config file {tmp_path}/no.conf: please use the -config flag"


def test_what_cannot_be_read_is_told_with_the_reason(tmp_path):
    with pytest.raises(InvalidConfig) as caught:
        read_file(tmp_path)
    assert str(caught.value) == f'unable to read configuration at "{tmp_path}": read {tmp_path}: is a directory'


@unprivileged
def test_a_file_that_may_not_be_read_is_told_as_such(tmp_path):
    path = tmp_path / "a.conf"
    path.write_text("")
    path.chmod(0)
    with pytest.raises(InvalidConfig, match=r"permission denied$"):
        read_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = \xff", "unable to read configuration at {}: it is no UTF-8 text"),
        (b"a = ", "unable to decode configuration at {}: At 1:5: expected a value, got the end of the text"),
        (b" " * 1_048_577, "unable to decode configuration at {}: configuration is longer than 1048576 characters"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, content, message):
    path = tmp_path / "a.conf"
    path.write_bytes(content)
    with pytest.raises(InvalidConfig) as caught:
        read_file(path)
    assert str(caught.value) == message.format(f'"{path}"')


def test_a_path_that_is_none_is_refused():
    with pytest.raises(InvalidConfig, match=r"^unable to read configuration at "):
        read_file("a\0b")


def test_an_endless_file_is_not_read_to_its_end():
    with pytest.raises(InvalidConfig, match="longer than"):
        read_file("/dev/zero")


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$A ${A} $A$B", "1 1 12"),
        ("${A", "A"),
        ("${}", ""),
        ("$", "$"),
        ("$-x", "x"),
        ("$ x", "$ x"),
        ("$$A", "$A"),
        ("$1$?", ""),
        ("${NO}x$NO", "x"),
        ("${A\nB}", ""),
        ("$Aé", "1é"),
    ],
)
def test_variables_are_expanded_as_go_does(text, expanded):
    assert expand(text, {"A": "1", "B": "2"}) == expanded


@given(st.text(alphabet='$ {}AB_1\n"é', max_size=30))
def test_any_text_is_expanded(text):
    assert isinstance(expand(text, {"A": "1"}), str)
