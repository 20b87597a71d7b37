"""KeyManager ``disk``: keys in one file, in SPIRE's format (``keymanagers.keyfile``), for its owner's eyes.

SPIRE's server names the file with ``keys_path``; its agent names a folder, and the file in it is ``keys.json``.
Several processes may use one file: each change is made under a lock on ``<file>.lock``, on the file's content of
that moment, and replaces the file in one step.  What another process changed shows at the next ``keys``.  SPIRE
itself takes no lock: do not run it on the same file at the same time.

A file that is damaged, or open to every user of the machine, is an error and stays as it is.
"""

import fcntl
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keymanagers.base import Key, KeyId, KeyType, check_key_id
from keymanagers.keyfile import KeyFileDamaged, parse_keys, render_keys
from keymanagers.secretfile import read_secret
from keymanagers.software import SoftwareKey
from spiffe_core.errors import AlreadyExists, InvalidConfig, KeyManagerUnavailable, KeyNotFound
from spiffe_core.runtime.files import write_private

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
"""Longest key file that is read."""
_CLOSED: Final = "its key manager is closed"


@dataclass(frozen=True, kw_only=True)
class DiskConfig:
    """``plugin_data`` of KeyManager "disk": a server sets ``keys_path``, an agent ``directory``."""

    keys_path: Path | None = None
    """The key file. It is made if it does not exist; its folder is not."""
    directory: Path | None = None
    """Folder of the key file, which is then called `keys.json`. It is made, with mode 0700, if it does not exist."""

    def __post_init__(self) -> None:
        if (self.keys_path is None) == (self.directory is None):
            raise InvalidConfig("one of keys_path (a server's) and directory (an agent's) must be configured")

    @property
    def file(self) -> Path:
        """The key file."""
        path = self.directory / "keys.json" if self.directory is not None else self.keys_path
        assert path is not None
        return path.absolute()


class DiskKeyManager:
    """Keys in a file.  Thread-safe, and safe with other processes on the same file."""

    def __init__(self, config: DiskConfig) -> None:
        """Read the file.

        Raises:
            InvalidConfig: if its folder is missing, or the file is damaged or open to every user.
            KeyManagerUnavailable: if it cannot be read.
        """
        setting = "keys_path" if config.keys_path is not None else "directory"
        if config.directory is not None:
            _make_folder(config.directory)
        self._path = config.file
        if not self._path.parent.is_dir():
            raise InvalidConfig(f"{setting}: folder {self._path.parent} does not exist")
        self._lock = threading.Lock()
        self._closed = False
        self._keys: Mapping[KeyId, SoftwareKey] = {}
        self._content: bytes | None = None
        try:
            self._refresh()
        except KeyFileDamaged as exc:
            raise InvalidConfig(f"{setting}: {exc}") from exc

    def generate(self, key_id: KeyId, key_type: KeyType) -> Key:
        """Make a key and write it to the file."""
        made = SoftwareKey.generate(check_key_id(key_id), key_type)
        with self._change():
            if key_id in self._keys:
                raise AlreadyExists(f'key "{key_id}" exists already in {self._path}; it was not overwritten')
            self._write({**self._keys, key_id: made})
        return made.key

    def keys(self) -> Sequence[Key]:
        """The keys in the file, by id."""
        with self._lock:
            self._check_open()
            self._refresh()
            return [self._keys[key_id].key for key_id in sorted(self._keys)]

    def retire(self, key_id: KeyId) -> None:
        """Take the key out of the file."""
        with self._change():
            if key_id not in self._keys:
                raise KeyNotFound(f'there is no key "{key_id}" in {self._path}')
            self._write({other: key for other, key in self._keys.items() if other != key_id})

    def close(self) -> None:
        """Forget the keys; the file stays."""
        with self._lock:
            self._closed = True
            self._show({}, _CLOSED)

    def _check_open(self) -> None:
        if self._closed:
            raise KeyManagerUnavailable(_CLOSED)

    @contextmanager
    def _change(self) -> Iterator[None]:
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
                self._refresh()
                yield
            finally:
                os.close(descriptor)

    def _refresh(self) -> None:
        """Read the file, unless it says what it said before."""
        content = self._read()
        if content == self._content:
            return
        read = parse_keys(content, self._path) if content is not None else {}
        known = self._keys
        self._show(
            {
                key_id: known[key_id] if key_id in known and known[key_id].key.public == key.key.public else key
                for key_id, key in read.items()
            },
            "it was taken out of the key file",
        )
        self._content = content

    def _read(self) -> bytes | None:
        """The file's content, or None if there is no file."""
        try:
            return read_secret(self._path, MAX_FILE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise KeyManagerUnavailable(f"cannot read {self._path}: {exc.strerror}") from exc
        except InvalidConfig as exc:
            raise KeyFileDamaged(str(exc)) from exc

    def _write(self, keys: Mapping[KeyId, SoftwareKey]) -> None:
        """Replace the file, and then what this process shows."""
        content = render_keys(keys)
        try:
            write_private(self._path.resolve(), content)
        except OSError as exc:
            raise KeyManagerUnavailable(f"cannot write {self._path}: {exc.strerror}") from exc
        self._show(keys, "it was retired")
        self._content = content

    def _show(self, keys: Mapping[KeyId, SoftwareKey], why: str) -> None:
        """Show these keys from now on; the others sign no more."""
        for key_id, key in self._keys.items():
            if keys.get(key_id) is not key:
                key.end(why)
        self._keys = keys


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise InvalidConfig(f"directory: cannot make {folder}: {exc.strerror}") from exc
