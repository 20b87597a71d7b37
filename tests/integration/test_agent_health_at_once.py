"""An agent's health is known when it begins to serve, not a round of checks later."""

import asyncio
import contextlib

from agent.app import _live
from agent.parts import Parts
from spiffe_core.runtime.levels import Level, LevelSwitch
from tests.support.agent_core import core_config, join_token
from tests.support.servers import serving


async def test_an_agent_is_healthy_as_soon_as_it_serves(tmp_path):
    async with serving() as served:
        config = core_config(served, tmp_path, f'join_token = "{await join_token(served)}"')
        # Nobody moves this clock: the round of checks that comes with the beginning is the only one by itself.
        parts = await Parts.open(config, LevelSwitch(Level.INFO), served.clock)
        living = asyncio.ensure_future(_live(config, parts))
        try:
            async with asyncio.timeout(30):
                while not parts.health.is_ready():
                    assert not living.done(), living.result()
                    await asyncio.sleep(0.01)
            assert config.socket_path.is_socket()
        finally:
            living.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await living
            await parts.close()
