"""A token at work: sessions that are used again, one operation in each, and the ladder that brings it back.

A session holds at most one operation at a time, so each operation borrows one.  One that an operation failed in is
closed, never used again.  Sessions are opened when they are needed, up to a bound that configuration and token set;
if other programs hold the token's last ones, the bound sinks to what there is.

``run`` is the only way to a token.  When an operation fails in a way that may be cured, the rungs that the table in
``faults`` names for it are climbed one by one, and the operation starts anew after each.  ``_climb`` is where the
rungs are.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

import structlog

from keymanagers.pkcs11.cryptoki import Cryptoki, TokenInfo
from keymanagers.pkcs11.faults import BUSY, CryptokiError, Rung, Rv, TokenFault
from keymanagers.pkcs11.module import Module
from keymanagers.pkcs11.token import Token
from spiffe_core.errors import InvalidConfig, KeyManagerUnavailable, SpiffeError

T = TypeVar("T")

log: Final = structlog.get_logger()


class Session:
    """One open session, and the key handles that were found, and proven, in it."""

    __slots__ = ("_needs_login", "cryptoki", "generation", "handle", "keys", "signer")

    def __init__(self, cryptoki: Cryptoki, handle: int, generation: int, *, needs_login: bool) -> None:
        self.cryptoki = cryptoki
        self.handle = handle
        self.generation = generation
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


class Device:
    """One token, as one key manager uses it.  Thread-safe."""

    def __init__(
        self,
        module: Module,
        token: Token,
        *,
        max_sessions: int,
        timeout: float,
        reinitialize_interval: float,
        monotonic: Callable[[], float],
    ) -> None:
        """Open the token and log in, so that what is wrong with its configuration shows at once.

        Raises:
            InvalidConfig: if the token cannot be used as it is configured.
            KeyManagerUnavailable: if it is not there.
        """
        self.name = token.name
        self._module = module
        self._token = token
        self._timeout = timeout
        self._reinitialize_interval = reinitialize_interval
        self._monotonic = monotonic
        self._may_reinitialize_at = monotonic()
        self._lock = threading.Lock()
        self._closed = False
        self._open = 0
        self._idle: list[Session] = []
        try:
            with module.inside(timeout):
                self._idle.append(self._open_session())
        except TokenFault as fault:
            raise fault.translated(self.name, "be opened") from fault
        assert token.info is not None
        self._bound = session_bound(max_sessions, token.info)
        self._permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(self._bound):
            self._permits.put(None)

    def run(self, operation: str, work: Callable[[Session], T], *, fresh: bool = False) -> T:
        """Do ``work`` in a session of its own; ``fresh`` asks for one that nothing was done in before.

        It may be done several times, until it succeeds: it must not matter if an earlier try got somewhere.

        Raises:
            KeyManagerUnavailable: if the token cannot do it now.
            SpiffeError: what the table of faults says, or ``work`` itself raises.
        """
        rung = 0
        while True:
            generation = self._module.generation
            try:
                return self._attempt(work, fresh=fresh)
            except TokenFault as fault:
                if fault.meaning is BUSY and self._lower_bound():
                    continue
                rung = self._climb(operation, fault, rung, generation)
            except InvalidConfig as exc:
                raise KeyManagerUnavailable(str(exc)) from exc  # it was right at the start: somebody changed the token

    def close(self) -> None:
        """Close the sessions; one that is in use is closed when its operation ends."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with self._module.inside(self._timeout):
            self._drop_idle()
            self._token.close()

    def _attempt(self, work: Callable[[Session], T], *, fresh: bool) -> T:
        try:
            self._permits.get(timeout=self._timeout)
        except Empty:
            raise KeyManagerUnavailable(
                f'token "{self.name}": none of its {self._bound} sessions became free in {self._timeout:g} s'
            ) from None
        try:
            self._module.enter(self._timeout)
            try:
                session = self._take(fresh=fresh)
                done = False
                try:
                    result = work(session)
                    done = True
                    return result
                finally:
                    if done and not fresh:
                        self._idle.append(session)
                        if self._closed:
                            self._drop_idle()
                    else:
                        self._drop(session)
            finally:
                self._module.leave()
        finally:
            self._permits.put(None)

    def _climb(self, operation: str, fault: TokenFault, last: int, generation: int) -> int:
        """Climb the next rung for the fault, and return it; raise if there is none left."""
        rung = next((one for one in fault.meaning.ladder if one > last), None)
        error = self._error(operation, fault)
        if rung is None:
            raise error from fault
        if rung is Rung.LOGIN:
            with self._module.inside(self._timeout):
                self._token.forget_login(generation)
        elif rung is Rung.MODULE and self._module.generation == generation:
            if not self._may_reinitialize():
                raise error from fault
            self._module.reinitialize(generation, self._timeout)
        log.warning(
            "Token operation failed, tried again",
            token=self.name,
            operation=operation,
            reason=str(fault),
            after=rung.name.lower(),
        )
        return rung

    def _error(self, operation: str, fault: TokenFault) -> SpiffeError:
        error = fault.translated(self.name, operation)
        return KeyManagerUnavailable(str(error)) if isinstance(error, InvalidConfig) else error

    def _may_reinitialize(self) -> bool:
        with self._lock:
            now = self._monotonic()
            if now < self._may_reinitialize_at:
                return False
            self._may_reinitialize_at = now + self._reinitialize_interval
            return True

    def _take(self, *, fresh: bool) -> Session:
        """A session of this generation, an idle one if there is."""
        if self._closed:
            raise KeyManagerUnavailable(f'token "{self.name}": its key manager is closed')
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
            self._open += 1
        return Session(self._module.cryptoki, handle, self._module.generation, needs_login=self._token.needs_login)

    def _drop(self, session: Session) -> None:
        with self._lock:
            self._open -= 1
        if session.generation == self._module.generation:
            try:
                self._module.cryptoki.close_session(session.handle)
            except CryptokiError as exc:
                log.debug("Session was gone already", token=self.name, reason=str(exc))

    def _drop_idle(self) -> None:
        while self._idle:
            with suppress(IndexError):  # another thread took the last one
                self._drop(self._idle.pop())

    def _lower_bound(self) -> bool:
        """Make do with the sessions that are open, if there are any; whether there are."""
        with self._lock:
            if not self._open:
                return False
            if self._bound <= self._open:
                return True
            self._bound -= 1
            bound = self._bound
        log.warning("Token has fewer sessions than configured", token=self.name, sessions=bound)
        with suppress(Empty):
            self._permits.get(timeout=self._timeout)
        return True


def session_bound(configured: int, info: TokenInfo) -> int:
    """How many operations a token can do at once: one session less than it allows, since the anchor takes one."""
    limits = [limit - 1 for limit in (info.max_sessions, info.max_rw_sessions) if limit is not None]
    return max(1, min([configured, *limits]))
