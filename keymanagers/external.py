"""A key manager of SPIRE's kind, outside this process, as one of ours.

SPIRE's interface replaces a key when another is made under its id, and destroys none; ours never uses an id twice,
and does destroy.  So keys of ours live in *places*, ids of that key manager that are used again; a file says which key
is in which place.  A key is retired by making another one in its place, which nobody uses, and the place is free then.

The file holds no secret, but without it the keys cannot be told apart: it belongs into every backup.  It is changed
under a lock and replaced in one step, so several processes may share it.  What it says of a key is believed only if the
place shows that very key: else the key is not shown, and signs nothing.  A place that shows a key of which the file
does not know is never used: an old file, from a backup, must not cost a key.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, Protocol

import structlog

from keymanagers.base import Key, KeyId, KeyType, check_key_id, fingerprint, key_type_of
from keymanagers.external_keys import PlaceSigner, external_key
from spiffe_core.bundle import PublicKey
from spiffe_core.errors import AlreadyExists, InvalidConfig, InvalidInput, KeyManagerUnavailable, KeyNotFound
from spiffe_core.runtime.files import write_private

_PREFIX: Final = "steeple-"
_CLOSED: Final = "its key manager is closed"

log: Final = structlog.get_logger()


class PlaceKey(Protocol):
    """The key that a place holds."""

    @property
    def public(self) -> PublicKey:
        """Its public half."""

    @property
    def fingerprint(self) -> str:
        """What its key manager calls it by, in signatures too."""


class Places(Protocol):
    """A key manager of SPIRE's kind.  Thread-safe; all raise ``KeyManagerUnavailable`` when it does not answer."""

    def generate(self, place: str, key_type: KeyType) -> PlaceKey:
        """Make a key in that place; the one that was there is gone."""

    def shown(self) -> Mapping[str, PlaceKey]:
        """The keys by their places."""

    def sign(self, place: str, digest: bytes, hash_name: str, pss_salt: int | None) -> tuple[bytes, str]:
        """A signature of a digest, and the fingerprint of the key that made it.

        ``pss_salt`` asks for RSA-PSS: a length, 0 for the longest, -1 for the digest's; None for PKCS #1 v1.5.
        """

    def close(self) -> None:
        """Let go of it."""


@dataclass(frozen=True, slots=True)
class _Entry:
    place: str
    fingerprint: str
    """SHA-256 of the public key, whatever the other side calls it."""


@dataclass(frozen=True, slots=True)
class _Content:
    """What the file says."""

    keys: dict[KeyId, _Entry]
    free: dict[str, str]
    """Places that may be used again, each with the fingerprint of the key that fills it."""


