"""KeyManager ``pkcs11``: keys that are made in a token, sign in it and never leave it.

Keys are the group's: servers that name one token and one ``authority_group`` see and use the same keys; others on
the same token do not see them.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from keymanagers.base import Examination, Key, KeyId, KeyType, check_key_id, key_type_of
from keymanagers.pkcs11 import module as modules
from keymanagers.pkcs11.config import Pkcs11Config, TokenChoice
from keymanagers.pkcs11.creation import create, destroy
from keymanagers.pkcs11.device import Device, TokenStatus
from keymanagers.pkcs11.examination import examine
from keymanagers.pkcs11.keys import TokenSigner, remote_key
from keymanagers.pkcs11.ladder import LOGIN_PAUSE
from keymanagers.pkcs11.module import Module
from keymanagers.pkcs11.objects import StoredKey, private_handles, stored_keys
from keymanagers.pkcs11.profiles import PROFILES
from keymanagers.pkcs11.readback import read_back
from keymanagers.pkcs11.sessions import Session
from keymanagers.pkcs11.token import Token
from keymanagers.pkcs11.tokens import Tokens
from spiffe_core.errors import KeyNotFound


class Pkcs11KeyManager:
    """The keys of one authority group in one token.  Thread-safe; every method may block on the device."""

    def __init__(self, config: Pkcs11Config, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Load the module, choose the token and log in.

        Raises:
            InvalidConfig: if the token cannot be used as it is configured.
            KeyManagerUnavailable: if it does not answer.
        """
        self._group = config.authority_group
        self._verify = config.verify_signatures
        self._timeout = config.timeout.total_seconds()
        self._lock = threading.Lock()
        self._generating = threading.Lock()
        self._known: dict[KeyId, tuple[Key, TokenSigner]] = {}
        self._closed = False
        self._modules: list[Module] = []
        try:
            devices = [self._device(choice, config, monotonic) for choice in config.choices]
            self._tokens = Tokens(devices, self._group, monotonic=monotonic)
            self._tokens.open()
        except BaseException:
            self._release()
            raise

    @property
    def authority_group(self) -> str:
        """Servers that share the database and this name sign with the same keys."""
        return self._group

    def generate(self, key_id: KeyId, key_type: KeyType) -> Key:
        """Make a key in the token.

        Raises:
            AlreadyExists: if there is one of that id.
            Unsupported: if the token makes no keys of that type.
            KeyManagerUnavailable: if the token does not answer; there may be a key of that id then.
        """
        check_key_id(key_id)
        with self._generating:
            made = self._tokens.make(
                key_id, f'generate key "{key_id}"', lambda session: create(session, self._group, key_id, key_type)
            )
        return self._key(made)

    def keys(self) -> Sequence[Key]:
        """The group's keys that the token shows now, by id."""
        return [self._key(key) for key in self._tokens.stored()]

    def retire(self, key_id: KeyId) -> None:
        """Destroy the key in the token, and what is left of one whose making was interrupted.

        Raises:
            KeyNotFound: if there is none of that id.
        """
        found = False

        def work(session: Session) -> bool:
            nonlocal found
            found = destroy(session, self._group, key_id) or found
            return found

        self._tokens.destroy(key_id, f'destroy key "{key_id}"', work)
        with self._lock:
            known = self._known.pop(key_id, None)
        if known is not None:
            known[1].end("it was retired")
        if not found:
            raise KeyNotFound(f'there is no key "{key_id}" of group "{self._group}" in token "{self._tokens.name}"')

    def attributes(self, key_id: KeyId) -> Mapping[str, bool | str]:
        """What the token says of the key's private half, through a session in which nothing was done before.

        Raises:
            KeyNotFound: if there is no key of that id.
        """

        def work(session: Session) -> dict[str, bool | str]:
            for key in stored_keys(session, self._group):
                if key.key_id == key_id:
                    return read_back(session, private_handles(session, key)[0])
            raise KeyNotFound(f'there is no key "{key_id}" of group "{self._group}" in token "{self._tokens.name}"')

        return self._tokens.read(key_id, f'read the attributes of key "{key_id}"', work)

    def examine(self, key_id: KeyId, *, attempt: bool) -> Sequence[Examination]:
        """What each token says of the key's private half, and with ``attempt`` what it does when one is after it.

        Raises:
            KeyNotFound: if every token answers and none has the key.
        """
        return examine(self._tokens, self._group, key_id, attempt=attempt)

    def status(self) -> Sequence[TokenStatus]:
        """How each token is doing, as far as is known without asking it."""
        return self._tokens.status()

    def troubles(self) -> Sequence[str]:
        """What is known to be wrong with a token, a text for each."""
        return [one.trouble for one in self._tokens.status() if one.trouble]

    def lacking(self) -> Mapping[str, frozenset[KeyId]]:
        """By token, the keys that others hold and it did not when it was last looked at: not copied yet."""
        return self._tokens.lacking()

    def check(self) -> None:
        """Look again at tokens in trouble.

        Raises:
            KeyManagerUnavailable: if no token works, saying what is wrong.
        """
        self._tokens.check()

    def close(self) -> None:
        """Close the sessions; the last user of the module in this process also ends the module."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            self._tokens.close()
        finally:
            self._release()

    def _device(self, choice: TokenChoice, config: Pkcs11Config, monotonic: Callable[[], float]) -> Device:
        """One token, not opened yet."""
        module = modules.acquire(Path(choice.library))
        self._modules.append(module)
        interval = config.reinitialize_interval.total_seconds()
        token = Token(
            module,
            choice.selector,
            choice.pin,
            timeout=self._timeout,
            profile=PROFILES.get(config.profile),
            login_pause=min(LOGIN_PAUSE, interval),
            monotonic=monotonic,
        )
        return Device(
            module,
            token,
            max_sessions=config.max_sessions,
            timeout=self._timeout,
            reinitialize_interval=interval,
            monotonic=monotonic,
        )

    def _release(self) -> None:
        for module in self._modules:
            modules.release(module, self._timeout)

    def _key(self, stored: StoredKey) -> Key:
        """The key as it is handed out: the same object while it is the same key."""
        with self._lock:
            known = self._known.get(stored.key_id)
            if known is None or known[0].public != stored.public:
                private, signer = remote_key(self._tokens, stored, verify=self._verify)
                known = Key(stored.key_id, key_type_of(stored.public), private), signer
                self._known[stored.key_id] = known
            return known[0]
