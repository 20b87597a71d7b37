"""Keys that somebody else puts into a token under our names, as loose as he likes, with plain PKCS #11."""

from typing import Final

from pkcs11 import Attribute, Mechanism

from keymanagers.base import KeyId, KeyType
from keymanagers.pkcs11 import module as modules
from keymanagers.pkcs11.cryptoki import MechanismCall
from keymanagers.pkcs11.objects import EC_PARAMS, cka_ids_of, label_of
from keymanagers.pkcs11.profiles import PROFILES
from tests.support.softhsm import SoftHsmToken

LOOSE: Final = {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
"""A key that gives its value to whoever asks."""
WRAPPABLE: Final = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True}
"""One that shows its value to nobody, and lets itself be wrapped."""
STRICT: Final = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
"""One that is as ours are, but for what may be changed in it."""
_SIGNS_ONLY: Final = {
    Attribute.SIGN: True,
    Attribute.SIGN_RECOVER: False,
    Attribute.DECRYPT: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}


def plant(token: SoftHsmToken, key_id: KeyId, changed: dict[Attribute, bool], *, public: bool = True) -> None:
    """Make a P-256 key under the names of a key of ours, with a public half that stays or not."""
    group = "example.org"
    label = label_of(group, key_id)
    (cka_id,) = cka_ids_of(label, PROFILES["softhsm2"])
    names = {Attribute.TOKEN: True, Attribute.LABEL: label, Attribute.ID: cka_id}
    module = modules.acquire(token.library)
    try:
        cryptoki = module.cryptoki
        (slot,) = (one for one in cryptoki.slots() if cryptoki.token_info(one).label == token.label)
        session = cryptoki.open_session(slot)
        if not cryptoki.session_info(session)[1]:
            cryptoki.login(session, token.pin_file.read_bytes().strip())
        made, _ = cryptoki.generate_key_pair(
            session,
            MechanismCall(Mechanism.EC_KEY_PAIR_GEN),
            {**names, Attribute.EC_PARAMS: EC_PARAMS[KeyType.EC_P256], Attribute.VERIFY: True},
            {**names, Attribute.PRIVATE: True, **_SIGNS_ONLY, **changed},
        )
        if not public:
            cryptoki.destroy(session, made)
        cryptoki.close_session(session)
    finally:
        modules.release(module, 10.0)
