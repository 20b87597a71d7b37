"""Several tokens with the same keys: signatures are shared out, and one token's trouble is nobody's."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pkcs11
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, ObjectClass

from keymanagers.base import Key, KeyId, KeyType, fingerprint
from keymanagers.pkcs11.config import Pkcs11Config
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from keymanagers.pkcs11.objects import EC_PARAMS, cka_ids_of, label_of
from keymanagers.pkcs11.profiles import GENERIC
from keymanagers.pkcs11.returns import Rv
from spiffe_core.errors import InvalidConfig, KeyManagerUnavailable
from spiffe_core.runtime.block import Block
from spiffe_core.runtime.files import private_folder
from tests.support.server_processes import wait_until
from tests.support.shim import ALWAYS, Shim, load_shim
from tests.support.softhsm import SoftHsmToken, init_token

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm

A, B = KeyId("a"), KeyId("b")
ECDSA = ec.ECDSA(hashes.SHA256())
LABELS = ("east", "west")

Open = Callable[..., Pkcs11KeyManager]


@pytest.fixture
def tokens(own_token: SoftHsmToken) -> list[SoftHsmToken]:
    """Two tokens of one SoftHSM."""
    return [init_token(own_token.softhsm2_conf.parent, label, own_token.library) for label in LABELS]


@pytest.fixture
def shims(tokens, compiled_shim: Path, tmp_path: Path) -> Iterator[dict[str, Shim]]:
    """A shim for each of them."""
    with ExitStack() as resources:
        found = {}
        for token in tokens:
            path = Path(shutil.copy(compiled_shim, tmp_path / f"{token.label}.so"))
            library = Path(shutil.copy(token.library, tmp_path / f"{token.label}-softhsm.so"))
            folder = resources.enter_context(private_folder())
            found[token.label] = resources.enter_context(load_shim(path, folder, library))
        yield found


@pytest.fixture
def opened(tokens, shims) -> Iterator[Open]:
    """Opens key managers on both and closes them."""
    managers: list[Pkcs11KeyManager] = []

    def open_manager(**changed) -> Pkcs11KeyManager:
        managers.append(
            Pkcs11KeyManager(
                tokens[0].config(
                    token="",
                    module=None,
                    pin_source="",
                    tokens=[uri(one, shims[one.label]) for one in tokens],
                    **changed,
                )
            )
        )
        return managers[-1]

    yield open_manager
    for shim in shims.values():
        shim.release()
        shim.heal()
    for manager in managers:
        manager.close()


def uri(token: SoftHsmToken, shim: Shim) -> str:
    return f"pkcs11:token={token.label}?module-path={shim.path}&pin-source=file:{token.pin_file}"


def copy_key(tokens: list[SoftHsmToken], tmp_path: Path, key_id: KeyId = A, *, same: bool = True) -> None:
    """A key in every token, as a vendor's replication leaves it; in each another one if not ``same``."""
    private = ec.generate_private_key(ec.SECP256R1())
    label = label_of("example.org", key_id)
    library = Path(shutil.copy(tokens[0].library, tmp_path / "vendor.so"))
    try:
        for token in tokens:
            if not same:
                private = ec.generate_private_key(ec.SECP256R1())
            names = {
                Attribute.KEY_TYPE: pkcs11.KeyType.EC,
                Attribute.LABEL: label,
                Attribute.ID: cka_ids_of(label, GENERIC)[0],
                Attribute.TOKEN: True,
                Attribute.EC_PARAMS: EC_PARAMS[KeyType.EC_P256],
            }
            point = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            secret = {
                Attribute.VALUE: private.private_numbers().private_value.to_bytes(32),
                Attribute.SENSITIVE: True,
                Attribute.EXTRACTABLE: False,
                Attribute.SIGN: True,
            }
            pin = token.pin_file.read_text().strip()
            with pkcs11.lib(str(library)).get_token(token_label=token.label).open(rw=True, user_pin=pin) as session:
                session.create_object({Attribute.CLASS: ObjectClass.PRIVATE_KEY, **names, **secret})
                session.create_object(
                    {Attribute.CLASS: ObjectClass.PUBLIC_KEY, **names, Attribute.EC_POINT: b"\x04\x41" + point}
                )
    finally:
        pkcs11.unload(str(library))


def only_key(manager: Pkcs11KeyManager) -> Key:
    (key,) = manager.keys()
    return key


