"""The keys of the journal, held against what the key manager shows.

A journalled key that does not show is *unavailable*: the token may have blinked.  While one is missing, no
key is made and none destroyed, since the module then does not show all that it holds.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_ca.authority_key import AuthorityKey, Observer
from hsm_ca.journal import AuthorityRecord, State
from keymanagers.base import Key, KeyId, KeyManager
from spiffe_core.bundle import PublicKey
from spiffe_core.errors import AlreadyExists, KeyManagerUnavailable, KeyNotFound

MUST_EXIST: Final = frozenset({State.CREATED, State.PREPARED, State.ACTIVE})
"""States in which an authority cannot do without its key."""

log: Final = structlog.get_logger()


class Keyring:
    """Finds, makes and destroys the keys of journal records."""

    def __init__(self, keys: KeyManager, *, verify: bool, observers: Sequence[Observer]) -> None:
        self._keys = keys
        self._verify = verify
        self._observers = observers
        self._shown: Mapping[KeyId, Key] = {}

    def look(self) -> frozenset[KeyId]:
        """Ask the key manager which keys it shows.

        Raises:
            KeyManagerUnavailable: if it does not answer.
        """
        self._shown = {key.id: key for key in self._keys.keys()}  # noqa: SIM118  no mapping
        return frozenset(self._shown)

    def missing(self, records: Sequence[AuthorityRecord]) -> list[AuthorityRecord]:
        """The records whose key must exist and did not show at the last look."""
        return [record for record in records if record.state in MUST_EXIST and record.key_id not in self._shown]

    def make(self, record: AuthorityRecord, records: Sequence[AuthorityRecord]) -> Key:
        """Make the key of a RESERVED record, or find it if a server was killed after making it.

        Raises:
            AlreadyExists: if something is there under its id that is no usable key: half of one, whose making was
                interrupted.
            KeyManagerUnavailable: if the key manager does not answer or does not show all journalled keys.
        """
        self._insist_on_all(records)
        if record.key_id not in self._shown:
            try:
                made = self._keys.generate(record.key_id, record.key_type)
                self._shown = {**self._shown, made.id: made}
            except AlreadyExists:
                self.look()  # a server that led before may have made it a moment ago
                if record.key_id not in self._shown:
                    raise
        return self._shown[record.key_id]

    def destroy(self, record: AuthorityRecord, records: Sequence[AuthorityRecord]) -> None:
        """Destroy the key of a record, or what is left of it; it may be gone already.

        Raises:
            KeyManagerUnavailable: if the key manager does not answer or does not show all journalled keys.
        """
        self._insist_on_all(records)
        try:
            self._keys.retire(record.key_id)
        except KeyNotFound:
            if record.state is State.OLD:
                log.warning("Key of an expired authority was gone already", key_id=record.key_id)
        self._shown = {key_id: key for key_id, key in self._shown.items() if key_id != record.key_id}

    def key_of(self, record: AuthorityRecord) -> AuthorityKey:
        """The key of a record, compared with what the journal knows of it.

        Raises:
            KeyManagerUnavailable: if it does not show, or another key shows in its place.
        """
        if record.key_id not in self._shown:
            self.look()
        key = self._shown.get(record.key_id)
        if key is None:
            raise KeyManagerUnavailable(f'the key manager does not show key "{record.key_id}"')
        if encoded(key.public) != record.public_key:
            raise KeyManagerUnavailable(
                f'the key manager shows another key under "{record.key_id}" than the one in the authority journal'
            )
        return AuthorityKey(key, record.authority_id, verify=self._verify, observers=self._observers)

    def _insist_on_all(self, records: Sequence[AuthorityRecord]) -> None:
        self.look()
        for record in self.missing(records):
            raise KeyManagerUnavailable(f'the key manager does not show key "{record.key_id}"')


def encoded(key: PublicKey) -> bytes:
    """PKIX DER of a public key, as the journal holds it."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
