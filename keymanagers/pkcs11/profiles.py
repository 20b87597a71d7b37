"""What is particular to the tokens of one vendor: data, detected by what library and token say of themselves.

A profile says only what cannot be found out by asking.  How a point of an EC key is written is told by its length
(``keymanagers.pkcs11.objects``), sessions are always read-write, since some modules know no other, and what mechanisms
and key types there are the token answers itself, unless it makes keys that cannot be used.  A profile may be chosen by
configuration, where a vendor calls itself by another name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pkcs11 import Attribute

from keymanagers.base import KeyType
from keymanagers.pkcs11.cryptoki import TokenInfo

_ANYTHING: Final = ".*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One vendor's tokens."""

    name: str
    library: str = _ANYTHING
    """Matches the manufacturer in CK_INFO, whole and in any case."""
    manufacturer: str = _ANYTHING
    """Matches the manufacturer in CK_TOKEN_INFO."""
    model: str = _ANYTHING
    """Matches the model in CK_TOKEN_INFO."""
    id_bytes: int = 20
    """Length of CKA_ID.  The default is as long as those that other tools derive from public keys."""
    label_bytes: int = 1024
    """Longest CKA_LABEL."""
    most_sessions: int | None = None
    """Sessions that there are, where the token does not tell."""
    key_types: frozenset[KeyType] = frozenset(KeyType)
    """The types of which keys that only sign can be made and used."""
    public_left_out: frozenset[Attribute] = frozenset()
    """What must not be said of a public key that is to be made."""
    private_left_out: frozenset[Attribute] = frozenset()
    """What must not be said of a private key that is to be made, though it may be so."""
    unsaid: frozenset[Attribute] = frozenset()
    """What the token does not say of a private key, though it is asked for custody's sake."""
    why: str = ""
    """What is particular, and how it is known."""

    def fits(self, library: str, token: TokenInfo) -> bool:
        """Whether a token of that library is one of these."""
        return all(
            re.fullmatch(pattern, text, re.IGNORECASE)
            for pattern, text in (
                (self.library, library),
                (self.manufacturer, token.manufacturer),
                (self.model, token.model),
            )
        )


GENERIC: Final = Profile(name="generic", why="What PKCS #11 says, no more.")
_COPYING: Final = frozenset({Attribute.COPYABLE, Attribute.MODIFIABLE})

PROFILES: Final[Mapping[str, Profile]] = {
    one.name: one
    for one in (
        Profile(name="softhsm2", library="SoftHSM", why="Nothing: it is what this project is tested with most."),
        Profile(
            name="opencryptoki",
            library="IBM",
            manufacturer="IBM.*",
            private_left_out=frozenset({Attribute.COPYABLE}),
            why="Its soft token knows no CKA_COPYABLE (tried with 3.8). EC keys are made by some of its tokens only.",
        ),
        Profile(
            name="tpm2-pkcs11",
            library=r"tpm2-software\.github\.io",
            public_left_out=frozenset({Attribute.VERIFY, Attribute.ENCRYPT, Attribute.WRAP}),
            key_types=frozenset({KeyType.EC_P256, KeyType.EC_P384}),
            why="It says itself what a key is for and takes no other word, and its RSA keys make no signature unless "
            "they may decrypt as well (tried with 1.9). A TPM makes a few signatures a second.",
        ),
        Profile(
            name="yubihsm2",
            manufacturer="Yubico.*",
            model="YubiHSM.*",
            id_bytes=2,
            label_bytes=40,
            most_sessions=16,
            private_left_out=_COPYING,
            why="A CKA_ID of 2 bytes, of which 0000 and ffff are taken (teleport 25017 and 36838), labels of 40 bytes, "
            "16 sessions of which the device closes idle ones (offline-keystore 44).",
        ),
        Profile(
            name="cloudhsm",
            library=".*(CloudHSM|Cavium|Marvell).*",
            private_left_out=_COPYING,
            unsaid=frozenset({Attribute.SENSITIVE}),
            why="Sessions are read-write only, and CKA_SENSITIVE was not handled by older libraries (AWS, known issues "
            "of the PKCS #11 library).",
        ),
        Profile(
            name="luna",
            manufacturer="(SafeNet|Thales).*",
            private_left_out=frozenset({Attribute.COPYABLE}),
            why="About 30 operations at once are its best (Thales, HA and performance): set max_sessions.",
        ),
        Profile(
            name="nshield",
            manufacturer="(nCipher|Entrust).*",
            private_left_out=frozenset({Attribute.COPYABLE}),
            why="As many operations at once as its recommended queue says (nShield, enquiry): set max_sessions.",
        ),
        GENERIC,
    )
}
"""By name; the first that fits is taken."""


def profile_of(library: str, token: TokenInfo) -> Profile:
    """The profile of a token, by what its library and it say of themselves."""
    return next(one for one in PROFILES.values() if one.fits(library, token))
