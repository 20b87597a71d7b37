"""Choosing a token, logging in to it, and sharing it: what goes wrong is said at the start, naming the token."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import TokenFlag

from keymanagers.base import Key, KeyId, KeyType
from keymanagers.pkcs11 import module as modules
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from keymanagers.pkcs11.returns import Rv
from keymanagers.pkcs11.uri import Pkcs11Uri
from keymanagers.registry import open_key_manager
from spiffe_core.errors import InvalidConfig, KeyManagerUnavailable, SpiffeError
from spiffe_core.runtime.block import Block
from spiffe_core.runtime.files import private_folder
from tests.support.key_backends import KeyProcess
from tests.support.shim import Shim, shim_environment
from tests.support.softhsm import SoftHsmToken, init_token

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm

A = KeyId("a")
WRONG_PIN = "0000-not-the-pin"

Open = Callable[..., Pkcs11KeyManager]


@pytest.fixture
def opened(own_token) -> Iterator[Open]:
    """Opens key managers on the token and closes them."""
    managers = []

    def open_manager(**changed) -> Pkcs11KeyManager:
        managers.append(Pkcs11KeyManager(own_token.config(**changed)))
        return managers[-1]

    yield open_manager
    for manager in managers:
        manager.close()


@pytest.fixture
def wrong_pin(tmp_path) -> str:
    path = tmp_path / "wrong.pin"
    path.write_text(WRONG_PIN)
    path.chmod(0o400)
    return str(path)


def sign(key: Key) -> bytes:
    assert isinstance(key.private, ec.EllipticCurvePrivateKey)
    return key.private.sign(b"data", ec.ECDSA(hashes.SHA256()))


def twin(token: SoftHsmToken, tmp_path: Path) -> SoftHsmToken:
    """Another token of the same label, put beside it before the library is initialised."""
    other = init_token(tmp_path / "other", token.label, token.library)
    shutil.move(other.folder, token.folder.with_name(other.folder.name))
    return other


def serial_of(token: SoftHsmToken) -> str:
    module = modules.acquire(token.library)
    try:
        infos = [module.cryptoki.token_info(slot) for slot in module.cryptoki.slots()]
        return next(info.serial for info in infos if token.folder.name.replace("-", "").endswith(info.serial))
    finally:
        modules.release(module, 10.0)


# -- which token


def test_a_label_that_no_token_has_names_those_there_are(opened):
    with pytest.raises(KeyManagerUnavailable, match=r'"nowhere".* not in module .*own-softhsm\.so, which shows "own"'):
        opened(token="nowhere")


def test_two_tokens_of_one_label_are_told_apart_by_serial_number_only(own_token, opened, tmp_path):
    twin(own_token, tmp_path)
    with pytest.raises(InvalidConfig, match=r'token "own" is ambiguous: .* set serial'):
        opened()
    serial = serial_of(own_token)
    opened(serial=serial).generate(A, KeyType.EC_P256)
    (key,) = opened(token="", uri=Pkcs11Uri(token="own", serial=serial), module=own_token.library).keys()
    assert key.id == A


def test_a_serial_number_must_match_beside_the_label(opened):
    with pytest.raises(KeyManagerUnavailable, match="serial number 0123456789abcdef is not in module"):
        opened(serial="0123456789abcdef")


def test_a_token_that_is_not_initialised_is_refused(opened, own_token):
    any_of_softhsm = {"token": "", "uri": Pkcs11Uri(model="SoftHSM v2")}
    opened(**any_of_softhsm).close()
    shutil.rmtree(own_token.folder)
    with pytest.raises(InvalidConfig, match='token "SoftHSM v2" is not initialised'):
        opened(**any_of_softhsm)


def test_a_uri_says_all_that_there_is_to_say(own_token, opened):
    uri = Pkcs11Uri(token="own", module_path=str(own_token.library), pin_source=f"file:{own_token.pin_file}")
    opened(module=None, token="", pin_source="", uri=Pkcs11Uri.parse(str(uri))).generate(A, KeyType.EC_P256)
    (key,) = opened().keys()
    assert key.id == A


@pytest.mark.parametrize("what", ["missing", "text", "other library"])
def test_a_module_that_is_none_is_refused(opened, tmp_path, what):
    path = tmp_path / "module.so"
    if what == "text":
        path.write_text("no library")
    elif what == "other library":
        path = Path(modules.__file__)
        path = next(Path("/usr/lib").glob("*/libz.so*"), path)
    with pytest.raises(InvalidConfig, match=r"module: .*cannot be loaded as a PKCS #11 module"):
        opened(module=path)


def test_what_is_wrong_beyond_the_settings_is_told_with_their_path(own_token, wrong_pin):
    data = own_token.plugin_data().replace(str(own_token.pin_file), wrong_pin)
    block = Block.parse(data, "plugins.KeyManager.pkcs11.plugin_data")
    with pytest.raises(InvalidConfig, match=r'^plugins\.KeyManager\.pkcs11\.plugin_data: token "own"'):
        open_key_manager("pkcs11", block, authority_group="example.org")


def test_a_server_puts_its_trust_domain_where_no_group_is_named(own_token):
    named = Block.parse(own_token.plugin_data("named.org"))
    silent = Block.parse(own_token.plugin_data().replace('authority_group = "example.org"', ""))
    for data, group in ((named, "named.org"), (silent, "domain.test")):
        manager = open_key_manager("pkcs11", data, authority_group="domain.test")
        assert isinstance(manager, Pkcs11KeyManager)
        assert manager.authority_group == group
        manager.close()


# -- the PIN


def test_a_wrong_pin_is_tried_once_in_the_life_of_a_process(shim: Shim, opened, wrong_pin):
    with pytest.raises(InvalidConfig, match='token "own": cannot be opened: C_Login returned CKR_PIN_INCORRECT'):
        opened(module=shim.path, pin_source=wrong_pin)
    for _ in range(3):
        with pytest.raises(InvalidConfig, match='token "own" has refused this PIN before'):
            opened(module=shim.path, pin_source=wrong_pin)
    assert shim.logins == 1
    opened(module=shim.path)
    assert shim.logins == 2


def test_another_pin_in_the_same_file_is_tried(shim: Shim, own_token, opened, wrong_pin):
    with pytest.raises(InvalidConfig):
        opened(module=shim.path, pin_source=wrong_pin)
    Path(wrong_pin).chmod(0o600)
    Path(wrong_pin).write_bytes(own_token.pin_file.read_bytes())
    opened(module=shim.path, pin_source=wrong_pin)


def test_a_pin_that_is_wrong_by_the_time_of_a_new_login_is_not_tried_twice_either(
    shim: Shim, opened, own_token, tmp_path
):
    pin_file = tmp_path / "pin"
    pin_file.write_bytes(own_token.pin_file.read_bytes())
    pin_file.chmod(0o600)
    manager = opened(module=shim.path, pin_source=str(pin_file))
    key = manager.generate(A, KeyType.EC_P256)
    pin_file.write_text(WRONG_PIN + "2")
    for _ in range(3):
        shim.fail("C_SignInit", Rv.DEVICE_REMOVED)
        with pytest.raises(KeyManagerUnavailable, match="PIN"):
            sign(key)
    assert shim.logins == 2
    pin_file.write_bytes(own_token.pin_file.read_bytes())
    assert sign(key)


def test_no_pin_is_in_an_error_or_a_repr(opened, own_token, wrong_pin):
    texts = []
    for settings in ({"pin_source": wrong_pin}, {"pin_source": wrong_pin, "token": "nowhere"}):
        with pytest.raises(SpiffeError) as caught:
            opened(**settings)
        error: BaseException | None = caught.value
        while error is not None:
            texts.append(f"{error} {error!r}")
            error = error.__cause__ or error.__context__
    manager = opened()
    texts += [
        repr(own_token.config()),
        repr(manager),
        repr(vars(manager)),
        *map(repr, map(vars, manager._tokens._devices)),
    ]
    pins = (WRONG_PIN, own_token.pin_file.read_text().strip())
    assert not [text for text in texts for pin in pins if pin in text]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (TokenFlag.USER_PIN_LOCKED, 'token "own" has locked its user PIN'),
        (TokenFlag.USER_PIN_FINAL_TRY, 'token "own" would lock its user PIN after one more wrong try'),
        (TokenFlag.ERROR_STATE, 'token "own" failed its self-test'),
    ],
    ids=lambda one: getattr(one, "name", None),
)
def test_a_token_that_a_login_would_endanger_is_not_logged_in_to(shim: Shim, opened, flag, message):
    shim.add_token_flags(flag)
    with pytest.raises(KeyManagerUnavailable, match=message):
        opened(module=shim.path)
    assert shim.logins == 0
    shim.heal()
    opened(module=shim.path)


def test_a_token_that_asks_for_a_pin_must_be_given_one(opened):
    with pytest.raises(InvalidConfig, match="pin_source must be configured"):
        opened(pin_source="")


def test_a_pin_file_that_every_user_may_read_is_refused(opened, own_token):
    own_token.pin_file.chmod(0o444)
    with pytest.raises(InvalidConfig, match=r"pin_source: every user may read or write .*own\.pin"):
        opened()


def test_a_pin_file_that_is_not_there_is_a_reason_to_try_again(opened, tmp_path):
    with pytest.raises(KeyManagerUnavailable, match=r"pin_source: cannot read .*/none"):
        opened(pin_source=str(tmp_path / "none"))


# -- one module, several users


def test_key_managers_of_one_process_share_the_module_and_the_login(shim: Shim, opened):
    first = opened(module=shim.path)
    second = opened(module=shim.path.parent / "." / shim.path.name, authority_group="other.org")
    key = second.generate(A, KeyType.EC_P256)
    first.close()
    sign(key)
    assert (shim.count("C_Initialize"), shim.logins) == (1, 1)


def test_the_last_user_ends_the_module_and_the_next_begins_it_anew(shim: Shim, opened, own_token):
    opened(module=shim.path).close()
    init_token(own_token.softhsm2_conf.parent, "later", own_token.library)
    later = own_token.softhsm2_conf.parent / "later.pin"
    opened(module=shim.path, token="later", pin_source=str(later))
    assert shim.count("C_Initialize") == 2


def test_a_module_that_somebody_else_initialised_is_not_taken_over(own_token, opened):
    import pkcs11  # noqa: PLC0415  for this test only

    pkcs11.lib(str(own_token.library))
    try:
        with pytest.raises(KeyManagerUnavailable, match="was initialised by another part of this process"):
            opened()
    finally:
        pkcs11.unload(str(own_token.library))
    opened()


def test_a_forked_child_is_refused_and_its_parent_goes_on(opened):
    manager = opened()
    key = manager.generate(A, KeyType.EC_P256)
    sign(key)
    child = os.fork()
    if not child:
        outcomes = 0
        for bit, attempt in enumerate((lambda: sign(key), manager.keys, opened)):
            try:
                attempt()
            except KeyManagerUnavailable as exc:
                outcomes |= ("forked" in str(exc)) << bit
        os._exit(outcomes)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0b111
    assert sign(key)


def test_a_process_that_ends_without_closing_ends_well(pkcs11_backend):
    process = pkcs11_backend.other_process()
    process.ask("generate", "a", "ec-p256")
    process.tell("exit", "a")
    assert process.answer() is None
    assert process.end() == 0


def test_the_library_is_finalised_when_a_process_ends_without_closing(own_token, compiled_shim):
    data = own_token.plugin_data().replace(str(own_token.library), str(compiled_shim))
    with private_folder() as folder, shim_environment(folder, own_token.library):
        process = KeyProcess("pkcs11", data)
        assert process.answer() == "open"
        process.ask("generate", "a", "ec-p256")
        process.tell("exit", "a")
        assert process.answer() is None
        assert process.end() == 0
        assert (folder / "finalized").read_text() == f"{process.pid}\n"
