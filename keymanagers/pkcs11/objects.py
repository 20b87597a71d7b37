"""Our keys as objects in a token: how they are named, found and read.

A key is a pair of token objects with one label, ``<group>/<key id>``, and one CKA_ID, which is derived from the
label.  The label says whose key it is; the CKA_ID is what is searched for, as long as the token's profile says.  Both
halves are needed, since the private one says nothing of an EC key's point.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pkcs11 import Attribute, ObjectClass

from keymanagers.base import KeyId, KeyType
from keymanagers.pkcs11.faults import KeyAbsent, KeyChanged
from keymanagers.pkcs11.profiles import Profile
from keymanagers.pkcs11.sessions import Session
from spiffe_core.bundle import PublicKey

EC_PARAMS: Final = {
    KeyType.EC_P256: bytes.fromhex("06082a8648ce3d030107"),
    KeyType.EC_P384: bytes.fromhex("06052b81040022"),
}
"""DER of the curves' object identifiers (RFC 5480 §2.1.1.1)."""
_CURVES: Final = {EC_PARAMS[kind]: kind.curve for kind in EC_PARAMS}
_OCTET_STRING: Final = 0x04
_LONG: Final = 8
"""Bytes from which on two ids are never the same by chance."""
_SHORT_IDS: Final = 16
"""How many short ids a label may have."""

log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key that was seen in a token."""

    key_id: KeyId
    cka_id: bytes
    public: PublicKey


def label_of(group: str, key_id: KeyId) -> str:
    """The label of a key's objects; neither part holds a slash."""
    return f"{group}/{key_id}"


def cka_ids_of(label: str, profile: Profile) -> tuple[bytes, ...]:
    """What the CKA_ID of a key's objects may be, the first that no other key has in the token.

    One is enough where an id is as long as others are; a short one may be taken.
    """
    size = profile.id_bytes
    if size >= _LONG:
        return (sha256(label.encode()).digest()[:size],)
    digests = (sha256(f"{number}/{label}".encode()).digest()[:size] for number in range(_SHORT_IDS))
    return tuple(one for one in digests if one not in {bytes(size), b"\xff" * size})


def handles_of(session: Session, label: str) -> list[int]:
    """Every object of a key: its halves, or what is left of them."""
    long = session.profile.id_bytes >= _LONG
    return [
        handle
        for cka_id in cka_ids_of(label, session.profile)
        for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
        for handle in find(session, kind, cka_id)
        if long or _label_of(session, handle) == label
    ]


def free_id(session: Session, label: str) -> bytes | None:
    """A CKA_ID for a new key of a label that is not in the token; None if other keys have them all."""
    ids = cka_ids_of(label, session.profile)
    if len(ids) == 1:
        return ids[0]
    kinds = (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
    return next((one for one in ids if not any(find(session, kind, one) for kind in kinds)), None)


def find(session: Session, kind: ObjectClass, cka_id: bytes) -> list[int]:
    """The token objects of a class with a CKA_ID."""
    return session.cryptoki.find(session.handle, {Attribute.CLASS: kind, Attribute.TOKEN: True, Attribute.ID: cka_id})


def stored_keys(session: Session, group: str) -> list[StoredKey]:
    """The keys of a group, by id.

    One without its public half is left out, and so are two of one id, which only servers that ignore each
    other can make: nobody can tell which of them is meant.
    """
    session.check_sight()
    publics: dict[tuple[str, bytes], list[PublicKey | None]] = {}
    for names, handle in _labelled(session, ObjectClass.PUBLIC_KEY, group):
        publics.setdefault(names, []).append(read_public(session, handle))
    found = []
    for label, cka_id in sorted({names for names, _ in _labelled(session, ObjectClass.PRIVATE_KEY, group)}):
        halves = publics.get((label, cka_id), [])
        if len(halves) == 1 and halves[0] is not None:
            found.append(StoredKey(KeyId(label.partition("/")[2]), cka_id, halves[0]))
        else:
            log.warning("Key of the token left out", label=label, public_halves=len(halves))
    session.check_sight()  # else one that was logged out meanwhile would seem to have lost keys
    return found


def private_handles(session: Session, key: StoredKey) -> list[int]:
    """The handles that may be the key's: one, unless two keys were made under one id.

    Raises:
        KeyAbsent: if the token does not show the key.
        KeyChanged: if it shows another public half.
        CryptokiError: CKR_USER_NOT_LOGGED_IN among others.
    """
    found, publics = _halves(session, key)
    if not found or not publics:
        session.check_sight()
        found, publics = _halves(session, key)  # another thread may have logged in between
        if not found or not publics:
            raise KeyAbsent
    if key.public not in publics:
        raise KeyChanged("the public half that the token shows")
    return found


def _halves(session: Session, key: StoredKey) -> tuple[list[int], list[PublicKey | None]]:
    """The private handles of a key's CKA_ID, and the public keys."""
    publics = [read_public(session, handle) for handle in find(session, ObjectClass.PUBLIC_KEY, key.cka_id)]
    return find(session, ObjectClass.PRIVATE_KEY, key.cka_id), publics


def read_public(session: Session, handle: int) -> PublicKey | None:
    """The public key of an object; None if it is none that we could have made."""
    read = session.cryptoki.attributes
    curve_and_point = read(session.handle, handle, (Attribute.EC_PARAMS, Attribute.EC_POINT))
    if len(curve_and_point) == 2:  # noqa: PLR2004  both
        return ec_public_key(curve_and_point[Attribute.EC_PARAMS], curve_and_point[Attribute.EC_POINT])
    numbers = read(session.handle, handle, (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT))
    if len(numbers) == 2:  # noqa: PLR2004  both
        return rsa_public_key(numbers[Attribute.MODULUS], numbers[Attribute.PUBLIC_EXPONENT])
    return None


def ec_public_key(parameters: bytes, point: bytes) -> ec.EllipticCurvePublicKey | None:
    """The key of a CKA_EC_POINT, which is a DER OCTET STRING by the book and the bare point in some modules.

    Both begin with 0x04, so the length decides.
    """
    curve = _CURVES.get(parameters)
    if curve is None:
        return None
    size = 1 + 2 * ((curve.key_size + 7) // 8)
    if len(point) == size + 2 and point[0] == _OCTET_STRING and point[1] == size:
        point = point[2:]
    if len(point) != size:
        return None
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    except ValueError:  # it is not on the curve
        return None


def rsa_public_key(modulus: bytes, exponent: bytes) -> rsa.RSAPublicKey | None:
    """The key of a CKA_MODULUS and a CKA_PUBLIC_EXPONENT."""
    try:
        return rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus)).public_key()
    except ValueError:
        return None


def _labelled(session: Session, kind: ObjectClass, group: str) -> list[tuple[tuple[str, bytes], int]]:
    """Label, CKA_ID and handle of the objects of a class that are the group's, and are named as we name them."""
    found = []
    for handle in session.cryptoki.find(session.handle, {Attribute.CLASS: kind, Attribute.TOKEN: True}):
        names = session.cryptoki.attributes(session.handle, handle, (Attribute.LABEL, Attribute.ID))
        label, cka_id = names.get(Attribute.LABEL, b"").decode(errors="replace"), names.get(Attribute.ID, b"")
        if label.startswith(f"{group}/") and cka_id in cka_ids_of(label, session.profile):
            found.append(((label, cka_id), handle))
    return found


def _label_of(session: Session, handle: int) -> str:
    names = session.cryptoki.attributes(session.handle, handle, (Attribute.LABEL,))
    return names.get(Attribute.LABEL, b"").decode(errors="replace")
