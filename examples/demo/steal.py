"""Tries to get a private key out of a token, as a thief with the PIN would.  Succeeds if every way is barred.

Usage: steal.py MODULE TOKEN PIN_FILE KEY_ID

It shares no code with Steeple: it speaks PKCS#11 through python-pkcs11 alone.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

NAMELESS: Final = {"Unmapped error code 0x1b": "ActionProhibited"}
"""Return values of PKCS#11 2.40 for which python-pkcs11 has no exception."""


def ways(session: "pkcs11.Session", key: Any) -> Mapping[str, Callable[[], Any]]:  # noqa: ANN401  a private key
    """What may be tried, by name."""

    def wrap() -> bytes:
        wrapping: Any = session.generate_key(KeyType.AES, 256, store=False, template={Attribute.WRAP: True})
        return bytes(wrapping.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP_PAD))

    def change(attribute: Attribute, *, to: bool) -> None:
        key[attribute] = to

    secret = Attribute.PRIVATE_EXPONENT if key.key_type == KeyType.RSA else Attribute.VALUE
    return {
        f"C_GetAttributeValue(CKA_{secret.name})": lambda: key[secret],
        "C_WrapKey, with a new AES key": wrap,
        "C_SetAttributeValue(CKA_EXTRACTABLE = true)": lambda: change(Attribute.EXTRACTABLE, to=True),
        "C_SetAttributeValue(CKA_SENSITIVE = false)": lambda: change(Attribute.SENSITIVE, to=False),
        "C_CopyObject(CKA_EXTRACTABLE = true)": lambda: key.copy({Attribute.EXTRACTABLE: True, Attribute.TOKEN: False}),
    }


def main(module: str, token: str, pin_file: str, key_id: str) -> int:
    """Try each way; the exit code is 1 if one leads out."""
    library = pkcs11.lib(module)
    pin = Path(pin_file).read_text().strip()
    open_ways = 0
    with library.get_token(token_label=token).open(rw=True, user_pin=pin) as session:
        (key,) = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: bytes.fromhex(key_id)})
        for name, attempt in ways(session, key).items():
            try:
                attempt()
            except pkcs11.PKCS11Error as exc:
                print(f"{name:<46} refused: {NAMELESS.get(str(exc), type(exc).__name__)}")
            else:
                print(f"{name:<46} IT WORKED")
                open_ways += 1
    return 1 if open_ways else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
