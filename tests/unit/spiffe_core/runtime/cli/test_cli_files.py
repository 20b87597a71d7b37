"""What commands read and write as PEM."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffe_core.errors import InvalidBundle
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.pem import pem, read_certificates
from spiffe_core.runtime.cli.written import PRIVATE, PUBLIC, write
from tests.support.certificates import ca


def test_a_value_is_written_in_lines_of_64():
    assert pem("KEY", [b"\0" * 49]) == f"-----BEGIN KEY-----\n{'A' * 64}\nAA==\n-----END KEY-----\n"
    assert pem("KEY", []) == ""


def test_certificates_are_read_as_they_were_written():
    ders = tuple(ca().der for _ in range(2))
    assert read_certificates(pem("CERTIFICATE", ders).encode()) == ders


def test_what_stands_between_the_blocks_is_passed_over():
    der = ca().der
    text = f"# a comment ☃\n{pem('CERTIFICATE', [der])}\nbag attributes\n".replace("\n", "\r\n")
    assert read_certificates(text.encode()) == (der,)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no PEM blocks"),
        ("foo", "no PEM blocks"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n", "no PEM blocks"),
        (pem("PRIVATE KEY", [b"x"]), 'expected block type "CERTIFICATE"; got "PRIVATE KEY"'),
        ("-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n", "PEM block is no base64"),
    ],
)
def test_what_is_no_certificate_is_refused(text, complaint):
    with pytest.raises(InvalidBundle) as caught:
        read_certificates(text.encode())
    assert str(caught.value) == complaint


def test_a_block_that_is_no_certificate_is_refused():
    with pytest.raises(InvalidBundle, match=r"^malformed certificate"):
        read_certificates(pem("CERTIFICATE", [b"\0\0\0"]).encode())


@given(st.binary(max_size=50), st.sampled_from([b"CERTIFICATE", b"KEY", b""]))
def test_any_text_is_read_or_refused(body, label):
    with pytest.raises(InvalidBundle):
        read_certificates(b"-----BEGIN " + label + b"-----\n" + body + b"\n-----END " + label + b"-----\n")


@pytest.mark.parametrize("mode", [PRIVATE, PUBLIC])
def test_a_file_has_its_mode_whatever_was_there(tmp_path, mode):
    path = tmp_path / "a"
    path.write_text("long before")
    path.chmod(0o666)
    write(path, b"now", mode)
    assert path.read_bytes() == b"now"
    assert path.stat().st_mode & 0o777 == mode
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("no/such/folder", "no such file or directory"), ("taken", "is a directory"), ("n\0l", "embedded null byte")],
)
def test_a_file_that_cannot_be_written_is_told_with_the_reason(tmp_path, name, reason):
    (tmp_path / "taken").mkdir()
    with pytest.raises(CommandError) as caught:
        write(tmp_path / name, b"x", PRIVATE, "unable to write key: ")
    assert caught.value.message.startswith("unable to write key: ")
    assert caught.value.message.endswith(reason)