def sign(key: Key) -> None:
    assert isinstance(key.private, ec.EllipticCurvePrivateKey)
    assert isinstance(key.public, ec.EllipticCurvePublicKey)
    key.public.verify(key.private.sign(b"data", ECDSA), b"data", ECDSA)


def signatures(shims: dict[str, Shim]) -> dict[str, int]:
    return {label: shim.count("C_Sign") for label, shim in shims.items()}


def signed_in(shims: dict[str, Shim], key: Key, times: int = 8) -> set[str]:
    """Sign so often; the tokens that were asked to."""
    before = signatures(shims)
    for _ in range(times):
        sign(key)
    return {label for label, count in signatures(shims).items() if count > before[label]}


def troubles(manager: Pkcs11KeyManager) -> dict[str, str]:
    return {one.token: one.trouble for one in manager.status()}


def test_a_key_that_all_hold_is_one_key_and_is_signed_with_in_each(tokens, shims, opened, tmp_path):
    copy_key(tokens, tmp_path)
    key = only_key(opened())
    shims["east"].delay("C_Sign", 0.02)
    assert signed_in(shims, key) == {"east"}  # one after the other, none is busy: the first
    with ThreadPoolExecutor(4) as pool:
        before = signatures(shims)
        assert [future.result() for future in [pool.submit(sign, key) for _ in range(16)]] == [None] * 16
    assert all(count > before[label] for label, count in signatures(shims).items())


def test_when_one_goes_away_the_other_signs_and_nobody_notices(tokens, shims, opened, tmp_path):
    copy_key(tokens, tmp_path)
    manager = opened()
    key = only_key(manager)
    shims["east"].remove("east")
    assert signed_in(shims, key) == {"west"}
    assert only_key(manager) is key
    assert 'token "east"' in troubles(manager)["east"]
    assert troubles(manager)["west"] == ""
    manager.check()


def test_one_that_hangs_is_left_alone_as_soon_as_it_is_busier_than_the_other(tokens, shims, opened, tmp_path):
    copy_key(tokens, tmp_path)
    key = only_key(opened())
    shims["east"].hang("C_Sign")
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(sign, key)
        wait_until(lambda: shims["east"].hanging == 1)
        assert signed_in(shims, key) == {"west"}
        shims["east"].release()
        hanging.result(30.0)


def test_when_all_are_away_the_error_says_so_and_each_comes_back(tokens, shims, opened, tmp_path):
    copy_key(tokens, tmp_path)
    manager = opened()
    key = only_key(manager)
    for label, shim in shims.items():
        shim.remove(label)
    for attempt in (lambda: sign(key), manager.keys, manager.check):
        with pytest.raises(KeyManagerUnavailable, match=r'token "(east|west)"'):
            attempt()
    shims["west"].restore()
    wait_until(lambda: not troubles(manager)["west"] or not _fails(lambda: sign(key)))
    assert signed_in(shims, key) == {"west"}
    shims["east"].restore()
    wait_until(lambda: signed_in(shims, key, 1) == {"east"})
    assert troubles(manager) == {"east": "", "west": ""}


def test_one_that_comes_back_with_another_key_signs_nothing_until_it_has_the_right_one(tokens, shims, opened, tmp_path):
    copy_key(tokens, tmp_path)
    manager = opened()
    key = only_key(manager)
    shims["east"].remove("east")
    sign(key)
    empty(tokens[0], tmp_path)
    copy_key(tokens[:1], tmp_path)
    shims["east"].restore()
    wait_until(lambda: (signed_in(shims, key, 1), "holds another key" in troubles(manager)["east"])[1])
    assert signed_in(shims, key) == {"west"}
    shims["west"].remove("west")
    with pytest.raises(KeyManagerUnavailable, match='token "east" holds another key under "a" than the tokens beside'):
        sign(key)


def test_tokens_that_differ_from_the_start_sign_with_the_first_ones_key_only(tokens, shims, opened, tmp_path):
    copy_key(tokens, tmp_path, same=False)
    manager = opened()
    key = only_key(manager)
    assert signed_in(shims, key) == {"east"}
    assert 'token "west" holds another key under "a"' in troubles(manager)["west"]
    shims["east"].remove("east")
    with pytest.raises(KeyManagerUnavailable):
        sign(key)


