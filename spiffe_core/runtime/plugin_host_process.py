"""One run of an external plugin: its process, the connection to it, and the end of both.

From the start of the program to the moment when it is configured, and back: each step is one that SPIRE's hosts make
too (go-plugin's protocol, version 1, with gRPC; no TLS on the Unix socket; the host's services by way of the broker).
"""

import os
import queue
import shutil
import subprocess
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
import structlog
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from spiffe_core.api.goplugin import grpc_broker_pb2, grpc_controller_pb2, grpc_stdio_pb2
from spiffe_core.api.services import Method
from spiffe_core.api.spire.service.private.init.v1 import init_pb2
from spiffe_core.runtime.calls import rpc_in
from spiffe_core.runtime.plugin_host_output import Address, PluginOutput
from spiffe_core.runtime.plugin_host_program import Program
from spiffe_core.runtime.plugin_host_services import HostServer, HostService

M = TypeVar("M", bound=Message)

START_TIMEOUT: Final = 60.0
"""Seconds that a plugin has to say where it listens (go-plugin's)."""
_INIT_TIMEOUT: Final = 30.0
_DEINIT_TIMEOUT: Final = 10.0
_EXIT_TIMEOUT: Final = 2.0
"""Seconds that a plugin has to end by itself (go-plugin's)."""
_HOST_SERVICES_ID: Final = 1
"""The broker's number of the connection to SPIRE's host services."""
_INIT, _DEINIT = (rpc_in(init_pb2.DESCRIPTOR, name) for name in ("Init", "Deinit"))
_SHUTDOWN = rpc_in(grpc_controller_pb2.DESCRIPTOR, "Shutdown")
_ANNOUNCE = rpc_in(grpc_broker_pb2.DESCRIPTOR, "StartStream")
_STDIO = rpc_in(grpc_stdio_pb2.DESCRIPTOR, "StreamStdio")

log: Final = structlog.get_logger()


class PluginProcess:
    """A plugin that runs.  Its calls may be made from any thread."""

    def __init__(self, program: Program, kind: str, name: str, services: tuple[HostService, ...]) -> None:
        """Start it and agree with it on what is served.

        Raises:
            InvalidConfig: if the program is not the one that is meant, or no plugin.
            grpc.RpcError: if it does not do what plugins do.
        """
        self._fields = {"plugin_name": name, "plugin_type": kind}
        with ExitStack() as undo:
            folder = Path(tempfile.mkdtemp(prefix="steeple-"))
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            self._process = program.start(_environment(kind, folder))
            undo.callback(self._end)
            assert self._process.stdout is not None
            assert self._process.stderr is not None
            output = PluginOutput(self._process.stdout, self._process.stderr, self._fields)
            undo.callback(output.drain)
            undo.callback(self.kill)
            self.address: Address = output.address(START_TIMEOUT)
            self._channel = grpc.insecure_channel(
                self.address.target, options=[("grpc.max_receive_message_length", -1)]
            )
            undo.callback(self._channel.close)
            host = HostServer(services, folder / "host.sock", name)
            undo.callback(host.close)
            self._announced: queue.SimpleQueue[grpc_broker_pb2.ConnInfo | None] = queue.SimpleQueue()
            self._announced.put(
                grpc_broker_pb2.ConnInfo(service_id=_HOST_SERVICES_ID, network="unix", address=str(host.path))
            )
            undo.callback(self._announced.put, None)
            self._announce()
            self._follow(self.stream(_STDIO, Empty(), grpc_stdio_pb2.StdioData), "output")
            names = self.call(
                _INIT,
                init_pb2.InitRequest(host_service_names=[one.name for one in services]),
                init_pb2.InitResponse,
                _INIT_TIMEOUT,
            ).plugin_service_names
            self.service_names = frozenset(names)
            self._undo = undo.pop_all()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def call(self, method: Method, request: Message, answer: type[M], timeout: float) -> M:
        """Ask and wait for the answer.

        Raises:
            grpc.RpcError: what the call failed with.
        """
        ask = self._channel.unary_unary(
            method.path, request_serializer=_serialize, response_deserializer=answer.FromString
        )
        response: M = ask(request, timeout=timeout)
        return response

    def stream(self, method: Method, request: Message, answer: type[M]) -> Any:  # noqa: ANN401  an iterator that can be cancelled
        """Ask, and iterate over the answers; they go on until the plugin ends them, or ``cancel`` does."""
        ask = self._channel.unary_stream(
            method.path, request_serializer=_serialize, response_deserializer=answer.FromString
        )
        return ask(request)

    def wait(self) -> int:
        """Wait for the process's end, and return its exit code."""
        return self._process.wait()

    def kill(self) -> None:
        """End the process now."""
        self._process.kill()

    def part(self) -> None:
        """Ask the plugin to end, and kill it if it does not; ``close`` is for afterwards."""
        with suppress(grpc.RpcError):
            self.call(_DEINIT, init_pb2.DeinitRequest(), init_pb2.DeinitResponse, _DEINIT_TIMEOUT)
        with suppress(grpc.RpcError):
            self.call(_SHUTDOWN, grpc_controller_pb2.Empty(), grpc_controller_pb2.Empty, _EXIT_TIMEOUT)
        try:
            self._process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            log.warning("Plugin did not end by itself and was killed", **self._fields)
            self.kill()

    def close(self) -> None:
        """Let go of everything; a process that still runs is killed."""
        self._undo.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _announce(self) -> None:
        """Tell the plugin by the broker's stream what was announced; what it announces itself is not asked for."""
        announce: Any = self._channel.stream_stream(
            _ANNOUNCE.path,
            request_serializer=_serialize,
            response_deserializer=grpc_broker_pb2.ConnInfo.FromString,
        )
        self._follow(announce(iter(self._announced.get, None)), "announcement")

    def _follow(self, answers: Any, what: str) -> None:  # noqa: ANN401  an iterator that can be cancelled
        """Log what comes by a stream of go-plugin's own, in a thread, until it ends; plugins need not have it."""

        def read() -> None:
            with suppress(grpc.RpcError):
                for answer in answers:
                    log.debug("Plugin sent something", what=what, content=str(answer).strip(), **self._fields)

        threading.Thread(target=read, name=f"plugin {what}", daemon=True).start()


def _environment(kind: str, folder: Path) -> dict[str, str]:
    """The host's environment, and what tells the plugin that a host has started it."""
    return {
        **os.environ,
        kind: kind,
        "PLUGIN_MIN_PORT": "10000",
        "PLUGIN_MAX_PORT": "25000",
        "PLUGIN_PROTOCOL_VERSIONS": "1",
        "PLUGIN_UNIX_SOCKET_DIR": str(folder),
    }


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