class ExternalKeyManager:
    """Keys in places.  Thread-safe, and safe with other processes that use the same file."""

    def __init__(self, places: Places, file: Path) -> None:
        """Read which key is where.

        Raises:
            InvalidConfig: if the file is damaged or cannot be read.
        """
        self._places = places
        self._path = file.absolute()
        self._lock = threading.Lock()
        self._closed = False
        self._known: dict[KeyId, tuple[Key, PlaceSigner]] = {}
        self._read()

    def generate(self, key_id: KeyId, key_type: KeyType) -> Key:
        """Make a key in a free place."""
        check_key_id(key_id)
        with self._change() as content:
            if key_id in content.keys:
                raise AlreadyExists(f'key "{key_id}" exists already, as {self._path} says; it was not overwritten')
            place = self._free_place(content)
            made = self._places.generate(place, key_type)
            entry = content.keys[key_id] = _Entry(place, fingerprint(made.public))
            content.free.pop(place, None)
            self._write(content)
            return self._key(key_id, entry, made)

    def keys(self) -> Sequence[Key]:
        """The keys that are in their places now, by id."""
        with self._lock:
            self._check_open()
            entries, shown = self._read().keys, self._places.shown()
            self._end_all_but(entries, "it was retired")
            return [
                self._key(key_id, entries[key_id], shown[entries[key_id].place])
                for key_id in sorted(entries)
                if self._in_place(key_id, entries[key_id], shown)
            ]

    def retire(self, key_id: KeyId) -> None:
        """Replace the key by one that nobody uses, and free its place."""
        with self._change() as content:
            entry = content.keys.pop(key_id, None)
            if entry is None:
                raise KeyNotFound(f'there is no key "{key_id}" in {self._path}')
            unused = self._places.generate(entry.place, KeyType.EC_P256)
            content.free[entry.place] = fingerprint(unused.public)
            self._write(content)
            self._end_all_but(content.keys, "it was retired")

    def compare(self, shown: Mapping[str, PlaceKey]) -> None:
        """Make sure that a key manager that was started again has every key that this process knows.

        Raises:
            KeyManagerUnavailable: if one is missing, or is another one.
        """
        entries = self._read().keys
        for key_id, (key, _) in list(self._known.items()):
            entry = entries.get(key_id)
            if entry is None:
                continue
            found = shown.get(entry.place)
            if found is None or found.public != key.public:
                raise KeyManagerUnavailable(
                    f'key "{key_id}" (place "{entry.place}") is {"missing" if found is None else "another one"} since '
                    "the key manager was started again; nothing is signed until it is back"
                )

    def close(self) -> None:
        """Let go of the key manager; the file stays."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._end_all_but({}, _CLOSED)
        self._places.close()

    def _free_place(self, content: _Content) -> str:
        """One that was freed and shows the key that fills it, or one that shows none at all."""
        shown = self._places.shown()
        for place, filling in content.free.items():
            if place in shown and fingerprint(shown[place].public) == filling:
                return place
        taken = {entry.place for entry in content.keys.values()} | content.free.keys()
        orphans = sorted(place for place in shown.keys() - taken if place.startswith(_PREFIX))
        if orphans:
            log.warning("Keys of which nothing is known were left alone", places=orphans, file=str(self._path))
        return next(name for number in count() if (name := f"{_PREFIX}{number}") not in taken | shown.keys())

    def _key(self, key_id: KeyId, entry: _Entry, found: PlaceKey) -> Key:
        """The key as it is handed out: the same object while it is the same key."""
        known = self._known.get(key_id)
        if known is None or known[0].public != found.public:
            signer = PlaceSigner(self._places, key_id, entry.place, found.fingerprint)
            known = Key(key_id, key_type_of(found.public), external_key(signer, found.public)), signer
            self._known[key_id] = known
        return known[0]

    def _in_place(self, key_id: KeyId, entry: _Entry, shown: Mapping[str, PlaceKey]) -> bool:
        found = shown.get(entry.place)
        if found is not None and fingerprint(found.public) == entry.fingerprint:
            return True
        state = "no key" if found is None else "another key"
        log.warning("Key is not in its place and was left out", key_id=key_id, place=entry.place, found=state)
        return False

    def _end_all_but(self, entries: Mapping[KeyId, _Entry], why: str) -> None:
        for key_id in self._known.keys() - entries.keys():
            self._known.pop(key_id)[1].end(why)

    def _check_open(self) -> None:
        if self._closed:
            raise KeyManagerUnavailable(_CLOSED)

    @contextmanager
    def _change(self) -> Iterator[_Content]:
        """Be the only one who changes the file, starting from what it says now."""
        with self._lock:
            self._check_open()
            lock_file = self._path.with_name(f"{self._path.name}.lock")
            try:
                descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as exc:
                raise KeyManagerUnavailable(f"cannot lock {self._path}: {exc.strerror} ({lock_file})") from exc
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield self._read()
            finally:
                os.close(descriptor)

    def _read(self) -> _Content:
        try:
            document = json.loads(self._path.read_bytes())
            return _Content(
                keys={
                    check_key_id(key_id): _Entry(str(entry["place"]), str(entry["fingerprint"]))
                    for key_id, entry in document["keys"].items()
                },
                free={str(place): str(filling) for place, filling in document["free"].items()},
            )
        except FileNotFoundError:
            return _Content({}, {})
        except OSError as exc:
            raise KeyManagerUnavailable(f"cannot read {self._path}: {exc.strerror}") from exc
        except (ValueError, TypeError, KeyError, AttributeError, InvalidInput) as exc:
            raise InvalidConfig(
                f"{self._path} is damaged: it does not say which key is where; restore it from a backup"
            ) from exc

    def _write(self, content: _Content) -> None:
        keys = {
            key_id: {"place": content.keys[key_id].place, "fingerprint": content.keys[key_id].fingerprint}
            for key_id in sorted(content.keys)
        }
        try:
            write_private(self._path, json.dumps({"keys": keys, "free": content.free}, indent="\t").encode())
        except OSError as exc:
            raise KeyManagerUnavailable(f"cannot write {self._path}: {exc.strerror}") from exc
