"""A key looked at in each token that should hold it: what the token says of it, and what it does when one is after it.

All of it happens in a session that nothing was done in before.  Every private key under the key's CKA_ID is looked at:
a second one, that somebody made of the first, would be a way out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from keymanagers.base import Attempt, Examination, KeyId, key_type_of
from keymanagers.pkcs11.device import TokenStatus
from keymanagers.pkcs11.negative import attempts
from keymanagers.pkcs11.objects import private_handles, stored_keys
from keymanagers.pkcs11.readback import read_back, wanting
from keymanagers.pkcs11.sessions import Session
from keymanagers.pkcs11.tokens import Tokens
from spiffe_core.errors import KeyNotFound, SpiffeError


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen of one private key."""

    attributes: Mapping[str, bool | str]
    attempts: tuple[Attempt, ...]


def examine(tokens: Tokens, group: str, key_id: KeyId, *, attempt: bool) -> list[Examination]:
    """What each token says of a key, and with ``attempt`` the negative test; a token that fails says why.

    Raises:
        KeyNotFound: if every token answers and none has the key.
    """

    def look(session: Session) -> list[_Seen]:
        for key in stored_keys(session, group):
            if key.key_id == key_id:
                kind = key_type_of(key.public)
                return [
                    _Seen(read_back(session, handle), attempts(session, handle, kind) if attempt else ())
                    for handle in private_handles(session, key)
                ]
        return []

    found = tokens.read_each(f'examine key "{key_id}"', look)
    if all(seen == [] for _, seen in found):
        raise KeyNotFound(f'there is no key "{key_id}" of group "{group}" in token "{tokens.name}"')
    return [one for status, seen in found for one in _examinations(status, seen)]


def _examinations(status: TokenStatus, seen: list[_Seen] | SpiffeError) -> Iterator[Examination]:
    if isinstance(seen, SpiffeError):
        yield Examination(device=status.token, serial=status.serial, wanting=(str(seen),))
    elif not seen:
        why = "it does not hold the key: its vendor's means must copy it from the token in which it was made"
        yield Examination(device=status.token, serial=status.serial, wanting=(why,))
    else:
        more = () if len(seen) == 1 else (f"it holds {len(seen)} private keys under the CKA_ID of this one",)
        for one in seen:
            yield Examination(
                device=status.token,
                serial=status.serial,
                attributes=one.attributes,
                attempts=one.attempts,
                wanting=(*more, *wanting(one.attributes)),
            )
