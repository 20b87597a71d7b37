"""A server of several processes: the supervisor, which starts workers and starts again those that end.

The workers share the TCP port (``SO_REUSEPORT``), the private sockets, the rate limits and the log level; the
datastore and the key manager each opens for itself, in a fresh process: neither a Cryptoki module nor gRPC
survives a fork.  Each worker holds a pipe whose other end the supervisor keeps: when the supervisor dies, however
it dies, the workers see the end of the pipe and stop.

The first worker is awaited before the others begin, so that migrations and the first authority are settled once.

A worker that ends since its configuration is wrong stays down until the operator sends SIGUSR1: nothing mends by
itself, and a wrong PIN that each new process tries once more locks the token.
"""

import asyncio
import os
import pickle
import signal
import sys
import tempfile
import time
from dataclasses import replace
from typing import Final

import grpc
import structlog
from grpc_health.v1 import health_pb2
from prometheus_client import multiprocess

from server.config import ServerConfig
from server.rate_limits import RateLimits
from server.shared import listen_locally
from server.worker_protocol import Inheritance
from spiffe_core.errors import Unavailable
from spiffe_core.runtime import log as logging
from spiffe_core.runtime.clock import SystemClock
from spiffe_core.runtime.health import CHECK_EVERY, Health, HealthListener
from spiffe_core.runtime.levels import SharedLevelSwitch
from spiffe_core.runtime.metrics import MULTIPROCESS, Metrics
from spiffe_core.runtime.tasks import every

log: Final = structlog.get_logger()

_STOP_TIMEOUT: Final = 15.0
"""Seconds that workers have to end before they are killed."""
_PAUSE: Final = 1.0
"""Seconds between two starts of a worker that keeps ending."""
_CHECK_TIMEOUT: Final = 5.0
_FORWARDED: Final = (signal.SIGUSR1, signal.SIGUSR2)


def supervise(config: ServerConfig, level: SharedLevelSwitch) -> int:
    """Run a server of several workers until it is told to stop; the process's exit code.

    Raises:
        InvalidConfig: if a socket cannot be listened on.
    """
    with tempfile.TemporaryDirectory(prefix="steeple-metrics-") as metrics:
        os.environ[MULTIPROCESS] = metrics
        return asyncio.run(Supervisor(config, level).run())


