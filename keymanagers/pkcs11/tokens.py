"""The tokens of one key manager: one, or several that hold the same keys.

Several tokens are copies of each other, kept so by the vendor's means; what we make in one is in the others when the
vendor has copied it.  Signatures are shared out among the tokens that work and hold the key, the least busy first;
where one fails, the next signs.  A token that was in trouble signs again only when its keys have been looked at: each
must have the public half by which it is known.  Keys are made in the first token that works, and nowhere else if that
fails half way, since two keys of one id would be worse than none; they are destroyed in every token.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import structlog

from keymanagers.base import KeyId, fingerprint, key_type_of
from keymanagers.pkcs11.device import Device, TokenStatus
from keymanagers.pkcs11.ladder import Pause
from keymanagers.pkcs11.objects import StoredKey, stored_keys
from keymanagers.pkcs11.sessions import Session
from spiffe_core.bundle import PublicKey
from spiffe_core.errors import KeyManagerUnavailable, ResourceExhausted, SpiffeError, Unsupported

T = TypeVar("T")

_LOOK_EVERY: Final = 30.0
"""Seconds between two looks at the keys of several tokens that all work: copies appear without a word."""
_AGAIN: Final = 0.5
"""Longest seconds between two looks at a token in trouble."""

log: Final = structlog.get_logger()


class Tokens:
    """One or several devices.  Thread-safe."""

    def __init__(self, devices: Sequence[Device], group: str, *, monotonic: Callable[[], float]) -> None:
        self._devices = tuple(devices)
        self._only = self._devices[0] if len(self._devices) == 1 else None
        self._group = group
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: dict[KeyId, PublicKey] = {}
        """The public half by which each key is known: the one that was seen first."""
        self._held: dict[Device, frozenset[KeyId]] = {}
        """Which keys a token showed when it was last looked at."""
        self._again = {device: Pause(_AGAIN, monotonic) for device in devices}
        self._look_at = 0.0

    @property
    def name(self) -> str:
        """How messages call the place where the keys are."""
        return '", "'.join(device.name for device in self._devices)

    def open(self) -> None:
        """Open every token, so that what is wrong with the configuration shows at once.

        Raises:
            InvalidConfig: if one of them cannot be used as it is configured.
            KeyManagerUnavailable: if none of them works.
        """
        if self._only is not None:
            self._only.open()
            return
        errors: list[KeyManagerUnavailable] = []
        for device in self._devices:
            try:
                device.open()
                self._look(device)
            except KeyManagerUnavailable as exc:
                device.note(exc)
                errors.append(exc)
        if len(errors) == len(self._devices):
            raise errors[0]

    def sign(self, key: KeyId, operation: str, work: Callable[[Session], T]) -> T:
        """Do ``work`` in a token that works and holds the key; in another if that fails.

        Raises:
            KeyManagerUnavailable: if no token can do it now.
        """
        if self._only is not None:
            return self._only.run(operation, work)
        failed: dict[Device, KeyManagerUnavailable] = {}
        for device in self._by_rank(key):
            try:
                if device.ailing:
                    self._look(device)
                return device.run(operation, work)
            except KeyManagerUnavailable as exc:
                failed[device] = exc
                log.debug("Next token", operation=operation, after=device.name)
        others = [device.status().trouble for device in self._devices if device.ailing and device not in failed]
        raise KeyManagerUnavailable("; ".join([*map(str, failed.values()), *others]))

    def make(self, key: KeyId, operation: str, work: Callable[[Session], StoredKey]) -> StoredKey:
        """Do ``work``, which makes a key, in the first token that works.

        Raises:
            KeyManagerUnavailable: if it does not work after all; there may be a key then.
        """
        device = next((one for one in self._devices if not one.ailing), self._devices[0])
        made = device.run(operation, work)
        with self._lock:
            self._known[key] = made.public
            self._held[device] = self._held.get(device, frozenset()) | {key}
        log.info(
            "Key made in token",
            key_id=key,
            key_type=str(key_type_of(made.public)),
            public_key_sha256=fingerprint(made.public),
            cka_id=made.cka_id.hex(),
            token=device.name,
            serial=device.status().serial,
            to_be_copied=len(self._devices) > 1,
        )
        return made

    def destroy(self, key: KeyId, operation: str, work: Callable[[Session], bool]) -> bool:
        """Do ``work``, which destroys a key and tells whether there was one, in every token.

        Raises:
            KeyManagerUnavailable: if a token does not answer; the key may be in it still.
        """
        found, failed = False, None
        for device in self._devices:
            try:
                found = device.run(operation, work) or found
            except KeyManagerUnavailable as exc:
                failed = exc
        if failed is not None:
            raise failed
        with self._lock:
            known = self._known.pop(key, None)
        if found:
            log.info(
                "Key destroyed in token",
                key_id=key,
                public_key_sha256=fingerprint(known) if known is not None else "",
                token=self.name,
            )
        return found

    def read(self, key: KeyId, operation: str, work: Callable[[Session], T]) -> T:
        """Do ``work`` in a session of its own, in a token that holds the key."""
        return self._by_rank(key)[0].run(operation, work, fresh=True)

    def read_each(self, operation: str, work: Callable[[Session], T]) -> list[tuple[TokenStatus, T | SpiffeError]]:
        """Do ``work`` in a session of its own in each token: what it returned, or why it could not."""
        found: list[tuple[TokenStatus, T | SpiffeError]] = []
        for device in self._devices:
            try:
                result: T | SpiffeError = device.run(operation, work, fresh=True)
            except (KeyManagerUnavailable, Unsupported, ResourceExhausted) as exc:
                result = exc
            found.append((device.status(), result))
        return found

    def stored(self) -> list[StoredKey]:
        """The keys that the tokens which answer show now, by id.

        Raises:
            KeyManagerUnavailable: if none answers.
        """
        shown: dict[KeyId, StoredKey] = {}
        failed: list[KeyManagerUnavailable] = []
        for device in self._devices:
            try:
                shown = {key.key_id: key for key in self._look(device)} | shown
            except KeyManagerUnavailable as exc:
                failed.append(exc)
        if len(failed) == len(self._devices):
            raise failed[0]
        return [shown[key_id] for key_id in sorted(shown)]

    def check(self) -> None:
        """Look again at each token that is in trouble, and now and then at the copies in the others.

        Raises:
            KeyManagerUnavailable: if no token works.
        """
        all_of_them = len(self._devices) > 1 and self._monotonic() >= self._look_at
        if all_of_them:
            self._look_at = self._monotonic() + _LOOK_EVERY
        for device in self._devices:
            if (all_of_them or device.ailing) and not device.status().hanging:
                with suppress(KeyManagerUnavailable):  # the device has taken note
                    self._look(device)
        troubles = [status.trouble for status in self.status()]
        if all(troubles):
            raise KeyManagerUnavailable("; ".join(troubles))

    def status(self) -> list[TokenStatus]:
        """How each token is doing, as far as is known without asking it."""
        return [device.status() for device in self._devices]

    def lacking(self) -> dict[str, frozenset[KeyId]]:
        """By token, the keys that others show and it did not when it was last looked at: they are not copied yet."""
        with self._lock:
            every = frozenset().union(*self._held.values())
            return {device.name: every - held for device, held in self._held.items() if every - held}

    def close(self) -> None:
        """Close every token."""
        failed: SpiffeError | None = None
        for device in self._devices:
            try:
                device.close()
            except KeyManagerUnavailable as exc:
                failed = exc
        if failed is not None:
            raise failed

    def _by_rank(self, key: KeyId) -> list[Device]:
        """The tokens in the order in which they are to be asked for a key."""
        if self._only is not None:
            return [self._only]

        def rank(device: Device) -> tuple[bool, bool, int]:
            return device.ailing, key not in self._held.get(device, frozenset()), device.busy

        ranked = sorted(self._devices, key=rank)
        for device in ranked:
            if device.ailing and device is not ranked[0] and self._again[device].take():
                threading.Thread(target=self._look_quietly, args=(device,), name="token-look", daemon=True).start()
        # One that is known to lack the key would renew its sessions and more to find it: it is for the case that
        # no other is left.
        holding = [device for device in ranked if key in self._held.get(device, frozenset())]
        return holding or ranked

    def _look_quietly(self, device: Device) -> None:
        with suppress(SpiffeError):  # its device has taken note
            self._look(device)

    def _look(self, device: Device) -> list[StoredKey]:
        """The keys of a token, each of them the one that it is known to be.

        Raises:
            KeyManagerUnavailable: if it does not answer, or has another key in the place of one.
        """
        stored = device.run("list keys", lambda session: stored_keys(session, self._group))
        with self._lock:
            for key in stored:
                known = self._known.setdefault(key.key_id, key.public)
                if known != key.public and len(self._devices) > 1:
                    break
            else:
                self._known |= {key.key_id: key.public for key in stored}
                self._held[device] = frozenset(key.key_id for key in stored)
                self._again[device].helped()
                device.complain("")
                return stored
            self._held.pop(device, None)
        device.complain(
            f'token "{device.name}" holds another key under "{key.key_id}" than the tokens beside it: it signs nothing '
            "until that is put right; copy the keys anew by its vendor's means"
        )
        raise KeyManagerUnavailable(device.status().trouble)
