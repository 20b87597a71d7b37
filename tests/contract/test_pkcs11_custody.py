"""What a token says and does about our keys, asked through python-pkcs11, which shares no code with ours."""

from collections.abc import Iterator
from hashlib import sha256

import pkcs11
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, ObjectClass
from structlog.testing import capture_logs

from keymanagers.base import KeyId, KeyInspector, KeyType, fingerprint
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from spiffe_core.errors import KeyNotFound

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm

PRIVATE_PARTS = (
    Attribute.VALUE,
    Attribute.PRIVATE_EXPONENT,
    Attribute.PRIME_1,
    Attribute.PRIME_2,
    Attribute.EXPONENT_1,
    Attribute.EXPONENT_2,
    Attribute.COEFFICIENT,
)
REFUSALS = (pkcs11.AttributeSensitive, pkcs11.AttributeTypeInvalid)


@pytest.fixture
def manager(own_token) -> Iterator[Pkcs11KeyManager]:
    manager = Pkcs11KeyManager(own_token.config())
    yield manager
    manager.close()


@pytest.fixture
def auditor(own_token, tmp_path) -> Iterator[pkcs11.Session]:
    """A read-write session of somebody else who knows the PIN, through a library of his own."""
    path = tmp_path / "auditor.so"
    path.write_bytes(own_token.library.read_bytes())
    token = pkcs11.lib(str(path)).get_token(token_label=own_token.label)
    yield token.open(rw=True, user_pin=own_token.pin_file.read_text().strip())
    pkcs11.unload(str(path))


def private_keys(session: pkcs11.Session) -> list[pkcs11.PrivateKey]:
    return list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))


def wrapping_key(session: pkcs11.Session) -> pkcs11.SecretKey:
    return session.generate_key(
        pkcs11.KeyType.AES, 256, capabilities=pkcs11.MechanismFlag.WRAP, mechanism=pkcs11.Mechanism.AES_KEY_GEN
    )


@pytest.mark.parametrize("key_type", KeyType)
def test_the_token_says_that_a_key_was_made_in_it_and_never_left_it(manager, key_type):
    manager.generate(KeyId("a"), key_type)
    assert isinstance(manager, KeyInspector)
    said = manager.attributes(KeyId("a"))
    kind = key_type.value.partition("-")[0].upper()
    wanted = {
        "CKA_CLASS": "CKO_PRIVATE_KEY",
        "CKA_KEY_TYPE": f"CKK_{kind}",
        "CKA_LABEL": "example.org/a",
        "CKA_TOKEN": True,
        "CKA_PRIVATE": True,
        "CKA_SENSITIVE": True,
        "CKA_ALWAYS_SENSITIVE": True,
        "CKA_EXTRACTABLE": False,
        "CKA_NEVER_EXTRACTABLE": True,
        "CKA_LOCAL": True,
        "CKA_MODIFIABLE": False,
        "CKA_COPYABLE": False,
        "CKA_SIGN": True,
        "CKA_SIGN_RECOVER": False,
        "CKA_DECRYPT": False,
        "CKA_UNWRAP": False,
        "CKA_DERIVE": False,
        "CKA_KEY_GEN_MECHANISM": "CKM_EC_KEY_PAIR_GEN" if kind == "EC" else "CKM_RSA_PKCS_KEY_PAIR_GEN",
    }
    assert {name: said[name] for name in wanted} == wanted


def test_attributes_of_an_unknown_key_are_an_error(manager):
    with pytest.raises(KeyNotFound, match='no key "a"'):
        manager.attributes(KeyId("a"))


def test_the_token_reads_out_and_wraps_none_of_our_keys(manager, auditor):
    for key_type in KeyType:
        manager.generate(KeyId(key_type), key_type)
    keys = private_keys(auditor)
    assert len(keys) == len(KeyType)
    wrapper = wrapping_key(auditor)
    for key in keys:
        for part in PRIVATE_PARTS:
            with pytest.raises(REFUSALS):
                key[part]
        with pytest.raises(pkcs11.KeyUnextractable):
            wrapper.wrap_key(key, mechanism=pkcs11.Mechanism.AES_KEY_WRAP_PAD)


