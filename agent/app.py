"""The agent: in which order its parts begin and end.

First an identity, then a first look at what the server has for it, then the sockets: a workload that finds the
socket is not told that it has no identity while the agent has not asked yet.  The agent ends when it is told to,
or when it has lost its identity for good.  A data folder has one agent.
"""

import asyncio
import fcntl
import os
import signal
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from agent.config import AgentConfig
from agent.parts import Parts, Working
from spiffe_core.errors import InvalidConfig, SpiffeError, Unavailable
from spiffe_core.runtime import log as logging
from spiffe_core.runtime.gotext import os_error
from spiffe_core.runtime.health import CHECK_EVERY, HealthListener
from spiffe_core.runtime.levels import LevelSwitch
from spiffe_core.runtime.tasks import every, in_background

log: Final = structlog.get_logger()

GRACE: Final = 2.0
"""Seconds that open calls have to end when the agent stops."""


def run(config: AgentConfig) -> int:
    """Run an agent until it is told to stop, or must; the process's exit code.

    It is 78 (EX_CONFIG) for what does not mend by itself, so that who starts agents again can leave this one down:
    a wrong PIN that is tried again and again locks the token.
    """
    try:
        level = LevelSwitch(config.log_level)
        logging.configure(
            level=level, format=config.log_format, file=config.log_file, source_location=config.log_source_location
        )
        for warning in config.warnings:
            log.warning("Configuration needs attention", detail=warning)
        log.info("Starting agent", data_dir=str(config.data_dir), version=version("steeple"))
        _make_data_dir(config)
        with _alone_in(config.data_dir):
            uvloop.run(_main(config, level))
    except (SpiffeError, OSError) as exc:
        log.error("Agent crashed", error=str(exc))  # noqa: TRY400  the text says what is wrong and what to do
        return os.EX_CONFIG if isinstance(exc, InvalidConfig) else 1
    log.info("Agent stopped gracefully")
    return 0


async def _main(config: AgentConfig, level: LevelSwitch) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGUSR2, logging.process_log.reopen)
    loop.add_signal_handler(signal.SIGUSR1, lambda: log.info("Plugins are still being started"))
    parts = await Parts.open(config, level)
    loop.add_signal_handler(signal.SIGUSR1, in_background(parts.reconfigure_plugins))
    listener = None
    try:
        if config.telemetry.prometheus is not None:
            parts.metrics.serve(config.telemetry.prometheus.host, config.telemetry.prometheus.port)
        if config.health_checks.listener_enabled:
            listener = HealthListener(config.health_checks, parts.health)
        await _until(stop, _live(config, parts))
    finally:
        if listener is not None:
            listener.close()
        await parts.close()


async def _live(config: AgentConfig, parts: Parts) -> None:
    """All of an agent's life."""
    await _together(every(CHECK_EVERY, parts.health.check, clock=parts.clock, name="health"), _work(config, parts))


async def _work(config: AgentConfig, parts: Parts) -> None:
    credentials, bundle = await parts.bootstrap.run()
    parts.agent_health.attested()
    working = Working(config, parts, credentials, bundle)
    try:
        await working.sync.attempt()
        await working.endpoints.start()
        parts.agent_health.serving()
        await parts.health.check()  # who sees the sockets may ask at once
        await _together(working.sync.run(), working.fetcher.run(), working.svid.run())
    finally:
        await working.endpoints.stop(GRACE)
        await working.close()


async def _until(stop: asyncio.Event, life: Coroutine[Any, Any, None]) -> None:
    """Run until ``stop`` is set; what ends the life before is raised."""
    living, stopping = asyncio.ensure_future(life), asyncio.ensure_future(stop.wait())
    await asyncio.wait((living, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not living.done():
        log.info("Agent is stopping")
        living.cancel()
    try:
        await living
    except asyncio.CancelledError:
        return


async def _together(*loops: Awaitable[None]) -> None:
    """Run loops that never end; the error that ends one ends them all, and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in loops]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _make_data_dir(config: AgentConfig) -> None:
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise InvalidConfig(f"agent.data_dir: {os_error('mkdir', config.data_dir, exc)}") from exc


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep every other agent out of the folder inside the block.

    Two agents with one identity renew it in turn, until the server takes the one for an impostor of the other.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(
                f"agent.data_dir: another agent runs in {str(folder)!r}: stop it, or give this one a folder of its own"
            ) from None
        except OSError as exc:  # a file system that knows no locks
            log.warning("Data folder cannot be locked", data_dir=str(folder), error=exc.strerror)
        yield
    finally:
        os.close(descriptor)
