"""A Cryptoki library in this process: loaded once, initialised once, whoever uses it.

The state of a library belongs to the process, not to a key manager.  So ``acquire`` gives all users of one path
the same ``Module``, and the last ``release`` finalises it.

*Threads.*  The library is initialised with CKF_OS_LOCKING_OK.  One that refuses is initialised without, and then
one lock lets a single call inside at a time.

*Re-initialisation* is the last rung of recovery: C_Finalize and C_Initialize with nobody inside.  Every session,
login and handle is gone then; each belongs to a *generation* of the module, and what is of an older generation is
dropped without a further call.

*Fork.*  A library does not survive it: a child that inherited a module is refused.  *Exit*: what is still
initialised is finalised before the interpreter goes, since some libraries crash in their own exit handlers.
"""

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from keymanagers.pkcs11.cryptoki import Cryptoki
from keymanagers.pkcs11.faults import CryptokiError
from keymanagers.pkcs11.gate import Gate, GateTimeout
from keymanagers.pkcs11.returns import CANNOT_LOCK, Rv
from spiffe_core.errors import KeyManagerUnavailable

_EXIT_TIMEOUT: Final = 2.0
"""Seconds that the end of the process waits for calls to return."""

log: Final = structlog.get_logger()

_modules: Final[dict[Path, "Module"]] = {}
_modules_lock: Final = threading.Lock()


class Module:
    """One initialised library; made by ``acquire``."""

    def __init__(self, path: Path) -> None:
        """Load and initialise the library.

        Raises:
            InvalidConfig: if it cannot be loaded.
            KeyManagerUnavailable: if it does not let itself be initialised.
        """
        self.path = path
        self.cryptoki = Cryptoki(path)
        self.generation = 0
        """Grows with each re-initialisation."""
        self.proven = -1
        """The generation in which an operation last succeeded."""
        self.users = 0
        self.pid = os.getpid()
        """Of the process that loaded it; a forked child has another and may use nothing of it."""
        self.login_lock = threading.Lock()
        """Held while somebody logs in, so that one PIN is never tried by two at once."""
        self._gate = Gate()
        self._one_at_a_time: threading.Lock | None = None
        try:
            self._initialize()
        except CryptokiError as exc:
            if exc.rv == Rv.CRYPTOKI_ALREADY_INITIALIZED:
                raise KeyManagerUnavailable(
                    f"module {path} was initialised by another part of this process, which may not bear threads: "
                    "load it in one way only, either directly or through p11-kit"
                ) from exc
            raise KeyManagerUnavailable(f"module {path} does not start: {exc}") from exc

    @property
    def threaded(self) -> bool:
        """Whether the library bears several threads at once."""
        return self._one_at_a_time is None

    def enter(self, timeout: float, visitor: object = None) -> None:
        """Begin a stretch of calls to the library on behalf of ``visitor``; ``leave`` must follow.

        Raises:
            KeyManagerUnavailable: if the module is being re-initialised and that does not end in time, or if
                this process is a forked child.
        """
        if os.getpid() != self.pid:
            raise _forked(self.path)
        try:
            self._gate.enter(timeout, visitor)
        except GateTimeout as exc:
            raise KeyManagerUnavailable(f"module {self.path} is being re-initialised: {exc}") from exc
        if self._one_at_a_time is not None and not self._one_at_a_time.acquire(timeout=timeout):
            self._gate.leave()
            raise KeyManagerUnavailable(f"module {self.path} takes one call at a time, and one does not return")

    def leave(self) -> None:
        """End what ``enter`` began."""
        if self._one_at_a_time is not None:
            self._one_at_a_time.release()
        self._gate.leave()

    def overdue(self, seconds: float, visitor: object) -> int:
        """How many calls for that visitor have not returned for longer than so many seconds."""
        return self._gate.overdue(seconds, visitor)

    @contextmanager
    def inside(self, timeout: float) -> Iterator[Cryptoki]:
        """``enter`` and ``leave`` around a block."""
        self.enter(timeout)
        try:
            yield self.cryptoki
        finally:
            self.leave()

    def reinitialize(self, generation: int, timeout: float) -> None:
        """Finalise and initialise the library, unless somebody has done so since ``generation``.

        Raises:
            KeyManagerUnavailable: if calls do not return in time, or the library does not start again.
        """
        try:
            with self._gate.alone(timeout):
                if self.generation != generation:
                    return
                self.generation += 1
                self._finalize()
                self._initialize()
        except GateTimeout as exc:
            raise KeyManagerUnavailable(f"module {self.path} cannot be re-initialised: {exc}") from exc
        except CryptokiError as exc:
            raise KeyManagerUnavailable(f"module {self.path} does not start again: {exc}") from exc
        log.warning("PKCS#11 module re-initialised", path=str(self.path), generation=self.generation)

    def shut_down(self, timeout: float) -> None:
        """Finalise the library for good; one that calls have not returned from is left as it is."""
        try:
            with self._gate.alone(timeout):
                self.generation += 1
                self._finalize()
        except GateTimeout as exc:
            log.warning("PKCS#11 module not finalised", path=str(self.path), reason=str(exc))

    def _initialize(self) -> None:
        try:
            self.cryptoki.initialize(for_threads=True)
        except CryptokiError as exc:
            if exc.rv not in CANNOT_LOCK:
                raise
            self.cryptoki.initialize(for_threads=False)
            self._one_at_a_time = self._one_at_a_time or threading.Lock()
            log.warning("PKCS#11 module takes one call at a time", path=str(self.path), reason=str(exc))
        else:
            self._one_at_a_time = None

    def _finalize(self) -> None:
        try:
            self.cryptoki.finalize()
        except CryptokiError as exc:
            if exc.rv != Rv.CRYPTOKI_NOT_INITIALIZED:
                log.warning("PKCS#11 module did not end cleanly", path=str(self.path), reason=str(exc))


def acquire(path: Path) -> Module:
    """The module of that path, loaded if it is not; ``release`` must follow.

    Raises:
        InvalidConfig: if it cannot be loaded.
        KeyManagerUnavailable: if it does not start, or this process is a forked child.
    """
    path = Path(os.path.realpath(path))
    inherited = _modules.get(path)
    if inherited is not None and inherited.pid != os.getpid():
        raise _forked(path)
    with _modules_lock:
        module = _modules.get(path)
        if module is None:
            module = _modules[path] = Module(path)
        module.users += 1
        return module


def release(module: Module, timeout: float) -> None:
    """Give back what ``acquire`` gave."""
    if os.getpid() != module.pid:
        return
    with _modules_lock:
        module.users -= 1
        if not module.users:
            del _modules[module.path]
            module.shut_down(timeout)


def _forked(path: Path) -> KeyManagerUnavailable:
    return KeyManagerUnavailable(
        f"module {path} was loaded before this process was forked, and is of no use here: start workers as new "
        "processes (spawn), or fork before a key manager is opened"
    )


@atexit.register
def _shut_down_all() -> None:
    for module in tuple(_modules.values()):
        if module.pid == os.getpid():
            module.shut_down(_EXIT_TIMEOUT)
