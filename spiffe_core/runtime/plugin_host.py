"""An external plugin as this process runs it: started, configured, and started again when it ends.

SPIRE leaves a plugin that died dead.  Here a thread looks after each: it starts the program, configures it, and when
the process ends it waits a little, verifies the checksum anew, starts and configures it again.  Until then calls are
refused as Unavailable.  At the first start whatever goes wrong is the configuration's fault and ends the process.

``check`` may refuse a run that came up *again*, before any call is made in it: a key manager compares public keys.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha512
from typing import Final, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from spiffe_core.api.services import Method, service_in
from spiffe_core.api.spire.service.common.config.v1 import config_pb2
from spiffe_core.errors import InvalidConfig, SpiffeError, Unavailable
from spiffe_core.runtime.calls import Calls, error_class, rpc_in
from spiffe_core.runtime.gotext import quote
from spiffe_core.runtime.plugin_host_process import PluginProcess
from spiffe_core.runtime.plugin_host_program import Program
from spiffe_core.runtime.plugin_host_services import HostService
from spiffe_core.runtime.plugins import Plugin
from spiffe_core.runtime.tasks import Backoff

M = TypeVar("M", bound=Message)

CONFIGURE_TIMEOUT: Final = 60.0
_CLOSE_TIMEOUT: Final = 10.0
"""Seconds after which a plugin that is just being started is left to the end of this process, which is its own."""
_LONG_LIFE: Final = 60.0
"""Seconds after which a plugin that ends is no more in a row with those before."""
_BACKOFF: Final = Backoff(first=0.5, longest=30.0, factor=2.0)
_CONFIG: Final = service_in(config_pb2.DESCRIPTOR).full_name
_CONFIGURE: Final = rpc_in(config_pb2.DESCRIPTOR, "Configure")

log: Final = structlog.get_logger()


class ExternalPlugin:
    """One plugin outside this process.  Thread-safe."""

    def __init__(
        self,
        plugin: Plugin,
        *,
        service: str,
        trust_domain: str,
        host_services: tuple[HostService, ...] = (),
        backoff: Backoff = _BACKOFF,
    ) -> None:
        """Start it; ``service`` is the full name of the service that it must have.

        Raises:
            InvalidConfig: if it cannot be started, is none of its type, or refuses its configuration.
            Unavailable: if it cannot be configured now, as it says itself.
        """
        self.name = plugin.name
        self._plugin = plugin
        self._service = service
        self._trust_domain = trust_domain
        self._host_services = host_services
        self._backoff = backoff
        self._log = log.bind(plugin_name=plugin.name, plugin_type=plugin.type, external=True)
        self.check: Callable[[PluginProcess], None] = lambda _: None
        self._prefix = f"{plugin.type.lower()}({plugin.name})"
        try:
            self._program = Program(plugin.program, plugin.args, plugin.checksum)
        except InvalidConfig as exc:
            raise InvalidConfig(f"plugins.{plugin.title}: {exc}") from exc
        if not plugin.checksum:
            self._log.warning("Plugin checksum not configured")
        self._configured = ""
        self._lock = threading.Lock()
        self._running: PluginProcess | None = None
        self._refusal: SpiffeError | None = None
        self._settled = threading.Event()
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name=f"plugin {plugin.name}", daemon=True)
        self._keeper.start()
        self._settled.wait()
        if self._refusal is not None:
            self._keeper.join()
            kind = Unavailable if isinstance(self._refusal, Unavailable) else InvalidConfig
            raise kind(f"plugins.{plugin.title}: {self._refusal}") from self._refusal

    @property
    def running(self) -> PluginProcess:
        """The run that takes calls now.

        Raises:
            Unavailable: if there is none, because the plugin has ended and is not up again yet.
        """
        running = self._running
        if running is None:
            raise Unavailable(f"{self._prefix}: the plugin does not run; it is being started again")
        return running

    def call(self, method: Method, request: Message, answer: type[M], timeout: float) -> M:
        """Ask the plugin and wait for its answer.

        Raises:
            SpiffeError: what the plugin says, behind its type and name.
        """
        try:
            return self.running.call(method, request, answer, timeout)
        except grpc.RpcError as exc:
            raise self.error(exc) from None

    def error(self, failure: grpc.RpcError) -> SpiffeError:
        """What a failed call means."""
        return error_class(failure.code())(f"{self._prefix}: {failure.details()}")

    def calls(self, timeout: float) -> Calls:
        """Calls from an event loop, which belong to that loop."""
        return Calls(_Channels(self).get, timeout=timeout, failure=self._told)

    def restart(self, why: str) -> None:
        """Kill the plugin, which hangs; it is started again."""
        running = self._running
        if running is not None:
            self._log.error("Plugin hangs and is killed", reason=why)
            running.kill()

    @property
    def reconfigurable(self) -> bool:
        """Whether its data are in a file, which is read again."""
        return self._plugin.data_file is not None

    def reconfigure(self) -> None:
        """Read ``plugin_data_file`` again, and configure the plugin if it has changed; a failure is logged."""
        try:
            text = self._plugin.data_text()
            if text == self._configured:
                self._log.info("Plugin not reconfigured since the config is unchanged", hash=_hash(text))
                return
            self._configure(self.running, text)
        except SpiffeError as exc:
            self._log.error("Failed to reconfigure plugin", error=str(exc))
            return
        self._log.info("Plugin reconfigured", old_hash=_hash(self._configured), new_hash=_hash(text))
        self._configured = text

    def close(self) -> None:
        """End the plugin; it is not started again."""
        self._closing.set()
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.part()
        self._keeper.join(_CLOSE_TIMEOUT)

    def _told(self, error: SpiffeError) -> SpiffeError:
        text = str(error).partition(" desc = ")
        return type(error)(f"{self._prefix}: {text[2] or text[0]}")

    def _keep(self) -> None:
        """The thread that the plugin lives in: it starts the process, whose life hangs on this thread's."""
        failures = 0
        while not self._closing.is_set():
            try:
                process = self._bring_up(again=self._settled.is_set())
            except SpiffeError as exc:
                if not self._settled.is_set():
                    self._refusal = exc
                    self._settled.set()
                    return
                failures += 1
                self._log.error("Failed to start the plugin again", error=str(exc), failures=failures)
            else:
                began = time.monotonic()
                code = self._live(process)
                failures = 1 if time.monotonic() - began > _LONG_LIFE else failures + 1
                if not self._closing.is_set():
                    self._log.error("Plugin ended and is started again", exit_code=code)
            self._closing.wait(self._backoff.pause(failures))

    def _live(self, process: PluginProcess) -> int:
        """Let calls be made until the process ends, and return its exit code."""
        with self._lock:
            if not self._closing.is_set():
                self._running = process
        self._log.info("Plugin loaded", pid=process.pid)
        self._settled.set()
        if self._running is None:
            process.part()
        code = process.wait()
        with self._lock:
            self._running = None
        process.close()
        return code

    def _bring_up(self, *, again: bool) -> PluginProcess:
        text = self._plugin.data_text()
        with ExitStack() as undo:
            try:
                process = PluginProcess(self._program, self._plugin.type, self.name, self._host_services)
                undo.callback(process.close)
                self._bind(process, text)
                if again:
                    self.check(process)
            except SpiffeError:
                raise
            except grpc.RpcError as exc:
                raise Unavailable(f"failed to launch plugin: {self.error(exc)}") from exc
            except Exception as exc:
                # No memory, no process, no room for a socket's path: this thread must not end without a word.
                raise Unavailable(f"failed to launch plugin: {type(exc).__name__}: {exc}") from exc
            undo.pop_all()
        self._configured = text
        return process

    def _bind(self, process: PluginProcess, text: str) -> None:
        """Configure the plugin if it can be, and is what is wanted."""
        name = quote(self.name)
        if self._service not in process.service_names:
            found = sorted(process.service_names)
            raise InvalidConfig(f"failed to bind plugin {name}: no supported plugin interface found in: {found}")
        if _CONFIG in process.service_names:
            self._configure(process, text)
        elif text:
            raise InvalidConfig(f"failed to configure plugin {name}: no supported configuration interface found")

    def _configure(self, process: PluginProcess, text: str) -> None:
        request = config_pb2.ConfigureRequest(
            core_configuration=config_pb2.CoreConfiguration(trust_domain=self._trust_domain), hcl_configuration=text
        )
        try:
            process.call(_CONFIGURE, request, config_pb2.ConfigureResponse, CONFIGURE_TIMEOUT)
        except grpc.RpcError as exc:
            error = self.error(exc)
            kind = Unavailable if isinstance(error, Unavailable) else InvalidConfig
            raise kind(f"failed to configure plugin {quote(self.name)}: {error}") from exc


class _Channels:
    """The channel of an event loop to whichever run takes calls."""

    def __init__(self, plugin: ExternalPlugin) -> None:
        self._plugin = plugin
        self._pid = 0
        self._channel: grpc.aio.Channel | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> grpc.aio.Channel:
        """The channel now.

        Raises:
            Unavailable: if the plugin does not run.
        """
        running = self._plugin.running
        async with self._lock:
            if self._channel is None or self._pid != running.pid:
                if self._channel is not None:
                    await self._channel.close()
                self._channel, self._pid = grpc.aio.insecure_channel(running.address.target), running.pid
            return self._channel


def _hash(text: str) -> str:
    return sha512(text.encode()).hexdigest()[:32]