def test_the_same_auditor_does_read_out_and_wrap_a_key_that_lets_itself(auditor):
    parameters = auditor.create_domain_parameters(
        pkcs11.KeyType.EC, {Attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}, local=True
    )
    parameters.generate_keypair(
        store=True, private_template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}, label="loose"
    )
    (key,) = private_keys(auditor)
    assert len(key[Attribute.VALUE]) >= 31
    assert wrapping_key(auditor).wrap_key(key, mechanism=pkcs11.Mechanism.AES_KEY_WRAP_PAD)


def test_nobody_weakens_copies_or_renames_a_key(manager, auditor):
    manager.generate(KeyId("a"), KeyType.EC_P256)
    (key,) = private_keys(auditor)
    for attribute, value in (
        (Attribute.LABEL, "example.org/b"),
        (Attribute.SENSITIVE, False),
        (Attribute.EXTRACTABLE, True),
        (Attribute.DECRYPT, True),
    ):
        with pytest.raises(pkcs11.PKCS11Error):
            key[attribute] = value
    with pytest.raises(pkcs11.PKCS11Error):
        key.copy({Attribute.EXTRACTABLE: True})
    assert len(private_keys(auditor)) == 1


def test_both_halves_carry_group_and_id_and_go_together(manager, auditor):
    manager.generate(KeyId("a"), KeyType.RSA_2048)
    objects = list(auditor.get_objects())
    assert {one[Attribute.LABEL] for one in objects} == {"example.org/a"}
    assert len({one[Attribute.ID] for one in objects}) == 1
    assert {one.object_class for one in objects} == {ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY}
    manager.retire(KeyId("a"))
    assert list(auditor.get_objects()) == []


def test_a_key_of_another_program_is_neither_shown_nor_touched(manager, auditor):
    parameters = auditor.create_domain_parameters(
        pkcs11.KeyType.EC, {Attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}, local=True
    )
    parameters.generate_keypair(store=True, label="example.org/theirs", id=b"their own id")
    assert manager.keys() == []
    with pytest.raises(KeyNotFound):
        manager.retire(KeyId("theirs"))
    assert len(private_keys(auditor)) == 1


def test_what_is_left_of_a_half_made_key_is_no_key_and_can_be_cleared(manager, auditor):
    key = manager.generate(KeyId("a"), KeyType.EC_P256)
    (private,) = private_keys(auditor)
    private.destroy()  # as a process killed between the two halves would leave it
    assert manager.keys() == []
    assert isinstance(key.private, ec.EllipticCurvePrivateKey)
    with pytest.raises(Exception, match="does not show the key"):
        key.private.sign(b"data", ec.ECDSA(hashes.SHA256()))
    manager.retire(KeyId("a"))
    assert list(auditor.get_objects()) == []
    manager.generate(KeyId("a"), KeyType.EC_P256)


def test_it_is_logged_which_key_was_made_and_destroyed_and_where(own_token, manager):
    with capture_logs() as lines:
        key = manager.generate(KeyId("a"), KeyType.EC_P384)
        manager.retire(KeyId("a"))
    made, destroyed = (line for line in lines if line["event"].startswith("Key "))
    assert made["event"] == "Key made in token"
    assert destroyed["event"] == "Key destroyed in token"
    assert own_token.folder.name.replace("-", "").endswith(made["serial"])
    assert (made["key_type"], made["token"]) == ("ec-p384", "own")
    assert made["cka_id"] == sha256(b"example.org/a").hexdigest()[:40]
    for line in (made, destroyed):
        assert (line["key_id"], line["public_key_sha256"]) == ("a", fingerprint(key.public))
