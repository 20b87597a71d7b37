"""The key file of KeyManager "disk": what it looks like, and what is refused and left as it is."""

import base64
import json
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from keymanagers.base import KeyId, KeyType
from keymanagers.disk import MAX_FILE_BYTES, DiskConfig, DiskKeyManager
from spiffe_core.errors import InvalidConfig, KeyManagerUnavailable

ID = KeyId("x509-CA-A")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


def opened(file):
    return DiskKeyManager(DiskConfig(keys_path=file))


def encoded(key, encryption=None):
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, encryption or NoEncryption())
    return base64.b64encode(der).decode()


def test_the_file_is_spires_and_its_owners_alone(file):
    manager = opened(file)
    public = manager.generate(ID, KeyType.EC_P256).public
    document = json.loads(file.read_text())
    assert document.keys() == {"keys"}
    assert load_der_private_key(base64.b64decode(document["keys"][ID]), None).public_key() == public
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in file.parent.iterdir()) == ["keys.json", "keys.json.lock"]


@pytest.mark.parametrize("content", ["{}", '{"keys": {}}'])
def test_a_file_without_keys_is_filled(file, content):
    file.write_text(content)
    file.chmod(0o600)
    manager = opened(file)
    assert manager.keys() == []
    manager.generate(ID, KeyType.EC_P256)
    assert [key.id for key in opened(file).keys()] == [ID]  # noqa: SIM118  no mapping


ED25519 = json.dumps({"keys": {ID: encoded(ed25519.Ed25519PrivateKey.generate())}})
P521 = json.dumps({"keys": {ID: encoded(ec.generate_private_key(ec.SECP521R1()))}})
ENCRYPTED = json.dumps(
    {"keys": {ID: encoded(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"password"))}}
)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "is damaged: it is no JSON at character 0"),
        ("[" * 100_000, "is damaged: it is no JSON"),
        ("[]", 'is damaged: it has no object "keys"'),
        ('{"keys": []}', 'is damaged: it has no object "keys"'),
        ('{"keys": null}', 'is damaged: it has no object "keys"'),
        ('{"svid": [], "bundle": []}', 'is damaged: it has no object "keys"'),
        ('{"keys": {"x509-CA-A": "secret!"}}', 'is damaged: key "x509-CA-A" is no PKCS #8 in base64'),
        ('{"keys": {"x509-CA-A": "c2VjcmV0"}}', 'is damaged: key "x509-CA-A" is no PKCS #8 in base64'),
        (ENCRYPTED, 'is damaged: key "x509-CA-A" is no PKCS #8 in base64'),
        (ED25519, 'key "x509-CA-A" is neither EC nor RSA'),
        (P521, 'key "x509-CA-A": keys of type EC'),
    ],
    ids=[
        *("empty", "too deep", "a list", "a list of keys", "no keys", "another program's file", "no base64"),
        *("no key", "encrypted", "Ed25519", "P-521"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_and_left_as_it_is(file, content, text):
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(InvalidConfig, match=text) as caught:
        opened(file)
    assert str(caught.value).startswith(f"keys_path: {file}")
    assert "secret" not in str(caught.value)
    assert file.read_text() == content


def test_a_file_that_is_damaged_while_it_is_used_is_not_written_over(file):
    manager = opened(file)
    manager.generate(ID, KeyType.EC_P256)
    file.write_text('{"somebody": "else"}')
    with pytest.raises(KeyManagerUnavailable, match="is damaged"):
        manager.generate(KeyId("other"), KeyType.EC_P256)
    assert file.read_text() == '{"somebody": "else"}'


@pytest.mark.parametrize("mode", [0o604, 0o602])
def test_a_file_that_is_open_to_everybody_is_refused(file, mode):
    file.write_text("{}")
    file.chmod(mode)
    with pytest.raises(InvalidConfig, match="every user may read or write"):
        opened(file)


def test_a_file_that_is_too_long_is_not_read(file):
    with file.open("wb") as long:
        long.truncate(MAX_FILE_BYTES + 1)
    file.chmod(0o600)
    with pytest.raises(InvalidConfig, match="is longer than"):
        opened(file)