def test_a_key_is_made_in_the_first_that_works_and_known_to_be_in_no_other(tokens, shims, opened):
    manager = opened()
    key = manager.generate(A, KeyType.EC_P256)
    shims["east"].delay("C_Sign", 0.01)
    assert signed_in(shims, key) == {"east"}
    assert manager.lacking() == {"west": frozenset({A})}
    shims["east"].remove("east")
    with pytest.raises(KeyManagerUnavailable, match='token "east"'):
        sign(key)
    assert shims["west"].count("C_Initialize") == 1
    other = manager.generate(B, KeyType.EC_P256)
    assert signed_in(shims, other) == {"west"}


def test_making_a_key_is_not_tried_in_the_next_token_after_it_may_have_been_made(tokens, shims, opened):
    manager = opened()
    shims["east"].fail("C_GenerateKeyPair", Rv.DEVICE_ERROR, late=True)
    with pytest.raises(KeyManagerUnavailable, match='token "east": cannot generate key "a"'):
        manager.generate(A, KeyType.EC_P256)
    assert shims["west"].count("C_GenerateKeyPair") == 0
    assert only_key(manager).id == A


def test_a_key_is_destroyed_in_all_or_it_is_said_that_it_was_not(tokens, shims, opened, tmp_path):
    copy_key(tokens, tmp_path)
    manager = opened()
    shims["west"].fail("C_DestroyObject", Rv.DEVICE_ERROR, ALWAYS)
    with pytest.raises(KeyManagerUnavailable, match='token "west": cannot destroy key "a"'):
        manager.retire(A)
    shims["west"].heal()
    assert len(manager.keys()) == 1
    manager.retire(A)
    assert manager.keys() == []


def test_one_token_that_is_away_at_the_start_is_waited_for(tokens, shims, opened, tmp_path):
    copy_key(tokens, tmp_path)
    shims["east"].fail("C_GetSlotList", Rv.DEVICE_ERROR, ALWAYS)
    manager = opened()
    key = only_key(manager)
    assert signed_in(shims, key) == {"west"}
    shims["east"].heal()
    manager.check()
    wait_until(lambda: signed_in(shims, key, 1) == {"east"})  # a look at it in the background makes it busy


def test_with_all_tokens_away_there_is_no_start(shims, opened):
    for shim in shims.values():
        shim.fail("C_GetSlotList", Rv.DEVICE_ERROR, ALWAYS)
    with pytest.raises(KeyManagerUnavailable, match='token "east": cannot be opened'):
        opened()


def test_tokens_of_one_module_and_one_pin_are_named_by_their_labels(tokens, own_token):
    pin = tokens[0].pin_file.read_bytes()
    settings = (
        f'module = "{own_token.library}"\ntokens = ["east", "pkcs11:token=west?pin-source=file:{tokens[1].pin_file}"]\n'
    )
    settings += f'pin_source = "{tokens[0].pin_file}"\nauthority_group = "example.org"'
    manager = Pkcs11KeyManager(Block.parse(settings).read(Pkcs11Config))
    try:
        assert [one.token for one in manager.status()] == ["east", "west"]
        made = manager.generate(A, KeyType.EC_P256)
        assert fingerprint(only_key(manager).public) == fingerprint(made.public)
    finally:
        manager.close()
    assert pin.decode().strip() not in repr(Block.parse(settings).read(Pkcs11Config))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": ("a", "a")}, "tokens: names a token twice"),
        ({"tokens": ("a",), "token": "b"}, "tokens: use it or token, serial and uri, not both"),
        ({"tokens": ("pkcs11:slot-id=1",)}, "tokens: attribute 'slot-id' cannot be used"),
        ({"tokens": ("pkcs11:token=a?pin-value=1234",)}, "tokens: pin-value is refused"),
        ({"tokens": ("",)}, "token must be configured"),
    ],
    ids=["twice", "both", "slot", "pin", "empty"],
)
def test_a_list_of_tokens_that_says_nothing_clear_is_refused(settings, message):
    with pytest.raises(InvalidConfig, match=message) as caught:
        Pkcs11Config(module=Path("/m.so"), authority_group="g", **settings)
    assert "1234" not in str(caught.value)


def empty(token: SoftHsmToken, tmp_path: Path) -> None:
    """Destroy what is in a token, by another library."""
    library = Path(shutil.copy(token.library, tmp_path / "emptier.so"))
    try:
        pin = token.pin_file.read_text().strip()
        with pkcs11.lib(str(library)).get_token(token_label=token.label).open(rw=True, user_pin=pin) as session:
            for one in list(session.get_objects()):
                one.destroy()
    finally:
        pkcs11.unload(str(library))


def _fails(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except KeyManagerUnavailable:
        return True
    return False
