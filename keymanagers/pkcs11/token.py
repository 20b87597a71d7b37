"""One token of a module: choosing it, logging in to it once, and opening sessions on it.

A token is chosen by what it says of itself, never by its slot, whose number changes.  From the first time on its
serial number counts too: another token that takes its label is not the same.  Login belongs to the process and the
token, and lasts while a session is open; so one session, the *anchor*, is held for that alone, unless the token has
no other: then operations run in the anchor.  All of this belongs to one generation of the module and is done again
in the next.

A login that failed, for whatever reason but its PIN, is tried again after a pause only: some tokens count it.

Every method is called inside the module's gate.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from typing import Final

import structlog
from pkcs11 import TokenFlag

from keymanagers.pkcs11.config import TokenSelector
from keymanagers.pkcs11.cryptoki import TokenInfo
from keymanagers.pkcs11.faults import CryptokiError, NotRepeatable, TokenAbsent
from keymanagers.pkcs11.ladder import LOGIN_PAUSE, Pause
from keymanagers.pkcs11.module import Module
from keymanagers.pkcs11.pin import PinSource
from keymanagers.pkcs11.profiles import GENERIC, Profile, profile_of
from keymanagers.pkcs11.refused import remember_refused, was_refused
from keymanagers.pkcs11.returns import REFUSED_PIN, Rv
from spiffe_core.errors import InvalidConfig, KeyManagerUnavailable

log: Final = structlog.get_logger()

_NO_TOKEN: Final = frozenset({Rv.TOKEN_NOT_PRESENT, Rv.TOKEN_NOT_RECOGNIZED, Rv.SLOT_ID_INVALID})


class Token:
    """The token that a key manager uses."""

    def __init__(
        self,
        module: Module,
        selector: TokenSelector,
        pin: PinSource | None,
        *,
        timeout: float,
        profile: Profile | None = None,
        login_pause: float = LOGIN_PAUSE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = selector.name
        self.profile = profile or GENERIC
        """What is particular to it; known when it has been chosen, unless it is configured."""
        self.logins = 0
        """Grows whenever the login is made anew."""
        self.info: TokenInfo | None = None
        """What the token said of itself when it was last chosen."""
        self._module = module
        self._selector = selector
        self._pin = pin
        self._detects = profile is None
        self._timeout = timeout
        self._lock = threading.Lock()
        self._generation = -1
        self._slot = 0
        self._anchor: int | None = None
        self._given = 0
        """Sessions that are open beside the anchor."""
        self._login_pause = Pause(login_pause, monotonic)
        self._login_fault: CryptokiError | None = None

    @property
    def needs_login(self) -> bool:
        """Whether the token shows private keys to a logged-in user only, when it was last chosen."""
        return self.info is not None and bool(self.info.flags & TokenFlag.LOGIN_REQUIRED)

    def open_session(self) -> int:
        """Open a session, logged in; the anchor itself if the token has no other.

        Raises:
            TokenFault: if it is not there, or the module says no.
            InvalidConfig: if several tokens match, it is not initialised, or the PIN is unusable.
            KeyManagerUnavailable: if it is out of order, or a login would endanger it.
        """
        with self._locked():
            if self._anchor is None or self._generation != self._module.generation:
                self._set_up()
            slot = self._slot
            self._given += 1
        try:
            return self._module.cryptoki.open_session(slot)
        except CryptokiError as exc:
            with self._locked():
                self._given -= 1
                if exc.rv != Rv.SESSION_COUNT or self._given or self._anchor is None:
                    raise
                self._given += 1
                return self._anchor

    def close_session(self, handle: int, generation: int) -> None:
        """Close what ``open_session`` gave, as far as it is still there."""
        with self._locked():
            if generation != self._generation:
                return
            self._given -= 1
            if handle == self._anchor:
                self._drop_anchor()
                return
        if generation == self._module.generation:
            self._close(handle)

    def log_in_again(self) -> None:
        """Choose the token and log in anew, whatever the state before.

        Raises:
            TokenFault, InvalidConfig, KeyManagerUnavailable: as ``open_session``.
        """
        with self._locked():
            self._set_up()

    def close(self) -> None:
        """Let go of the anchor."""
        with self._locked():
            self._drop_anchor()

    def _locked(self) -> AbstractContextManager[None]:
        return self._held(self._lock)

    @contextmanager
    def _held(self, lock: threading.Lock) -> Iterator[None]:
        """One at a time, but nobody waits for ever for a call that hangs."""
        if not lock.acquire(timeout=self._timeout):
            raise KeyManagerUnavailable(f'token "{self.name}": a login or an opened session does not return')
        try:
            yield
        finally:
            lock.release()

    def _set_up(self) -> None:
        """Choose the token, open the anchor and log in.

        An anchor that there is stays until the new one is logged in: where it is the last session, its end would be
        that of a login which others use.
        """
        before = self._anchor if self._generation == self._module.generation else None
        if self._generation != self._module.generation:
            self._given = 0
        self._anchor = None
        try:
            self._slot, self.info = choose(self._module, self._selector)
            self._selector = replace(self._selector, serial=self.info.serial)
            self._generation = self._module.generation
            if self._detects:
                self.profile = profile_of(self._module.cryptoki.manufacturer(), self.info)
                self._detects = False
            try:
                anchor = self._module.cryptoki.open_session(self._slot)
            except CryptokiError as exc:
                if exc.rv != Rv.SESSION_COUNT or before is None:
                    raise
                self._close(before)
                before = None
                anchor = self._module.cryptoki.open_session(self._slot)
            try:
                if self.needs_login:
                    self._log_in(anchor, self.info)
            except BaseException:
                self._close(anchor)
                raise
            self._anchor = anchor
        finally:
            self.logins += 1
            if before is not None:
                self._close(before)

    def _log_in(self, session: int, info: TokenInfo) -> None:
        module = self._module
        identity = f"{module.path}\0{info.serial}"
        with self._held(module.login_lock):
            if module.cryptoki.session_info(session)[1]:
                return  # by another key manager of this process
            if self._pin is None:
                raise InvalidConfig(f'pin_source must be configured: token "{self.name}" asks for a PIN')
            check_pin_state(self.name, info.flags)
            if info.flags & TokenFlag.USER_PIN_COUNT_LOW:
                log.warning("Token was given a wrong user PIN since the last right one", token=self.name)
            pin = self._pin.read()
            if was_refused(identity, pin):
                raise InvalidConfig(
                    f'pin_source: token "{self.name}" has refused this PIN before; it is not tried again, since tokens '
                    f"lock after a few wrong ones: correct {self._pin}"
                )
            if not self._login_pause.take():
                assert self._login_fault is not None
                raise NotRepeatable(self._login_fault)
            try:
                module.cryptoki.login(session, pin)
            except CryptokiError as exc:
                if exc.rv != Rv.USER_ALREADY_LOGGED_IN:
                    self._login_fault = exc
                    if exc.rv in REFUSED_PIN:
                        remember_refused(identity, pin)
                        self._login_pause.helped()  # another PIN may be tried at once
                    raise
            self._login_pause.helped()

    def _drop_anchor(self) -> None:
        if self._anchor is not None and self._generation == self._module.generation:
            self._close(self._anchor)
        self._anchor = None

    def _close(self, session: int) -> None:
        with suppress(CryptokiError):  # it is gone already, which is what is wanted
            self._module.cryptoki.close_session(session)


def choose(module: Module, selector: TokenSelector) -> tuple[int, TokenInfo]:
    """The slot of the one token that matches, and what it says of itself.

    Raises:
        TokenAbsent: if none does.
        InvalidConfig: if several match, or the one that does is not initialised.
        KeyManagerUnavailable: if it is out of order.
    """
    cryptoki = module.cryptoki
    seen: list[tuple[int, TokenInfo]] = []
    for slot in cryptoki.slots():
        try:
            seen.append((slot, cryptoki.token_info(slot)))
        except CryptokiError as exc:
            if exc.rv not in _NO_TOKEN:
                raise
    matching = [(slot, info) for slot, info in seen if selector.matches(info)]
    ready = [(slot, info) for slot, info in matching if info.flags & TokenFlag.TOKEN_INITIALIZED]
    if len(ready) > 1:
        serials = ", ".join(info.serial for _, info in ready)
        raise InvalidConfig(
            f'token "{selector.name}" is ambiguous: the tokens with serial numbers {serials} match; set serial to the '
            "one that is meant"
        )
    if matching and not ready:
        raise InvalidConfig(f'token "{selector.name}" is not initialised: give it a label and a PIN first')
    if not ready:
        labels = ", ".join(f'"{info.label}"' for _, info in seen if info.flags & TokenFlag.TOKEN_INITIALIZED)
        what = f"the one with serial number {selector.serial}" if selector.serial else "it"
        raise TokenAbsent(f"{what} is not in module {module.path}, which shows {labels or 'no token at all'}")
    ((slot, info),) = ready
    if info.flags & TokenFlag.ERROR_STATE:
        raise KeyManagerUnavailable(f'token "{selector.name}" failed its self-test: its vendor says what to do')
    return slot, info


def check_pin_state(name: str, flags: TokenFlag) -> None:
    """Raise unless one login may be tried.

    Raises:
        KeyManagerUnavailable: if the PIN is locked, was never set, or a wrong try would lock it.
    """
    if flags & TokenFlag.USER_PIN_LOCKED:
        raise KeyManagerUnavailable(
            f'token "{name}" has locked its user PIN after too many wrong ones: its security officer must unlock it'
        )
    if flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise KeyManagerUnavailable(
            f'token "{name}" would lock its user PIN after one more wrong try, so none is made: log in once with '
            "another tool to show that the PIN is right, which resets the count"
        )
    if not flags & TokenFlag.USER_PIN_INITIALIZED:
        raise KeyManagerUnavailable(f'token "{name}" has no user PIN yet: its security officer must set one')
