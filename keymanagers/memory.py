"""KeyManager ``memory``: keys that are gone when the process ends."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from keymanagers.base import Key, KeyId, KeyType, check_key_id
from keymanagers.software import SoftwareKey
from spiffe_core.errors import AlreadyExists, KeyManagerUnavailable, KeyNotFound

_CLOSED: Final = "its key manager is closed"


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """``plugin_data`` of KeyManager "memory": it has no settings."""


class MemoryKeyManager:
    """Keys in this process's memory.  Thread-safe."""

    def __init__(self, _config: MemoryConfig = MemoryConfig()) -> None:
        self._keys: dict[KeyId, SoftwareKey] = {}
        self._lock = threading.Lock()
        self._closed = False

    def generate(self, key_id: KeyId, key_type: KeyType) -> Key:
        """Make a key."""
        made = SoftwareKey.generate(check_key_id(key_id), key_type)  # takes its time: outside the lock
        with self._lock:
            self._check_open()
            if key_id in self._keys:
                raise AlreadyExists(f'key "{key_id}" exists already; it was not overwritten')
            self._keys[key_id] = made
        return made.key

    def keys(self) -> Sequence[Key]:
        """The keys, by id."""
        with self._lock:
            self._check_open()
            return [self._keys[key_id].key for key_id in sorted(self._keys)]

    def retire(self, key_id: KeyId) -> None:
        """Forget the key."""
        with self._lock:
            self._check_open()
            key = self._keys.pop(key_id, None)
        if key is None:
            raise KeyNotFound(f'there is no key "{key_id}"')
        key.end("it was retired")

    def close(self) -> None:
        """Forget all keys."""
        with self._lock:
            self._closed = True
            for key in self._keys.values():
                key.end(_CLOSED)
            self._keys.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise KeyManagerUnavailable(_CLOSED)