class Supervisor:
    """Keeps the workers of one server running."""

    def __init__(self, config: ServerConfig, level: SharedLevelSwitch) -> None:
        self._config = config
        self._level = level
        self._limits = RateLimits()
        self._local = listen_locally(config)
        self._socket = config.socket_path.absolute()
        self._began = time.monotonic()
        # The writing end is never written to: it closes when this process ends.
        self._alive, self._lifeline = os.pipe()
        self._workers: dict[int, asyncio.subprocess.Process] = {}
        self._serving: set[int] = set()
        self._mended = asyncio.Event()
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Start the workers, keep them running, and stop them on SIGINT or SIGTERM; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        for number in _FORWARDED:
            loop.add_signal_handler(number, self._forward, number)
        if not await self._begin():
            first = self._workers.get(0)
            code = await first.wait() if first and not self._stopping.is_set() else 0
            await self._stop()
            return 0 if self._stopping.is_set() else code or 1
        health = Health({"server": self._check}, SystemClock())
        listener = (
            HealthListener(self._config.health_checks, health) if self._config.health_checks.listener_enabled else None
        )
        if self._config.telemetry.prometheus is not None:
            where = self._config.telemetry.prometheus
            Metrics(self._config.telemetry.metric_prefix or "spire_server").serve(where.host, where.port)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._keep(index)) for index in range(self._config.workers)]
            running.append(tasks.create_task(every(CHECK_EVERY, health.check, clock=SystemClock(), name="health")))
            await self._stopping.wait()
            for task in running:
                task.cancel()
        if listener is not None:
            listener.close()
        await self._stop()
        return 0

    async def _begin(self) -> bool:
        """Start every worker for the first time; whether the first serves and nobody said to stop meanwhile."""
        starting = asyncio.create_task(self._start_all())
        told = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():  # it may wait for a device, a database or another server
            starting.cancel()
            return False
        told.cancel()
        return starting.result()

    async def _start_all(self) -> bool:
        if not await self._start(0):
            return False
        # An order of this one start: a token that blinks when a worker is started again is waited for, as ever.
        self._config = replace(self._config, go_on_without_lost_keys=False)
        await asyncio.gather(*(self._start(index) for index in range(1, self._config.workers)))
        return True

    async def _keep(self, index: int) -> None:
        """Start a worker again whenever it ends."""
        while True:
            worker = self._workers.get(index)
            if worker is None:
                if not await self._start(index):
                    await asyncio.sleep(_PAUSE)
                continue
            code = await worker.wait()
            self._serving.discard(index)
            multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
            if code == os.EX_CONFIG:
                self._mended.clear()
                log.error("Worker stays down until what is wrong is corrected and SIGUSR1 sent", worker=index)
                await self._mended.wait()
            else:
                log.error("Worker ended and is started again", worker=index, pid=worker.pid, exit_code=code)
                await asyncio.sleep(_PAUSE)
            del self._workers[index]

    async def _start(self, index: int) -> bool:
        """Start a worker and wait until it serves or ends; whether it serves."""
        try:
            worker, ready = await self._launch(index)
        except OSError as exc:  # no memory, processes or descriptors are left, for now
            log.error("Worker cannot be started", worker=index, error=exc.strerror)  # noqa: TRY400  it says why
            return False
        serves = await asyncio.to_thread(os.read, ready, 1)
        os.close(ready)
        if serves:
            self._serving.add(index)
            log.info("Worker serves", worker=index, pid=worker.pid)
        return bool(serves)

    async def _launch(self, index: int) -> tuple[asyncio.subprocess.Process, int]:
        """Launch a worker: its process, and the end of a pipe on which it says that it serves.

        Raises:
            OSError: if the system has no room for it.
        """
        memory = os.memfd_create("steeple-worker", 0)
        try:
            ready, say_ready = os.pipe()
        except OSError:
            os.close(memory)
            raise
        inherited = Inheritance(
            config=self._config,
            local=tuple(listener.fileno() for listener in self._local),
            rate_limits=self._limits.descriptor,
            level=self._level.descriptor,
            began=self._began,
            alive=self._alive,
            ready=say_ready,
        )
        try:
            os.write(memory, pickle.dumps(inherited))
            os.lseek(memory, 0, os.SEEK_SET)
            worker = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "server.worker", str(memory), pass_fds=(memory, *inherited.descriptors)
            )
        except OSError:
            os.close(ready)
            raise
        finally:
            os.close(memory)
            os.close(say_ready)
        self._workers[index] = worker
        return worker, ready

    async def _check(self) -> None:
        """Whether all workers serve, and one of them answers."""
        serving = sum(worker.returncode is None for index, worker in self._workers.items() if index in self._serving)
        if serving < self._config.workers:
            raise Unavailable(f"{serving} of {self._config.workers} workers serve")
        async with grpc.aio.insecure_channel(f"unix:{self._socket}") as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answer = await check(health_pb2.HealthCheckRequest(), timeout=_CHECK_TIMEOUT)
            except grpc.aio.AioRpcError as exc:
                raise Unavailable(f"no worker answers: {exc.details()}") from exc
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise Unavailable("a worker says that it is not healthy; its log says why")

    def _forward(self, number: signal.Signals) -> None:
        if number == signal.SIGUSR2:
            logging.process_log.reopen()
        else:
            self._mended.set()
        for worker in self._workers.values():
            if worker.returncode is None:
                worker.send_signal(number)

    async def _stop(self) -> None:
        """End the workers, in time or by force."""
        running = [worker for worker in self._workers.values() if worker.returncode is None]
        for worker in running:
            worker.terminate()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await asyncio.gather(*(worker.wait() for worker in running))
        except TimeoutError:
            for worker in running:
                if worker.returncode is None:
                    log.warning("Worker did not stop and is killed", pid=worker.pid)
                    worker.kill()
            await asyncio.gather(*(worker.wait() for worker in running))
