"""Brings workloads their X509-SVIDs: makes keys, asks the server in batches, and puts what comes into the cache.

One batch is asked for at a time, so SVIDs that are wanted meanwhile go together in the next.  A batch has at most
as many as the server signs in a second; it is halved when the server fails, since it may be too much for it, and
doubled again when it does not.  Keys are made in a thread: RSA keys take long.

An SVID is taken only if its authority is in the bundle that workloads are given beside it.  If it is not, the bundle
here is behind the server's, and is asked for first.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.cache import IdentityCache
from agent.client import ServerClient
from agent.config import WorkloadKeyType
from agent.csr import make_csr
from agent.identities import WorkloadSvid
from agent.rotation import Rotation
from agent.signers import Signers
from agent.workload_svids import StaleEntry
from keymanagers.base import PrivateKey
from spiffe_core.entries import Entry, EntryId
from spiffe_core.errors import SpiffeError
from spiffe_core.runtime.clock import Clock, sleep_until
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.tasks import Backoff
from spiffe_core.x509svid import Chain

MAX_BATCH: Final = 500
"""SVIDs that are asked for at once, at most (SPIRE's limit a second)."""
MAX_RSA_BATCH: Final = 20
"""The same for RSA keys, which take long to make: the first must not wait for the last."""
LOOK_EVERY: Final = 1.0
"""Seconds between two looks at what is to be renewed."""
_BACKOFF: Final = Backoff(first=0.5, longest=240.0)

log: Final = structlog.get_logger()


class SvidFetcher:
    """Keeps the cache filled."""

    def __init__(
        self,
        *,
        client: ServerClient,
        cache: IdentityCache,
        key_type: WorkloadKeyType,
        rotation: Rotation,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._cache = cache
        self._key_type = key_type
        self._rotation = rotation
        self._clock = clock
        self._metrics = metrics
        self._most = MAX_RSA_BATCH if key_type is WorkloadKeyType.RSA_2048 else MAX_BATCH
        self._batch = self._most
        self._failures = 0

    async def run(self) -> None:
        """Fetch what is wanted or due, for ever."""
        while True:
            self._cache.wanted.clear()
            try:
                more = await self.fetch()
            except SpiffeError as exc:
                self._failures += 1
                log.error("SVID sync failed", error=str(exc))  # noqa: TRY400  the text says what is wrong
                # Whoever comes meanwhile may have the server asked again, but not each of them.
                await self._clock.sleep(_BACKOFF.first)
                await sleep_until(self._cache.wanted, _BACKOFF.pause(self._failures) - _BACKOFF.first, self._clock)
                continue
            self._failures = 0
            if not more:
                await sleep_until(self._cache.wanted, LOOK_EVERY, self._clock)

    async def fetch(self) -> bool:
        """Ask for one batch; whether there is more to ask for.

        Raises:
            SpiffeError: if the server refuses the batch, or is not there.
        """
        stale = self._cache.stale(now=self._clock.now(), monotonic=self._clock.monotonic())
        if not stale:
            return False
        batch = stale[: self._batch]
        log.debug("Renewing stale entries", count=len(stale), limit=self._batch)
        for one in batch:
            event = "Creating X509-SVID" if one.expires_at is None else "Renewing X509-SVID"
            log.info(event, spiffe_id=str(one.entry.spiffe_id), entry_id=one.entry.id)
        made = await asyncio.to_thread(_make_keys, self._key_type, batch)
        try:
            answers = await self._client.x509_svids({key: csr for key, (_, csr) in made.items()})
        except SpiffeError:
            self._batch = max(self._batch // 2, 1)
            raise
        self._batch = min(self._batch * 2, self._most)
        held = []
        signers = Signers(self._cache.own.x509_authorities)
        for one in batch:
            entry, answer = one.entry, answers[one.entry.id]
            if not isinstance(answer, str) and signers.signer_of(answer) is None:
                self._cache.behind.set()
                answer = "it is signed by an authority that is not in the bundle yet"
            if isinstance(answer, str):
                log.warning("Could not get X509-SVID", spiffe_id=str(entry.spiffe_id), entry_id=entry.id, error=answer)
                self._cache.refuse(entry.id, self._clock.monotonic())
                continue
            self._metrics.count("x509_svids", "X509-SVIDs that the server has given")
            held.append((entry, self._svid(entry, answer, made[entry.id][0])))
        self._cache.hold(held, self._clock.monotonic())
        return len(stale) > len(batch)

    def _svid(self, entry: Entry, chain: Chain, key: bytes) -> WorkloadSvid:
        leaf = chain[0]
        begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        if not self._rotation.guarantees(end - begin):
            log.warning(
                "X509 SVID lifetime isn't long enough to guarantee the availability_target, falling back to the "
                "default rotation strategy",
                spiffe_id=str(entry.spiffe_id),
                entry_id=entry.id,
            )
        return WorkloadSvid(tuple(one.public_bytes(Encoding.DER) for one in chain), key, begin, end)


def _make_keys(kind: WorkloadKeyType, batch: Sequence[StaleEntry]) -> dict[EntryId, tuple[bytes, bytes]]:
    """For each entry a new key, PKCS #8 in DER, and a CSR for it."""
    made = {}
    for one in batch:
        key = _new_key(kind)
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        made[one.entry.id] = (der, make_csr(key, one.entry.spiffe_id))
    return made


def _new_key(kind: WorkloadKeyType) -> PrivateKey:
    if kind is WorkloadKeyType.EC_P256:
        return ec.generate_private_key(ec.SECP256R1())
    if kind is WorkloadKeyType.EC_P384:
        return ec.generate_private_key(ec.SECP384R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)
