"""Rate limits: a token bucket per client address and group of RPCs, shared by all workers of a server.

As in SPIRE, a call waits its turn; it is refused only when it asks for more at once than a bucket holds, or
when its client would give up before its turn comes.  Only callers on TCP are limited.

The buckets lie in anonymous shared memory that a server's workers inherit, so a limit holds for the server
and not for each of its processes.  A file lock guards them: the kernel frees it when a worker is killed.
"""

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final, NamedTuple

from spiffe_core.errors import ResourceExhausted

_SLOT: Final = struct.Struct("=Qdd")  # key, tokens, when (monotonic seconds); key 0 is an empty slot
_SLOTS: Final = 8192
_PROBES: Final = 8


class Limit(NamedTuple):
    """A group of RPCs that share a bucket of ``per_second`` tokens, refilled at that rate."""

    group: str
    per_second: int


ATTEST: Final = Limit("attest", 1)
SIGN_X509: Final = Limit("sign-x509", 500)
SIGN_JWT: Final = Limit("sign-jwt", 500)
POST_STATUS: Final = Limit("post-status", 10)


def limits_of(*, attestation: bool, signing: bool) -> dict[str, Limit]:
    """Which RPC takes from which bucket; attestation and signing may be unlimited (``ratelimit``)."""
    agent, svid = "/spire.api.server.agent.v1.Agent/", "/spire.api.server.svid.v1.SVID/"
    limits = {agent + "PostStatus": POST_STATUS}
    if attestation:
        limits[agent + "AttestAgent"] = ATTEST
    if signing:
        limits |= {agent + "RenewAgent": SIGN_X509, svid + "BatchNewX509SVID": SIGN_X509, svid + "NewJWTSVID": SIGN_JWT}
    return limits


class RateLimits:
    """The buckets, for one thread in each of several processes."""

    def __init__(self, memory: int | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Use the shared memory behind a descriptor that ``descriptor`` gave in another process, or make some."""
        if memory is None:
            memory = os.memfd_create("steeple-rate-limits", 0)
            os.truncate(memory, _SLOT.size * _SLOTS)
        self.descriptor = memory
        self._buckets = mmap.mmap(memory, _SLOT.size * _SLOTS)
        self._monotonic = monotonic

    def reserve(self, limit: Limit, address: str, count: int, deadline: float | None = None) -> float:
        """Take ``count`` tokens of an address and return the seconds to wait before acting on them.

        Raises:
            ResourceExhausted: if the bucket never holds that many, or would not before ``deadline`` seconds.
        """
        if count > limit.per_second:
            raise ResourceExhausted(f"rate ({count}) exceeds burst size ({limit.per_second})")
        with self._locked():
            return self._reserve(limit, _key(limit, address), count, deadline)

    def give_back(self, limit: Limit, address: str, count: int) -> None:
        """Put tokens back that were reserved and not waited for."""
        with self._locked():
            self._reserve(limit, _key(limit, address), -count, None)

    def close(self) -> None:
        """Let go of the shared memory."""
        self._buckets.close()
        os.close(self.descriptor)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)

    def _reserve(self, limit: Limit, key: int, count: int, deadline: float | None) -> float:
        now = self._monotonic()
        offset, tokens, since = self._find(key, float(limit.per_second), now)
        tokens = min(tokens + (now - since) * limit.per_second, limit.per_second) - count
        wait = max(0.0, -tokens / limit.per_second)
        if deadline is not None and wait > deadline:
            raise ResourceExhausted("rate limit: the wait would exceed the deadline of the call")
        _SLOT.pack_into(self._buckets, offset, key, tokens, now)
        return wait

    def _find(self, key: int, full: float, now: float) -> tuple[int, float, float]:
        """The bucket of a key, or a full one in an empty slot or that of the bucket that rested longest."""
        oldest, oldest_since = 0, now + 1
        for probe in range(_PROBES):
            offset = (key + probe) % _SLOTS * _SLOT.size
            found, tokens, since = _SLOT.unpack_from(self._buckets, offset)
            if found == key:
                return offset, tokens, since
            if not found:
                return offset, full, now
            if since < oldest_since:
                oldest, oldest_since = offset, since
        return oldest, full, now


def _key(limit: Limit, address: str) -> int:
    return int.from_bytes(blake2b(f"{limit.group}|{address}".encode(), digest_size=8).digest(), "little") or 1
