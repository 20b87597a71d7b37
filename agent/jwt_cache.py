"""JWT-SVIDs of workloads: kept until half their life is over, and longer while the server does not give new ones.

A token is kept by entry and audiences, in whatever order these are named.  Calls that want the same token while it
is asked for share one call to the server.  An entry whose tokens carry an ID of their own gets a new one each time.
The server goes by its own newest revision of an entry; a token of another SPIFFE ID than ours has could be for another
workload, and is given to nobody.
The cache has a hard limit: the token goes that was asked for longest ago.

A workload may ask for tokens for any number of audiences.  So only so many of an entry are asked of the server at a
time, and the others wait for their turn: the rest of the server's patience is for other workloads.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from weakref import WeakValueDictionary

import structlog

from agent.rotation import Rotation
from spiffe_core.entries import Entry, EntryId
from spiffe_core.errors import Internal, ResourceExhausted, SpiffeError, Unavailable
from spiffe_core.jwtsvid import JwtSvid
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.tasks import Backoff

DEFAULT_SIZE: Final = 1000
"""Tokens that are kept, if 0 is configured (SPIRE's)."""
PATIENCE: Final = 30.0
"""Seconds that the server may take for a token of which there is none yet."""
RETRY_FOR: Final = 5.0
"""Seconds after which a call that fails is not made again: the workload may want to do something else."""
ABREAST: Final = 32
"""Tokens of one entry that are asked for at a time."""
_RETRY: Final = Backoff(first=0.5, longest=2.0)

Ask = Callable[[EntryId, Sequence[str], float], Awaitable[JwtSvid]]
"""Asks the server for a token of an entry for audiences, and waits so many seconds at most."""
_Key = tuple[EntryId, str, tuple[str, ...]]

log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Kept:
    svid: JwtSvid
    renew_at: datetime


class JwtSvids:
    """The tokens of an agent's workloads."""

    def __init__(
        self, *, ask: Ask, size: int, rotation: Rotation, clock: Clock, hit_patience: float = PATIENCE
    ) -> None:
        """Take who is asked; ``hit_patience`` is how long he may take while the token that is there is still valid."""
        self._ask = ask
        self._size = size or DEFAULT_SIZE
        self._rotation = rotation
        self._clock = clock
        self._hit_patience = hit_patience
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._asking: dict[_Key, asyncio.Task[JwtSvid]] = {}
        self._turns: WeakValueDictionary[EntryId, asyncio.Semaphore] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, entry: Entry, audience: Sequence[str]) -> JwtSvid:
        """A token of the entry for exactly these audiences.

        Raises:
            Unavailable: if there is none in the cache and the server does not give one, saying why.
        """
        if entry.jwt_svid_include_jti:
            return _of(str(entry.spiffe_id), await self._ask_patiently(entry.id, audience))
        key = (entry.id, str(entry.spiffe_id), tuple(sorted(audience)))
        kept = self._kept.get(key)
        now = self._clock.now()
        if kept is not None:
            self._kept.move_to_end(key)
            if now < kept.renew_at:
                return kept.svid
        valid = kept if kept is not None and now < kept.svid.expires_at else None
        try:
            return await asyncio.shield(self._asked(key, audience, is_hit=valid is not None))
        except SpiffeError as exc:
            if valid is None or self._clock.now() >= valid.svid.expires_at:
                raise _unavailable(exc) from exc
            log.warning("Unable to renew JWT; returning cached copy", spiffe_id=str(entry.spiffe_id), error=str(exc))
            return valid.svid

    def drop_untrusted(self, key_ids: Collection[str]) -> int:
        """Let the tokens go that other authorities than these have signed; how many went."""
        going = [key for key, kept in self._kept.items() if kept.svid.key_id not in key_ids]
        for key in going:
            del self._kept[key]
        return len(going)

    async def close(self) -> None:
        """Ask for nothing more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _asked(self, key: _Key, audience: Sequence[str], *, is_hit: bool) -> asyncio.Task[JwtSvid]:
        """The call to the server that is under way for this token."""
        task = self._asking.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch(key, audience, is_hit=is_hit))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._answered(key, done))
        return task

    def _answered(self, key: _Key, task: asyncio.Task[JwtSvid]) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # those who wait have it; if nobody does any more, it is no loss

    async def _fetch(self, key: _Key, audience: Sequence[str], *, is_hit: bool) -> JwtSvid:
        if is_hit:
            svid = await self._ask_in_turn(key[0], audience, self._hit_patience)
        else:
            svid = await self._ask_patiently(key[0], audience)
        _of(key[1], svid)
        begin = svid.issued_at or self._clock.now()
        self._kept[key] = _Kept(svid, self._rotation.half_way(begin, svid.expires_at))
        self._kept.move_to_end(key)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return svid

    async def _ask_patiently(self, entry_id: EntryId, audience: Sequence[str]) -> JwtSvid:
        """Ask again and again, for a while, if the server is away or busy; what it refuses it refuses."""
        began, failures = self._clock.monotonic(), 0
        while True:
            try:
                return await self._ask_in_turn(entry_id, audience, PATIENCE)
            except (Unavailable, ResourceExhausted, Internal) as exc:
                failures += 1
                pause = _RETRY.pause(failures)
                if self._clock.monotonic() - began + pause >= RETRY_FOR:
                    log.error("Failed to fetch JWT SVID", error=str(exc))  # noqa: TRY400  the text says what is wrong
                    raise _unavailable(exc) from exc
                log.debug("Failed to fetch JWT SVID; retrying", error=str(exc))
                await self._clock.sleep(pause)
            except SpiffeError as exc:
                log.error("Failed to fetch JWT SVID", error=str(exc))  # noqa: TRY400
                raise _unavailable(exc) from exc

    async def _ask_in_turn(self, entry_id: EntryId, audience: Sequence[str], seconds: float) -> JwtSvid:
        turn = self._turns.get(entry_id)
        if turn is None:
            turn = self._turns[entry_id] = asyncio.Semaphore(ABREAST)
        async with turn:
            return await self._ask(entry_id, audience, seconds)


def _of(spiffe_id: str, svid: JwtSvid) -> JwtSvid:
    """The token, if it is of that ID."""
    if str(svid.id) != spiffe_id:
        raise Unavailable(f'JWT-SVID is of "{svid.id}": the entry has changed, and is not known here yet; try again')
    return svid


def _unavailable(error: SpiffeError) -> Unavailable:
    return error if isinstance(error, Unavailable) else Unavailable(f"failed to fetch JWT SVID: {error}")
