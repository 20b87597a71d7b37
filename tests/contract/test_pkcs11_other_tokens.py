"""Tokens of other vendors: what a key manager makes of them, and what is particular to each."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, TokenFlag

from keymanagers.base import Key, KeyId, KeyType
from keymanagers.pkcs11.config import Pkcs11Config
from keymanagers.pkcs11.cryptoki import TokenInfo
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from keymanagers.pkcs11.objects import cka_ids_of
from keymanagers.pkcs11.profiles import GENERIC, PROFILES, profile_of
from keymanagers.pkcs11.sessions import session_bound
from spiffe_core.errors import AlreadyExists, InvalidConfig, Unsupported
from tests.support.other_tokens import in_a_round
from tests.support.token_round import THREADS

pytest_plugins = ["tests.support.key_fixtures"]

EC, RSA = ("ec-p256", "ec-p384"), ("rsa-2048", "rsa-4096")
CUSTODY = {
    "CKA_TOKEN": True,
    "CKA_PRIVATE": True,
    "CKA_SENSITIVE": True,
    "CKA_ALWAYS_SENSITIVE": True,
    "CKA_EXTRACTABLE": False,
    "CKA_NEVER_EXTRACTABLE": True,
    "CKA_LOCAL": True,
    "CKA_SIGN": True,
    "CKA_DECRYPT": False,
    "CKA_UNWRAP": False,
    "CKA_DERIVE": False,
}
NOT_REFUSED = {
    "opencryptoki": set(),
    # Its library changes what it says of a key, though the TPM gives the key's value to nobody.
    "tpm2-pkcs11": {"C_SetAttributeValue(CKA_EXTRACTABLE = true)", "C_SetAttributeValue(CKA_SENSITIVE = false)"},
}
YUBIHSM = PROFILES["yubihsm2"]


@pytest.mark.parametrize(("name", "made"), [("opencryptoki", RSA), ("tpm2-pkcs11", EC)])
def test_another_vendors_token_makes_keeps_and_signs_with_the_keys_that_it_knows(name, made):
    report = in_a_round(name)
    assert report["profile"] == name
    assert report["types"] == {kind: "made" if kind in made else "Unsupported" for kind in (*EC, *RSA)}
    for said in report["custody"]:
        assert {attribute: said[attribute] for attribute in CUSTODY} == CUSTODY
    for attempts in report["attempts"].values():
        assert {way for way, outcome, _ in attempts if outcome not in {"refused", "impossible"}} == NOT_REFUSED[name]
        assert any(outcome == "refused" for way, outcome, _ in attempts if way.startswith("C_GetAttributeValue"))
    assert report["attributes after the attempts"] == report["custody"]
    assert report["twice"]
    assert report["threads"] == THREADS * len(made)
    assert report["same after reopening"]
    assert report["signs after re-initialisation"] == [True] * len(made)
    assert report["left"] == 0


def info(manufacturer: str = "", model: str = "", sessions: int | None = None) -> TokenInfo:
    return TokenInfo(
        label="token",
        manufacturer=manufacturer,
        model=model,
        serial="1",
        flags=TokenFlag(0),
        max_sessions=sessions,
        max_rw_sessions=None,
    )


@pytest.mark.parametrize(
    ("library", "token", "name"),
    [
        ("SoftHSM", info("SoftHSM project", "SoftHSM v2"), "softhsm2"),
        ("IBM", info("IBM Corp.", "IBM SoftTok"), "opencryptoki"),
        ("tpm2-software.github.io", info("IBM", "SW   TPM"), "tpm2-pkcs11"),
        ("Yubico (www.yubico.com)", info("Yubico (www.yubico.com)", "YubiHSM"), "yubihsm2"),
        ("Marvell Semiconductors, Inc.", info("Marvell Semiconductors, Inc.", "LS2-G-AWS-V3.1"), "cloudhsm"),
        ("SafeNet", info("SafeNet", "Luna K7"), "luna"),
        ("nCipher Corp. Ltd", info("nCipher Corp. Ltd", ""), "nshield"),
        ("OpenSC Project", info("Yubico AB", "PKCS#15 emulated"), "generic"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_profile_is_known_by_what_library_and_token_say_of_themselves(library, token, name):
    assert profile_of(library, token).name == name


def test_every_profile_says_how_its_particulars_are_known():
    assert all(profile.why for profile in PROFILES.values())
    assert set(PROFILES) == {
        "softhsm2", "opencryptoki", "tpm2-pkcs11", "yubihsm2", "cloudhsm", "luna", "nshield", "generic",
    }  # fmt: skip


def test_a_profile_that_there_is_not_is_refused_by_naming_those_there_are():
    with pytest.raises(InvalidConfig, match="profile: must be one of softhsm2, opencryptoki"):
        Pkcs11Config(module=Path("/m.so"), token="t", authority_group="g", profile="brand-x")


def test_what_a_token_does_not_tell_of_its_sessions_its_profile_does():
    assert session_bound(32, info(), YUBIHSM) == 15
    assert session_bound(8, info(), YUBIHSM) == 8
    assert session_bound(32, info(sessions=4), YUBIHSM) == 3
    assert session_bound(32, info(), GENERIC) == 32


def test_short_ids_are_several_and_none_is_one_that_the_device_keeps_for_itself():
    ids = cka_ids_of("example.org/a", YUBIHSM)
    assert len(set(ids)) > 8
    assert {len(one) for one in ids} == {2}
    assert not set(ids) & {b"\0\0", b"\xff\xff"}
    assert [len(one) for one in cka_ids_of("example.org/a", GENERIC)] == [20]


def sign(key: Key) -> None:
    assert isinstance(key.private, ec.EllipticCurvePrivateKey)
    assert isinstance(key.public, ec.EllipticCurvePublicKey)
    algorithm = ec.ECDSA(hashes.SHA256())
    key.public.verify(key.private.sign(b"data", algorithm), b"data", algorithm)


@pytest.mark.softhsm
def test_keys_whose_short_ids_would_be_the_same_are_told_apart(own_token):
    first = KeyId("a")
    wanted = cka_ids_of("example.org/a", YUBIHSM)[0]
    numbers = (f"key-{number}" for number in range(1_000_000))
    second = KeyId(next(one for one in numbers if cka_ids_of(f"example.org/{one}", YUBIHSM)[0] == wanted))
    manager = Pkcs11KeyManager(own_token.config(profile="yubihsm2"))
    try:
        assert manager.status()[0].profile == "yubihsm2"
        keys = [manager.generate(one, KeyType.EC_P256) for one in (first, second)]
        with pytest.raises(AlreadyExists):
            manager.generate(second, KeyType.EC_P256)
        for key in keys:
            sign(key)
        ids = [manager.attributes(key.id)["CKA_ID"] for key in keys]
        assert ids[0] == wanted.hex() != ids[1]
        assert len(str(ids[1])) == 4
        manager.retire(first)
        assert [key.id for key in tuple(manager.keys())] == [second]
        sign(keys[1])
        with pytest.raises(Unsupported, match="labels have 40 bytes at most: choose a shorter authority_group"):
            manager.generate(KeyId("k" * 40), KeyType.EC_P256)
    finally:
        manager.close()


@pytest.mark.softhsm
def test_what_a_profile_leaves_out_is_not_said_and_what_custody_asks_is_read_back_all_the_same(own_token):
    manager = Pkcs11KeyManager(own_token.config(profile="cloudhsm"))
    try:
        manager.generate(KeyId("a"), KeyType.EC_P256)
        said = manager.attributes(KeyId("a"))
        assert said["CKA_MODIFIABLE"] is True
        assert (said["CKA_SENSITIVE"], said["CKA_EXTRACTABLE"]) == (True, False)
        assert Attribute.SENSITIVE in PROFILES["cloudhsm"].unsaid
    finally:
        manager.close()
