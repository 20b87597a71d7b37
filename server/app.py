"""The server: what it is made of, and in which order its parts begin and end.

This is the only place that names concrete classes; everything below takes protocols.  A server of one process
runs here; one of several begins in ``server.workers``, of which each runs here.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from typing import Final

import structlog
import uvloop

from server.authority_group import MANY_PROCESSES
from server.bundle_file import BundleFile
from server.config import ServerConfig
from server.parts import Parts
from server.rate_limits import RateLimits
from server.registry import REFRESH_EVERY
from server.server_svid import CHECK_EVERY as SVID_CHECK_EVERY
from server.shared import Shared, check_alone, listen_locally
from server.upkeep import AGENTS_EVERY, ENTRIES_EVERY, JOURNALS_EVERY
from server.workers import supervise
from spiffe_core.errors import InvalidConfig, SpiffeError, Unavailable
from spiffe_core.runtime import log as logging
from spiffe_core.runtime.health import CHECK_EVERY, HealthListener
from spiffe_core.runtime.levels import SharedLevelSwitch
from spiffe_core.runtime.tasks import Backoff, every, in_background

log: Final = structlog.get_logger()

GRACE: Final = 5.0
"""Seconds that open calls have to end when the server stops."""
_TICK_EVERY: Final = 1.0
"""Seconds between two looks at what is due for the authorities."""
_BUNDLE_FILE_EVERY: Final = 1.0
"""Seconds between two looks at whether the bundle file is current."""


def run(config: ServerConfig) -> int:
    """Run a server until it is told to stop; the process's exit code.

    It is 78 (EX_CONFIG) for what does not mend by itself, so that who starts servers again can leave this one down:
    a wrong PIN that is tried again and again locks the token.
    """
    try:
        level = SharedLevelSwitch(config.log_level)
        logging.configure(
            level=level, format=config.log_format, file=config.log_file, source_location=config.log_source_location
        )
        for warning in config.warnings:
            log.warning("Configuration needs attention", detail=warning)
        config.data_dir.mkdir(parents=True, exist_ok=True)
        check_alone(config)
        if config.workers > 1:
            _check_shareable(config)
            return supervise(config, level)
        with ExitStack() as resources:
            limits = RateLimits()
            resources.callback(limits.close)
            serve(config, Shared(local=listen_locally(config), rate_limits=limits, level=level))
    except (SpiffeError, OSError) as exc:
        log.error("Server failed", error=str(exc))  # noqa: TRY400  the text says what is wrong and what to do
        return os.EX_CONFIG if isinstance(exc, InvalidConfig) else 1
    return 0


def serve(config: ServerConfig, shared: Shared, ready: Callable[[], None] = lambda: None) -> None:
    """Serve in this process until SIGINT or SIGTERM.

    Raises:
        SpiffeError: if the server cannot start.
    """
    uvloop.run(_serve(config, shared, ready))


async def _serve(config: ServerConfig, shared: Shared, ready: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if shared.alive is not None:
        loop.add_reader(shared.alive, stop.set)
    loop.add_signal_handler(signal.SIGUSR2, logging.process_log.reopen)
    loop.add_signal_handler(signal.SIGUSR1, lambda: log.info("Plugins are still being started"))
    parts = await Parts.open(config, shared)
    loop.add_signal_handler(signal.SIGUSR1, in_background(parts.reconfigure_plugins))
    bundle_file = BundleFile(config.bundle_path, parts.trust) if config.bundle_path else None
    listener = None
    try:
        await _bring_up(parts, stop)
        if stop.is_set():
            return
        if bundle_file is not None:
            await bundle_file.follow()
        await parts.endpoints.start(shared)
        if shared.workers == 1:
            listener = _listen_for_probes(config, parts)
        ready()
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(coroutine) for coroutine in _loops(parts, bundle_file)]
            await stop.wait()
            log.info("Server is stopping")
            for task in running:
                task.cancel()
    finally:
        if listener is not None:
            listener.close()
        await parts.endpoints.stop(GRACE)
        await parts.close()
    log.info("Server stopped")


def _listen_for_probes(config: ServerConfig, parts: Parts) -> HealthListener | None:
    """Serve metrics and health over HTTP; of several workers, the supervisor does it."""
    if config.telemetry.prometheus is not None:
        parts.metrics.serve(config.telemetry.prometheus.host, config.telemetry.prometheus.port)
    return HealthListener(config.health_checks, parts.health) if config.health_checks.listener_enabled else None


async def _bring_up(parts: Parts, stop: asyncio.Event) -> None:
    """Wait until authorities can sign, and get the server its own SVID.

    What is wrong with the configuration ends the server; a device, database or upstream that does not answer is
    waited for, since it may be starting too.
    """
    await parts.check_trust_domain()
    await parts.start_authorities()
    told = ""
    while not stop.is_set():
        try:
            await parts.tick_authorities()
        except Unavailable as exc:
            if str(exc) != told:
                log.warning("Authorities are not ready yet", error=str(exc))
            told = str(exc)
        if parts.authorities_ready():
            break
        await parts.clock.sleep(_TICK_EVERY / 4)
    if not stop.is_set():
        await parts.registry.refresh()
        await parts.svid.rotate_if_due()


def _loops(parts: Parts, bundle_file: BundleFile | None) -> list[Coroutine[None, None, None]]:
    """What goes on beside the API."""
    patient = Backoff(first=1.0, longest=30.0)
    every_so_often = partial(every, clock=parts.clock, backoff=patient)
    upkeep = parts.upkeep
    loops = [
        every(_TICK_EVERY, parts.tick_authorities, clock=parts.clock, name="authorities"),
        every(REFRESH_EVERY, parts.registry.refresh, clock=parts.clock, name="registry"),
        every_so_often(SVID_CHECK_EVERY, parts.svid.rotate_if_due, name="server SVID"),
        every(CHECK_EVERY, parts.health.check, clock=parts.clock, name="health"),
        every_so_often(ENTRIES_EVERY, upkeep.entries_and_tokens, name="pruning of entries"),
        every_so_often(AGENTS_EVERY, upkeep.agents_and_changes, name="pruning of agents"),
        every_so_often(JOURNALS_EVERY, upkeep.journals, name="pruning of journals"),
    ]
    if bundle_file is not None:
        loops.append(every_so_often(_BUNDLE_FILE_EVERY, bundle_file.follow, name="bundle file"))
    return loops


def _check_shareable(config: ServerConfig) -> None:
    """Raise unless several processes can use this server's keys."""
    manager = config.key_manager
    if manager.cmd or manager.name not in MANY_PROCESSES:
        kind = f"external {manager.title}" if manager.cmd else manager.title
        raise InvalidConfig(
            f"server.workers: {config.workers} processes cannot share {kind}: "
            f"use {' or '.join(sorted(MANY_PROCESSES))}, or one worker"
        )
