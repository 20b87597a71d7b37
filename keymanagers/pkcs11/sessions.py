"""The sessions of one token: a bounded pool, one operation in each.

A session holds at most one operation at a time, so each operation borrows one.  One that an operation failed in is
closed, never used again.  Sessions are opened when they are needed, up to a bound that configuration, the token and
its profile set; if other programs hold the token's last ones, the bound sinks to what there is, and rises again in
time.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

import structlog

from keymanagers.pkcs11.cryptoki import Cryptoki, TokenInfo
from keymanagers.pkcs11.faults import BUSY, CryptokiError, TokenFault
from keymanagers.pkcs11.module import Module
from keymanagers.pkcs11.profiles import Profile
from keymanagers.pkcs11.returns import Rv
from keymanagers.pkcs11.token import Token
from spiffe_core.errors import KeyManagerUnavailable

T = TypeVar("T")

_RISES_EVERY: Final = 30.0
"""Seconds after which a bound that sank rises by one."""

log: Final = structlog.get_logger()


class NoSession(KeyManagerUnavailable):
    """All sessions are in use: the token has much to do, or hangs, which is another matter."""


class Session:
    """One open session, and the key handles that were found, and proven, in it."""

    __slots__ = ("_needs_login", "cryptoki", "generation", "handle", "keys", "profile", "signer")

    def __init__(
        self, cryptoki: Cryptoki, handle: int, generation: int, *, profile: Profile, needs_login: bool
    ) -> None:
        self.cryptoki = cryptoki
        self.handle = handle
        self.generation = generation
        self.profile = profile
        self.signer = cryptoki.signer(handle)
        self.keys: dict[bytes, int] = {}
        """Handle of a private key by its CKA_ID."""
        self._needs_login = needs_login

    def check_sight(self) -> None:
        """Raise unless the token shows what it holds.

        One that is logged out hides private keys, and SoftHSM shows nothing of a token whose folder is gone; both
        answer a search as if there were no keys.

        Raises:
            CryptokiError: CKR_USER_NOT_LOGGED_IN, or what the module says of the token.
        """
        slot, logged_in = self.cryptoki.session_info(self.handle)
        if self._needs_login and not logged_in:
            raise CryptokiError("C_GetSessionInfo", Rv.USER_NOT_LOGGED_IN)
        self.cryptoki.token_info(slot)


class SessionPool:
    """The sessions that one key manager has open on one token.  Thread-safe."""

    def __init__(
        self, module: Module, token: Token, *, most: int, timeout: float, monotonic: Callable[[], float]
    ) -> None:
        self.open = 0
        self.bound = 1
        """Most operations at once; known when the token has been seen."""
        self._module = module
        self._token = token
        self._most = most
        self._top = 0
        self._timeout = timeout
        self._monotonic = monotonic
        self._rises_at = 0.0
        self._lock = threading.Lock()
        self._closed = False
        self._idle: list[Session] = []
        self._permits: SimpleQueue[None] = SimpleQueue()
        self._permits.put(None)

    def use(self, work: Callable[[Session], T], *, fresh: bool = False, keep: bool = True) -> T:
        """Do ``work`` in a session, which is used again only if that succeeds, and if it is to be kept.

        ``fresh`` asks for one that nothing was done in before.

        Raises:
            NoSession: if none becomes free in time.
            KeyManagerUnavailable: if the pool is closed, or the token refuses to be used.
            TokenFault: of any kind.
        """
        self._take_permit()
        try:
            self._module.enter(self._timeout, self)
            try:
                session = self._take(fresh=fresh)
                done = False
                try:
                    result = work(session)
                    done = True
                    return result
                finally:
                    if done and keep:
                        self._idle.append(session)
                        if self._closed:
                            self._drop_idle()
                    else:
                        self._drop(session)
            finally:
                self._module.leave()
        finally:
            self._permits.put(None)

    @property
    def busy(self) -> int:
        """How many operations run or hang now."""
        return self.bound - self._permits.qsize()

    def hanging(self) -> int:
        """How many operations have not returned for longer than the timeout."""
        return self._module.overdue(self._timeout, self)

    def make_do(self, fault: TokenFault) -> bool:
        """Make do with the sessions that are open if no other can be had; whether that is so."""
        if fault.meaning is not BUSY or not isinstance(fault, CryptokiError) or fault.function != "C_OpenSession":
            return False
        with self._lock:
            if not self.open:
                return False
            if self.bound <= self.open:
                return True
            self.bound -= 1
            self._rises_at = self._monotonic() + _RISES_EVERY
        try:
            self._permits.get(timeout=self._timeout)
        except Empty:
            with self._lock:
                self.bound += 1
            return False
        log.warning("Token has fewer sessions than configured", token=self._token.name, sessions=self.bound)
        return True

    def close(self) -> None:
        """Close the sessions; one that is in use is closed when its operation ends."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with self._module.inside(self._timeout):
            self._drop_idle()
            self._token.close()

    def _take_permit(self) -> None:
        if self.bound < self._top and self._monotonic() >= self._rises_at:
            self._rise()
        try:
            self._permits.get(timeout=self._timeout)
        except Empty:
            raise NoSession(
                f'token "{self._token.name}": none of its {self.bound} sessions became free in {self._timeout:g} s'
            ) from None

    def _rise(self) -> None:
        with self._lock:
            if self.bound < self._top:
                self.bound += 1
                self._rises_at = self._monotonic() + _RISES_EVERY
                self._permits.put(None)

    def _take(self, *, fresh: bool) -> Session:
        """A session of this generation, an idle one if there is; a new one in place of an idle one if ``fresh``."""
        if self._closed:
            raise KeyManagerUnavailable(f'token "{self._token.name}": its key manager is closed')
        while True:
            try:
                session = self._idle.pop()
            except IndexError:
                return self._open_session()
            if session.generation == self._module.generation and not fresh:
                return session
            self._drop(session)
            if fresh:
                return self._open_session()

    def _open_session(self) -> Session:
        handle = self._token.open_session()
        with self._lock:
            self.open += 1
            if not self._top and self._token.info is not None:
                self._top = self.bound = session_bound(self._most, self._token.info, self._token.profile)
                for _ in range(self._top - 1):
                    self._permits.put(None)
        return Session(
            self._module.cryptoki,
            handle,
            self._module.generation,
            profile=self._token.profile,
            needs_login=self._token.needs_login,
        )

    def _drop(self, session: Session) -> None:
        with self._lock:
            self.open -= 1
        self._token.close_session(session.handle, session.generation)

    def _drop_idle(self) -> None:
        while self._idle:
            with suppress(IndexError):  # another thread took the last one
                self._drop(self._idle.pop())


def session_bound(configured: int, info: TokenInfo, profile: Profile) -> int:
    """How many operations a token can do at once: one session less than it allows, since the anchor takes one."""
    told = [limit for limit in (info.max_sessions, info.max_rw_sessions) if limit is not None]
    if not told and profile.most_sessions is not None:
        told = [profile.most_sessions]
    return max(1, min([configured, *(limit - 1 for limit in told)]))
