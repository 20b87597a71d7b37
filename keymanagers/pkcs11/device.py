"""A token at work: what is done in its sessions, and the ladder that brings it back.

``run`` is the only way to a token.  When an operation fails in a way that may be cured, the rungs that the table in
``faults`` names for it are climbed one by one, and the operation starts anew after each, in a session that nothing
was done in before.  ``_climb`` is where the rungs are; ``keymanagers.pkcs11.ladder`` says how often.

What is known to be wrong with the token is kept, for health: a *trouble* ends with the next operation that succeeds;
one that concerns keys, with the next comparison of all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import structlog

from keymanagers.pkcs11.faults import Rung, TokenFault
from keymanagers.pkcs11.ladder import ALONE, Ladder
from keymanagers.pkcs11.module import Module
from keymanagers.pkcs11.sessions import NoSession, Session, SessionPool
from keymanagers.pkcs11.token import Token
from spiffe_core.errors import InvalidConfig, KeyManagerUnavailable, SpiffeError

T = TypeVar("T")

log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStatus:
    """How a token is doing."""

    token: str
    serial: str
    profile: str
    """Name of what is known of such tokens (``keymanagers.pkcs11.profiles``)."""
    sessions: int
    """Open now, beside the one that keeps the login."""
    bound: int
    """Most operations at once."""
    hanging: int
    """Operations that have not returned for longer than the configured timeout."""
    trouble: str
    """What is known to be wrong; empty if nothing is."""


class _Moment(NamedTuple):
    """What an attempt began with: if there is something newer when it fails, somebody else has climbed already."""

    generation: int
    logins: int


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
        """Take the token; the first operation opens it."""
        self.name = token.name
        self._module = module
        self._token = token
        self._timeout = timeout
        self._ladder = Ladder(reinitialize_interval=reinitialize_interval, monotonic=monotonic)
        self._sessions = SessionPool(module, token, most=max_sessions, timeout=timeout, monotonic=monotonic)
        self._trouble = ""
        self._key_trouble = ""

    def open(self) -> None:
        """Open the token and log in, so that what is wrong with its configuration shows at once.

        Raises:
            InvalidConfig: if the token cannot be used as it is configured.
            KeyManagerUnavailable: if it is not there.
        """
        try:
            self._sessions.use(lambda _session: None)
        except TokenFault as fault:
            raise fault.translated(self.name, "be opened") from fault

    @property
    def ailing(self) -> bool:
        """Whether something is known to be wrong."""
        return bool(self._trouble or self._key_trouble)

    @property
    def busy(self) -> int:
        """How many operations run or hang in it now."""
        return self._sessions.busy

    def status(self) -> TokenStatus:
        """How the token is doing, as far as is known without asking it."""
        hanging = self._sessions.hanging()
        trouble = self._key_trouble or self._trouble
        if hanging and not trouble:
            trouble = f'token "{self.name}": {hanging} operations do not return'
        serial = self._token.info.serial if self._token.info else ""
        return TokenStatus(
            token=self.name,
            serial=serial,
            profile=self._token.profile.name,
            sessions=self._sessions.open,
            bound=self._sessions.bound,
            hanging=hanging,
            trouble=trouble,
        )

    def run(self, operation: str, work: Callable[[Session], T], *, fresh: bool = False) -> T:
        """Do ``work`` in a session of its own; ``fresh`` asks for one that is used for nothing before or after.

        It may be done several times, until it succeeds: it must not matter if an earlier try got somewhere.

        Raises:
            KeyManagerUnavailable: if the token cannot do it now.
            SpiffeError: what the table of faults says, or ``work`` itself raises.
        """
        rung: Rung | None = None
        while True:
            moment = _Moment(self._module.generation, self._token.logins)
            try:
                try:
                    result = self._sessions.use(work, fresh=fresh or rung is not None, keep=not fresh)
                except TokenFault as fault:
                    if not self._sessions.make_do(fault):
                        rung = self._climb(operation, fault, rung, moment)
                    continue
            except NoSession:
                raise
            except KeyManagerUnavailable as exc:
                self.note(exc)
                raise
            except InvalidConfig as exc:  # it was right at the start: somebody changed the token
                self.note(exc)
                raise KeyManagerUnavailable(str(exc)) from exc
            else:
                self._module.proven = moment.generation
                if rung is not None or self._trouble:
                    self._recovered(rung)
                return result

    def note(self, error: SpiffeError) -> None:
        """Keep in mind what is wrong, unless it concerns keys: then the rest of the token may work."""
        if isinstance(error.__cause__, TokenFault) and error.__cause__.of_key:
            return
        if not self._trouble:
            log.warning("Token does not work", token=self.name, error=str(error))
        self._trouble = str(error)

    def complain(self, trouble: str) -> None:
        """Note what is wrong with the token's keys, or that nothing is."""
        if trouble and trouble != self._key_trouble:
            log.error("Token does not hold its keys", token=self.name, error=trouble)
        elif self._key_trouble and not trouble:
            log.info("Token holds its keys again", token=self.name)
        self._key_trouble = trouble

    def close(self) -> None:
        """Close the sessions; one that is in use is closed when its operation ends."""
        self._sessions.close()

    def _climb(self, operation: str, fault: TokenFault, last: Rung | None, moment: _Moment) -> Rung:
        """Climb the next rung for the fault, and return it; raise if there is none left or it is too early."""
        rung = next((one for one in fault.meaning.ladder if last is None or one > last), None)
        try:
            if rung is None or not self._climbed(rung, moment):
                raise self._given_up(operation, fault) from fault
        except TokenFault as worse:
            return self._climb(operation, worse, rung, moment)
        # A signature that is made anew is a second one to the device: say so, but not at each try while it is away.
        say = log.debug if self._trouble else log.warning
        say(
            "Token operation failed, tried again",
            token=self.name,
            operation=operation,
            reason=str(fault),
            after=rung.name.lower(),
        )
        return rung

    def _climbed(self, rung: Rung, moment: _Moment) -> bool:
        """Whether the rung was climbed, by this thread or another since that moment."""
        if rung is Rung.SESSION:
            return self._ladder.may_climb(rung)
        if not self._ladder.climbing.acquire(timeout=self._timeout):
            return False
        try:
            if rung is Rung.LOGIN:
                return self._logged_in(moment)
            return self._reinitialized(moment)
        finally:
            self._ladder.climbing.release()

    def _logged_in(self, moment: _Moment) -> bool:
        if moment == _Moment(self._module.generation, self._token.logins):
            if not self._ladder.may_climb(Rung.LOGIN):
                return False
            with self._module.inside(self._timeout):
                self._token.log_in_again()
        return True

    def _reinitialized(self, moment: _Moment) -> bool:
        module = self._module
        if module.generation == moment.generation:
            alone = ALONE if module.proven != module.generation else None
            if not self._ladder.may_climb(Rung.MODULE, longest=alone):
                return False
            module.reinitialize(moment.generation, self._timeout)
        return True

    def _given_up(self, operation: str, fault: TokenFault) -> SpiffeError:
        error = fault.translated(self.name, operation)
        if isinstance(error, InvalidConfig):
            error = KeyManagerUnavailable(str(error))
        if fault.of_key:
            self.complain(str(error))
        return error

    def _recovered(self, rung: Rung | None) -> None:
        if rung is not None:
            self._ladder.helped(rung)
        if self._trouble:
            self._trouble = ""
            log.info("Token works again", token=self.name)
