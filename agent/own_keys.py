"""The agent's own key: made in its key manager, found by the SVID that it belongs to, destroyed when it is replaced.

Ids are never used twice.  The agent's state names each key from before it is made until it is destroyed, so a
token that is shared with others loses exactly the keys that this agent has made, and keeps none of them for
ever.  A key is destroyed only after the SVID of its successor was stored.  A key for which the server gave no SVID
serves the next attempt: a server that is away for long must not fill the token.
"""

from datetime import datetime
from typing import Final
from uuid import uuid4

import structlog
from cryptography import x509

from agent.csr import make_csr
from agent.state import StateFile
from keymanagers.base import Key, KeyId, KeyManager, KeyType
from keymanagers.software import plain_key
from spiffe_core.errors import KeyNotFound, SpiffeError
from spiffe_core.runtime.lanes import Lanes
from spiffe_core.runtime.tls import HardwareIdentity, TlsIdentity
from spiffe_core.x509svid import Chain

KEY_TYPE: Final = KeyType.EC_P256
"""The type of every agent's key (SPIRE's)."""

log: Final = structlog.get_logger()


class OwnKeys:
    """The keys of one agent, in a key manager that may hold others."""

    def __init__(self, *, keys: KeyManager, lanes: Lanes, state: StateFile) -> None:
        self._keys = keys
        self._lanes = lanes
        self._state = state
        self._unused: Key | None = None

    async def make(self, now: datetime) -> tuple[Key, bytes]:
        """A new key and a CSR for it; the key that was made last, if that has not been put to use.

        Raises:
            KeyManagerUnavailable: if it cannot be made.
        """
        key, self._unused = self._unused, None
        if key is None:
            key_id = KeyId(f"agent-svid-{now:%Y%m%dT%H%M%S}-{uuid4().hex[:12]}")
            await self._state.change(key_ids=(*self._state.state.key_ids, key_id))
            key = await self._lanes.run(lambda: self._keys.generate(key_id, KEY_TYPE))
        csr = await self._lanes.run(lambda: make_csr(key.private))
        self._unused = key
        return key, csr

    async def find(self, leaf: x509.Certificate) -> Key | None:
        """The key of a certificate, or None if the key manager does not show it.

        Raises:
            KeyManagerUnavailable: if the key manager does not answer.
        """
        public = leaf.public_key()
        shown = await self._lanes.run(self._keys.keys)
        return next((key for key in shown if key.public == public), None)

    async def keep_only(self, current: Key) -> None:
        """Destroy the keys that the state names, but for the one that is in use; what fails is tried again later."""
        self._unused = None
        for key_id in self._state.state.key_ids:
            if key_id == current.id:
                continue
            try:
                await self._lanes.run(lambda key_id=key_id: self._keys.retire(key_id))  # type: ignore[misc]
            except KeyNotFound:
                pass  # it never came to be, or was kept in memory only
            except SpiffeError as exc:
                log.warning("Could not destroy a former key of the agent", key_id=key_id, error=str(exc))
                continue
            await self._state.change(key_ids=tuple(one for one in self._state.state.key_ids if one != key_id))

    async def adopt(self, key: Key) -> None:
        """Let the state name a key that another agent's program has made for the SVID that it left."""
        if key.id not in self._state.state.key_ids:
            await self._state.change(key_ids=(*self._state.state.key_ids, key.id))


def identity_of(chain: Chain, key: Key) -> TlsIdentity | HardwareIdentity:
    """What the agent presents to its server: with the key itself where it is in memory, else with its signatures."""
    plain = plain_key(key.private)
    return TlsIdentity(chain, plain) if plain is not None else HardwareIdentity(chain, key.private)
