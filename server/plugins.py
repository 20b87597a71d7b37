"""The external plugins of a server process: the programs that its configuration names, started and ended together.

A server that cannot start one of them does not start.  SIGUSR1 has each read its ``plugin_data_file`` again.
"""

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from keymanagers.base import KeyManager
from keymanagers.external import ExternalKeyManager
from keymanagers.registry import open_key_manager
from server.config import ServerConfig
from server.node_attestors.external import SERVICE as NODE_ATTESTOR
from server.node_attestors.external import ExternalNodeAttestor
from server.plugin_services import PluginServices
from server.upstream_authorities.external import SERVICE as UPSTREAM_AUTHORITY
from server.upstream_authorities.external import ExternalUpstream
from spiffe_core.api.spire.plugin.server.keymanager.v1 import keymanager_pb2
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.plugin_host import ExternalPlugin
from spiffe_core.runtime.plugin_host_keys import PluginKeys, service_name
from spiffe_core.runtime.plugins import Plugin

log: Final = structlog.get_logger()


class ServerPlugins:
    """Starts plugins, and knows those that run."""

    def __init__(self, config: ServerConfig, metrics: Metrics) -> None:
        self._config = config
        self._running: list[ExternalPlugin] = []
        self.services: Final = PluginServices(metrics)

    def key_manager(self) -> KeyManager:
        """Open the key manager, built in or external.  May block.

        Raises:
            InvalidConfig: if it cannot be used as it is configured.
            KeyManagerUnavailable: if the place where its keys live does not answer.
        """
        plugin = self._config.key_manager
        if not plugin.cmd:
            return open_key_manager(plugin.name, plugin.load_data(), authority_group=self._config.trust_domain.name)
        places = PluginKeys(self._start(plugin, service_name(keymanager_pb2)), keymanager_pb2)
        try:
            keys = ExternalKeyManager(places, self._config.data_dir / f"keymanager-{plugin.file_name}.json")
        except BaseException:
            places.close()
            raise
        places.on_restart(keys.compare)
        return keys

    def node_attestors(self) -> dict[str, ExternalNodeAttestor]:
        """Start the external node attestors; they go by their names.  May block.

        Raises:
            InvalidConfig: if one cannot be started as it is configured.
        """
        return {
            plugin.name: ExternalNodeAttestor(self._start(plugin, NODE_ATTESTOR))
            for plugin in self._config.plugins_of("NodeAttestor")
            if plugin.cmd
        }

    def upstream(self, publish: Callable[[Sequence[bytes]], None]) -> ExternalUpstream | None:
        """Start the external upstream authority, if there is one.  May block.

        ``publish`` is told of each new state of its roots, DER, in a thread.

        Raises:
            InvalidConfig: if it cannot be started as it is configured.
        """
        plugin = self._config.upstream_authority
        if plugin is None or not plugin.cmd:
            return None
        return ExternalUpstream(self._start(plugin, UPSTREAM_AUTHORITY), publish)

    def reconfigure(self) -> None:
        """Have each read its data again.  May block."""
        reconfigurable = [one for one in self._running if one.reconfigurable]
        if not reconfigurable:
            log.info("No plugin reads its configuration again; restart to change it")
        for one in reconfigurable:
            one.reconfigure()

    def close(self) -> None:
        """End them all.  May block."""
        while self._running:
            self._running.pop().close()

    def _start(self, plugin: Plugin, service: str) -> ExternalPlugin:
        started = ExternalPlugin(
            plugin,
            service=service,
            trust_domain=self._config.trust_domain.name,
            host_services=self.services.all,
        )
        self._running.append(started)
        return started
