"""The key manager that the host has configured, and the lanes in which it is used.

A new configuration opens a new key manager before the old one is let go, so a bad one changes nothing.  A call that
the old one refuses because it was closed meanwhile is made again with the new one.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from keymanagers.base import KeyManager
from keymanagers.registry import BUILT_IN, SHARED, open_key_manager
from plugin.slots import KeySlots
from spiffe_core.errors import FailedPrecondition, InvalidConfig, InvalidInput, KeyManagerUnavailable
from spiffe_core.ids import TrustDomain
from spiffe_core.runtime.block import Block
from spiffe_core.runtime.lanes import Lanes

T = TypeVar("T")

DEADLINE: Final = 28.0
"""Seconds that a call may take: a little less than SPIRE waits, so that it is told which device did not answer."""

log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Open:
    keys: KeyManager
    slots: KeySlots


class KeyHolder:
    """One of our key managers, by its name, as its host configures it.  Lives on one event loop."""

    def __init__(self, name: str) -> None:
        """Take the name of a key manager.

        Raises:
            InvalidConfig: if there is none of that name.
        """
        if name not in BUILT_IN:
            raise InvalidConfig(f'there is no key manager "{name}"; there are {", ".join(sorted(BUILT_IN))}')
        self._name = name
        self._lanes = Lanes("the key manager", deadline=DEADLINE)
        self._configuring = asyncio.Lock()
        self._open: _Open | None = None

    async def configure(self, trust_domain: str, text: str) -> None:
        """Open the key manager that ``plugin_data`` describes, in place of the one that is open.

        Raises:
            InvalidConfig: if the data are wrong.
            KeyManagerUnavailable: if the place where the keys live does not answer.
        """
        data = self._check(trust_domain, text)
        async with self._configuring:
            fresh = await self._lanes.run(lambda: open_key_manager(self._name, data, authority_group=""))
            slots = KeySlots(fresh)
            try:
                shown = await self._lanes.run(slots.all)
            except BaseException:
                await self._lanes.run(fresh.close)
                raise
            former, self._open = self._open, _Open(fresh, slots)
            log.info("Key manager configured", key_manager=self._name, keys=len(shown))
            if former is not None:
                await self._lanes.run(former.keys.close)

    async def validate(self, trust_domain: str, text: str) -> None:
        """Raise unless ``plugin_data`` can be read; nothing that they name is opened.

        Raises:
            InvalidConfig: saying what is wrong.
        """
        self._check(trust_domain, text)

    async def run(self, work: Callable[[KeySlots], T]) -> T:
        """Do something with SPIRE's keys, in a lane.

        Raises:
            FailedPrecondition: if the host has not configured the plugin yet.
            SpiffeError: whatever the work itself raises.
        """
        used = self._current()
        try:
            return await self._lanes.run(lambda: work(used.slots))
        except KeyManagerUnavailable:
            fresh = self._current()
            if fresh is used:
                raise
            return await self._lanes.run(lambda: work(fresh.slots))

    async def close(self) -> None:
        """Let go of the device."""
        former, self._open = self._open, None
        try:
            if former is not None:
                await self._lanes.run(former.keys.close)
        finally:
            self._lanes.close()

    def _current(self) -> _Open:
        if self._open is None:
            raise FailedPrecondition("not configured")
        return self._open

    def _check(self, trust_domain: str, text: str) -> Block:
        """The data, if they may be used."""
        if not trust_domain:
            raise InvalidConfig("server core configuration must contain trust_domain")
        try:
            TrustDomain.parse(trust_domain)
        except InvalidInput as exc:
            raise InvalidConfig(f"server core configuration trust_domain is malformed: {exc}") from exc
        data = Block.parse(text)
        if self._name in SHARED and not any(item.key.lower() == "authority_group" for item in data.items):
            raise InvalidConfig(
                "authority_group must be configured: a name of this server or agent alone, by which its keys are told "
                "from those of others in the same token"
            )
        if self._name == "pkcs11":
            from keymanagers.pkcs11.config import Pkcs11Config  # noqa: PLC0415  lazy, as in the registry

            data.read(Pkcs11Config)
        return data
