"""What a token's troubles cost, and what the pool of sessions does: ``python -m benchmarks.tokens [--write]``.

SoftHSM stands behind the shim of the tests, which misbehaves on command.  Recovery is the time that the one signature
took in which the fault was met, beside one without a fault; where the token was away, the time from its return to
the next signature.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks import report
from keymanagers.base import Key, KeyId, KeyType
from keymanagers.pkcs11.keys import _ECDSA
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from keymanagers.pkcs11.objects import private_handles
from keymanagers.pkcs11.returns import Rv
from spiffe_core.errors import KeyManagerUnavailable
from spiffe_core.runtime.files import private_folder
from tests.support.shim import Shim, compile_shim, load_shim
from tests.support.softhsm import SoftHsmToken, init_token, own_library

THREADS: Final = 8
LATENCY: Final = 0.005
_HASH: Final = ec.ECDSA(hashes.SHA256())
_DIGEST: Final = bytes(32)
_LABEL: Final = "bench"
_LEAD: Final = "<!-- figures: python -m benchmarks.tokens --write -->"


def sign(key: Key) -> None:
    """One signature."""
    assert isinstance(key.private, ec.EllipticCurvePrivateKey)
    key.private.sign(_DIGEST, _HASH)


# -- recovery


def _away(shim: Shim, key: Key) -> float:
    """Take the token out for a second in which it is asked for all the time; seconds from its return."""
    shim.remove(_LABEL)
    end = time.monotonic() + 1.0
    back = 0.0
    while True:
        try:
            sign(key)
        except KeyManagerUnavailable:
            time.sleep(0.001)
        else:
            return time.monotonic() - back
        if not back and time.monotonic() > end:
            shim.restore()
            back = time.monotonic()


def _timed(prepare: Callable[[Shim], None]) -> Callable[[Shim, Key], float]:
    def once(shim: Shim, key: Key) -> float:
        prepare(shim)
        begun = time.monotonic()
        sign(key)
        return time.monotonic() - begun

    return once


FAULTS: Final[dict[str, Callable[[Shim, Key], float]]] = {
    "none": _timed(lambda _shim: None),
    "a session was closed": _timed(lambda shim: shim.steal_sessions(_LABEL, shim.sessions - 1)),
    "a key handle is not valid any more": _timed(lambda shim: shim.fail("C_SignInit", Rv.KEY_HANDLE_INVALID)),
    "a signature is wrong": _timed(lambda shim: shim.corrupt_signatures(1)),
    "the device failed once": _timed(lambda shim: shim.fail("C_Sign", Rv.DEVICE_ERROR)),
    "all sessions were closed, the login with them": _timed(lambda shim: shim.steal_sessions(_LABEL)),
    "somebody logged out": _timed(lambda shim: shim.log_out(_LABEL)),
    "the library fails until it is re-initialised": _timed(lambda shim: shim.wedge(Rv.GENERAL_ERROR)),
    "the token was removed while a call ran": _timed(lambda shim: shim.fail("C_Sign", Rv.DEVICE_REMOVED)),
    "the token was away for a second": _away,
}


def recovery(shim: Shim, key: Key, rounds: int) -> str:
    """A table: for each fault how long it took, and what it took."""
    lines = ["| fault | median ms | longest ms | logins | re-initialisations |", "|---|--:|--:|--:|--:|"]
    for name, once in FAULTS.items():
        sign(key)
        logins, lives = shim.logins, shim.count("C_Initialize")
        times = [once(shim, key) * 1e3 for _ in range(3 if once is _away else rounds)]
        used = [(shim.logins - logins) / len(times), (shim.count("C_Initialize") - lives) / len(times)]
        cells = [name, f"{statistics.median(times):.2f}", f"{max(times):.2f}", *(f"{one:.3g}" for one in used)]
        lines.append(f"| {' | '.join(cells)} |")
        shim.heal()
    return "\n".join(lines)


# -- speed


def _in_threads(work: Callable[[float], int], seconds: float) -> float:
    """How often a second all threads together did it."""
    counts: list[int] = []
    together = threading.Barrier(THREADS)

    def run() -> None:
        together.wait()
        counts.append(work(time.monotonic() + seconds))

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def _raw(key: Key) -> Callable[[float], int]:
    """C_SignInit and C_Sign in a session that the thread keeps."""
    signer: Any = key.private._signer  # type: ignore[union-attr]  # noqa: SLF001  below what signs for the server

    def work(end: float) -> int:
        def within(session: Any) -> int:  # noqa: ANN401  inner parts
            handle = private_handles(session, signer.key)[0]
            count = 0
            while time.monotonic() < end:
                session.signer.sign(_ECDSA, handle, _DIGEST)
                count += 1
            return count

        return int(signer._tokens.sign(signer.key.key_id, "measure", within))  # noqa: SLF001  as above

    return work


def _pooled(key: Key) -> Callable[[float], int]:
    """The same through the pool: a session is borrowed for each signature."""
    signer: Any = key.private._signer  # type: ignore[union-attr]  # noqa: SLF001  as above

    def work(end: float) -> int:
        count = 0
        while time.monotonic() < end:
            signer.sign(_ECDSA, _DIGEST, lambda _raw_signature: None)
            count += 1
        return count

    return work


def _whole(key: Key) -> Callable[[float], int]:
    """The key as ``cryptography`` sees it: hashed here, the signature as DER."""

    def work(end: float) -> int:
        count = 0
        while time.monotonic() < end:
            sign(key)
            count += 1
        return count

    return work


def speeds(opened: Callable[..., Pkcs11KeyManager], shim: Shim, seconds: float, rounds: int) -> str:
    """A table: signatures of several threads, raw and through the pool, of a fast token and of a slow one."""
    with closing(opened(authority_group="plain")) as plain, closing(opened(verify_signatures=True)) as checked:
        key = plain.generate(KeyId("key"), KeyType.EC_P256)
        proven = checked.generate(KeyId("key"), KeyType.EC_P256)
        ways = {
            f"raw, {THREADS} threads": _raw(key),
            f"through the pool, {THREADS} threads": _pooled(key),
            "the same as `cryptography` calls it": _whole(key),
            "the same, each signature verified": _whole(proven),
        }
        lines = ["| | per s (median) | ratio to raw | with 5 ms latency, per s |", "|---|--:|--:|--:|"]
        fast: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                fast[name].append(_in_threads(way, seconds))
        shim.delay("C_Sign", LATENCY)
        slow = {name: _in_threads(way, seconds) for name, way in ways.items()}
        shim.delay("C_Sign", 0)
        raw = next(iter(fast.values()))
        for name, samples in fast.items():
            ratio = statistics.median(one / base for one, base in zip(samples, raw, strict=True))
            lines.append(f"| {name} | {statistics.median(samples):,.0f} | {ratio:.2f} | {slow[name]:,.0f} |")
    return "\n".join(lines)


@contextmanager
def _token() -> Iterator[tuple[SoftHsmToken, Shim]]:
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="steeple-bench-")))
        token = init_token(folder, _LABEL, own_library(folder))
        os.environ["SOFTHSM2_CONF"] = str(token.softhsm2_conf)
        path = Path(shutil.copy(compile_shim(folder), folder / "copy.so"))
        sockets = resources.enter_context(private_folder())
        yield token, resources.enter_context(load_shim(path, sockets, token.library))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokens")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement of speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the figures into benchmarks/README.md")
    options = parser.parse_args(arguments)
    with _token() as (token, shim):

        def opened(**changed: Any) -> Pkcs11KeyManager:  # noqa: ANN401  settings
            return Pkcs11KeyManager(token.config(module=shim.path, **changed))

        speed = speeds(opened, shim, options.seconds, options.rounds)
        interval = timedelta(seconds=10)  # as by default
        with closing(
            opened(authority_group="recovery", verify_signatures=True, reinitialize_interval=interval)
        ) as manager:
            troubles = recovery(shim, manager.generate(KeyId("key"), KeyType.EC_P256), 20)
    figures = f"{speed}\n\n{troubles}"
    print(figures)  # noqa: T201  this is what it is for
    if options.write:
        report.write(figures, _LEAD)


if __name__ == "__main__":
    main()
