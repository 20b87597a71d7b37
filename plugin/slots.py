"""SPIRE's keys in one of our key managers: a key that is generated replaces the one of its id.

Our key managers never use an id twice; SPIRE has two ids for each authority and uses them for ever.  So a key of
SPIRE's is a series of ours: ``x509-CA-A..1``, ``x509-CA-A..2``, of which the last one counts.  The series is read
from the ids that the key manager shows: the token itself is the memory, and this process may be killed at any moment.

A key is destroyed only by the call that supersedes it: once the new key is durable *and* the token shows it as the
last of its series, the earlier ones of that series go.  They cannot be asked for any more, since requests name
SPIRE's id.  What could not be destroyed is left for the next such call.  Keys of other ids, and keys that are in no
series, are never touched.
"""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import structlog

from keymanagers.base import Key, KeyId, KeyManager, KeyType, check_key_id
from spiffe_core.errors import FailedPrecondition, InvalidInput, SpiffeError

_MARK: Final = ".."
_SERIES: Final = re.compile(r"((?:[A-Za-z0-9_-]|\.[0-9a-f]{2})+)\.\.([1-9][0-9]{0,9})")
_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPED: Final = re.compile(r"\.([0-9a-f]{2})")

log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """A key's place: SPIRE's id, and the how-manieth key of that id it is."""

    spire_id: str
    number: int

    @property
    def key_id(self) -> KeyId:
        """Its id in our key manager.

        Raises:
            InvalidInput: if SPIRE's id is too long for one.
        """
        escaped = _UNSAFE.sub(lambda one: b".%02x" % one[0][0], self.spire_id.encode()).decode()
        return check_key_id(f"{escaped}{_MARK}{self.number}")

    @classmethod
    def parse(cls, key_id: KeyId) -> Self | None:
        """The place that one of our ids says; None if the key is in no series."""
        match = _SERIES.fullmatch(key_id)
        if match is None:
            return None
        raw = _ESCAPED.sub(lambda one: chr(int(one[1], 16)), match[1]).encode("latin-1")
        try:
            place = cls(raw.decode(), int(match[2]))
        except UnicodeDecodeError:
            return None
        return place if place.key_id == key_id else None


class KeySlots:
    """SPIRE's view of a key manager.  Thread-safe; every method may block on the device."""

    def __init__(self, keys: KeyManager) -> None:
        self._keys = keys
        self._generating = threading.Lock()
        self._current: Mapping[str, Key] = {}

    def all(self) -> Mapping[str, Key]:
        """The keys that the device shows now, by SPIRE's ids."""
        self._current = {spire_id: series[max(series)] for spire_id, series in self._series().items()}
        return self._current

    def find(self, spire_id: str) -> Key | None:
        """The key of that id, as it was last seen; None if the device shows none either."""
        return self._current.get(spire_id) or self.all().get(spire_id)

    def generate(self, spire_id: str, key_type: KeyType) -> Key:
        """Make a key that replaces the one of its id, if there is one.

        Raises:
            InvalidInput: if the id is empty or too long.
            FailedPrecondition: if another process makes keys of that id in the same place.
        """
        if not spire_id:
            raise InvalidInput("key id is required")
        with self._generating:
            before = self._series().get(spire_id, {})
            number = max(before, default=0) + 1
            made = self._keys.generate(SeriesKey(spire_id, number).key_id, key_type)
            after = self._series().get(spire_id, {})
            if max(after, default=0) != number or after[number].public != made.public:
                raise FailedPrecondition(
                    f'key "{spire_id}" is not the last of its series after it was made: another server or agent '
                    "makes keys under the same authority_group; give each a group of its own"
                )
            self._current = {**self._current, spire_id: made}
            for earlier in sorted(set(after) - {number}):
                self._destroy(after[earlier].id)
        return made

    def _destroy(self, key_id: KeyId) -> None:
        try:
            self._keys.retire(key_id)
            log.info("Superseded key destroyed", key_id=key_id)
        except SpiffeError as exc:
            log.warning("Superseded key not destroyed, left for the next time", key_id=key_id, error=str(exc))

    def _series(self) -> dict[str, dict[int, Key]]:
        """What the key manager shows, by SPIRE's id and number."""
        found: dict[str, dict[int, Key]] = {}
        for key in self._keys.keys():  # noqa: SIM118  a key manager, not a dict
            place = SeriesKey.parse(key.id)
            if place is not None:
                found.setdefault(place.spire_id, {})[place.number] = key
        return found
