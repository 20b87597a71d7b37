"""Where a PIN may come from, what is said when it does not, and that it shows nowhere."""

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from keymanagers.base import KeyId, KeyType
from keymanagers.pkcs11 import pin as pin_module
from keymanagers.pkcs11.config import Pkcs11Config
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from keymanagers.pkcs11.pin import PinDescriptor, PinFile, PinProgram, parse_pin_source
from keymanagers.pkcs11.uri import Pkcs11Uri
from spiffe_core.errors import InvalidConfig, KeyManagerUnavailable, SpiffeError
from spiffe_core.runtime.block import Block
from tests.support.shim import Shim

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm

PIN = "7391-a-pin"

Hide = Callable[[str, bytes], str]


@pytest.fixture
def hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hide:
    """Puts a PIN where a source of a kind finds it, and returns the source."""

    def hide(kind: str, pin: bytes) -> str:
        path = tmp_path / f"hidden-{kind}"
        path.write_bytes(pin)
        path.chmod(0o400)
        match kind:
            case "path":
                return str(path)
            case "file":
                return f"file:{path}"
            case "fd":
                pin_module._content.cache_clear()  # a number that was another descriptor in another test
                reading, writing = os.pipe()
                os.write(writing, pin)
                os.close(writing)
                return f"fd:{reading}"
            case "env":
                monkeypatch.setenv("STEEPLE_TEST_PIN", os.fsdecode(pin))
                return "env:STEEPLE_TEST_PIN"
            case "credential":
                monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
                return f"credential:{path.name}"
            case "program":
                return f"|{shlex.join(['/bin/cat', '--', str(path)])}"
        raise AssertionError(kind)

    return hide


KINDS = ("path", "file", "fd", "env", "credential", "program")


@pytest.mark.parametrize("kind", KINDS)
def test_a_pin_from_each_source_logs_in_and_logs_in_again(shim: Shim, own_token, hide, kind):
    source = hide(kind, own_token.pin_file.read_bytes())
    with closing(Pkcs11KeyManager(own_token.config(module=shim.path, pin_source=source))) as manager:
        key = manager.generate(KeyId("a"), KeyType.EC_P256)
        shim.steal_sessions("own")
        assert isinstance(key.private, ec.EllipticCurvePrivateKey)
        key.private.sign(b"data", ec.ECDSA(hashes.SHA256()))
    assert shim.logins == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_uri_may_name_each_source(own_token, hide, kind):
    source = hide(kind, own_token.pin_file.read_bytes())
    uri = Pkcs11Uri.parse(str(Pkcs11Uri(token="own", pin_source=source)))
    with closing(Pkcs11KeyManager(own_token.config(token="", uri=uri, pin_source=""))) as manager:
        made = manager.generate(KeyId("a"), KeyType.EC_P256)
        (shown,) = manager.keys()
        assert shown.public == made.public


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"], ids=["bare", "line", "crlf"])
def test_the_end_of_a_line_is_no_part_of_a_pin(hide, kind, end):
    assert parse_pin_source(hide(kind, PIN.encode() + end)).read() == PIN.encode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "content", [b"", b"\n", b"7391\n7391\n", b"7" * 256], ids=["empty", "line", "two lines", "too long"]
)
def test_what_is_no_pin_is_refused_without_being_shown(hide, kind, content):
    with pytest.raises(InvalidConfig, match=r"^pin_source: ") as caught:
        parse_pin_source(hide(kind, content)).read()
    assert "7391" not in str(caught.value)
    assert "77777" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("/nowhere/pin", KeyManagerUnavailable, r"pin_source: cannot read /nowhere/pin: No such file"),
        ("fd:9999", KeyManagerUnavailable, r"pin_source: file descriptor 9999 cannot be read"),
        ("env:STEEPLE_NO_SUCH_PIN", InvalidConfig, r"pin_source: environment variable STEEPLE_NO_SUCH_PIN is not set"),
        ("credential:pin", InvalidConfig, r"pin_source: there is no credential pin: .* systemd with LoadCredential"),
        ("|/nowhere/program", KeyManagerUnavailable, r"pin_source: program /nowhere/program cannot be run: No such"),
        ("|/bin/false", KeyManagerUnavailable, r"pin_source: program /bin/false ended with code 1"),
    ],
    ids=["file", "fd", "env", "credential", "no program", "failing program"],
)
def test_a_source_that_gives_nothing_is_named(monkeypatch, source, error, message):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(error, match=message):
        parse_pin_source(source).read()


@pytest.mark.parametrize(
    "source",
    ["7391", "7391:", "pin:7391", "env:7391", "env:", "fd:7391x", "credential:../7391", "credential:..", "|cat", "|"],
)
def test_what_is_no_source_may_be_the_pin_itself_and_is_not_shown(source):
    with pytest.raises(InvalidConfig, match=r"^pin_source: ") as caught:
        Pkcs11Config(module=Path("/m.so"), token="t", authority_group="g", pin_source=source)
    assert "7391" not in f"{caught.value} {caught.value.__cause__!r}"


def test_a_path_with_a_colon_is_a_path():
    assert parse_pin_source("/etc/a:b/pin") == PinFile(Path("/etc/a:b/pin"))


def test_a_descriptor_that_never_ends_is_not_waited_for_for_ever():
    reading, writing = os.pipe()
    try:
        with pytest.raises(KeyManagerUnavailable, match=f"file descriptor {reading} gave no end of its content"):
            PinDescriptor(reading, 0.1).read()
    finally:
        os.close(reading)
        os.close(writing)


def test_a_program_that_never_ends_is_ended(tmp_path):
    script = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()));"
    command = (sys.executable, "-c", f"{script} time.sleep(600)")
    with pytest.raises(KeyManagerUnavailable, match=r"did not end within 0\.5 s"):
        PinProgram(command, 0.5).read()
    pid = tmp_path / "pid"
    if pid.exists():  # on a slow machine it was ended before it said who it is
        assert not Path("/proc", pid.read_text()).exists()


def test_no_source_of_a_pin_that_was_refused_shows_it_anywhere(shim: Shim, own_token, hide):
    texts = []
    with capture_logs() as lines:
        for number, kind in enumerate(KINDS):
            wrong = f"{PIN}-{number}"
            config = own_token.config(module=shim.path, pin_source=hide(kind, wrong.encode()))
            texts.append(repr(config))
            for _ in range(2):
                with pytest.raises(SpiffeError) as caught:
                    Pkcs11KeyManager(config)
                error: BaseException | None = caught.value
                while error is not None:
                    texts.append(f"{error} {error!r}")
                    error = error.__cause__ or error.__context__
    assert shim.logins == len(KINDS)
    assert not [text for text in [*texts, *map(str, lines)] if PIN in text]


def test_a_configuration_file_may_name_a_program(own_token):
    block = Block.parse(
        f'module = "{own_token.library}"\ntoken = "own"\npin_source = "|/bin/cat {own_token.pin_file}"\n'
        'authority_group = "example.org"'
    )
    with closing(Pkcs11KeyManager(block.read(Pkcs11Config))) as manager:
        assert manager.keys() == []
