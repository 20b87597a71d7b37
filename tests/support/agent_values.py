"""Entries, SVIDs and tokens as an agent holds them, for tests of what it does with them; nothing is signed."""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from agent.identities import Selectors, WorkloadSvid
from spiffe_core.bundle import Bundle
from spiffe_core.entries import Entry, EntryId, Selector
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.jwtsvid import JwtSvid
from tests.support.clock import START

TD = TrustDomain("example.org")
OWN = Bundle(TD, sequence_number=1)
HOUR = timedelta(hours=1)


def selectors(*texts: str) -> Selectors:
    """What was attested of a workload."""
    return frozenset(map(Selector.parse, texts))


def entry(name: str, *texts: str, **fields: Any) -> Entry:
    """An entry of that ID and path, for workloads with these selectors."""
    wanted = tuple(map(Selector.parse, texts or (f"unix:user:{name}",)))
    return Entry(id=EntryId(name), spiffe_id=SpiffeId(TD, f"/{name}"), parent_id=TD.id, selectors=wanted, **fields)


def svid(mark: str = "svid", begin: datetime = START, life: timedelta = HOUR) -> WorkloadSvid:
    """An SVID whose certificate is a mark."""
    return WorkloadSvid((mark.encode(),), b"key", begin, begin + life)


def token(mark: str, of: Entry, audience: Iterable[str], begin: datetime = START, life: timedelta = HOUR) -> JwtSvid:
    """A token that is a mark."""
    return JwtSvid(of.spiffe_id, tuple(audience), begin + life, begin, mark, f"kid of {mark}", {})


async def turns(count: int = 10) -> None:
    """Let the event loop turn that often: whatever waits for nothing but its turn has then had it."""
    for _ in range(count):
        await asyncio.sleep(0)
