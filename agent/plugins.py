"""The external plugins of an agent process: the programs that its configuration names, started and ended together.

An agent that cannot start one of them does not start.  SIGUSR1 has each read its ``plugin_data_file`` again.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from agent.config import AgentConfig
from agent.node_attestors.base import NodeAttestor
from agent.node_attestors.external import SERVICE as NODE_ATTESTOR
from agent.node_attestors.external import ExternalNodeAttestor
from agent.node_attestors.registry import open_node_attestor
from agent.workload_attestors.base import WorkloadAttestor
from agent.workload_attestors.external import SERVICE as WORKLOAD_ATTESTOR
from agent.workload_attestors.external import ExternalWorkloadAttestor
from agent.workload_attestors.registry import BUILT_IN as WORKLOAD_ATTESTORS
from keymanagers.base import KeyManager
from keymanagers.external import ExternalKeyManager
from keymanagers.registry import open_key_manager
from spiffe_core.api.spire.plugin.agent.keymanager.v1 import keymanager_pb2
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.plugin_host import ExternalPlugin
from spiffe_core.runtime.plugin_host_keys import PluginKeys, service_name
from spiffe_core.runtime.plugin_host_metrics import PluginMetrics
from spiffe_core.runtime.plugins import Plugin

log: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AgentPlugins:
    """The plugins of an agent, built in and external."""

    keys: KeyManager
    node_attestor: NodeAttestor
    workload_attestors: Sequence[Callable[[], WorkloadAttestor]]
    """What makes each, for the event loop that it is to live on."""
    _running: Sequence[ExternalPlugin]
    _undo: ExitStack = field(repr=False)

    @classmethod
    def open(cls, config: AgentConfig, metrics: Metrics) -> "AgentPlugins":
        """Open the key manager, and start the plugins that are other programs.  May block.

        Raises:
            SpiffeError: if one cannot be used as it is configured.
        """
        services = (PluginMetrics(metrics).service(),)
        running: list[ExternalPlugin] = []
        with ExitStack() as undo:

            def start(plugin: Plugin, service: str) -> ExternalPlugin:
                started = ExternalPlugin(
                    plugin, service=service, trust_domain=config.trust_domain.name, host_services=services
                )
                undo.callback(started.close)
                running.append(started)
                return started

            keys = _key_manager(config, start)
            undo.callback(keys.close)
            return cls(
                keys=keys,
                node_attestor=_node_attestor(config, start),
                workload_attestors=[_workload_attestor(one, start) for one in config.plugins_of("WorkloadAttestor")],
                _running=running,
                _undo=undo.pop_all(),
            )

    def reconfigure(self) -> None:
        """Have each external plugin read its data again.  May block."""
        reconfigurable = [one for one in self._running if one.reconfigurable]
        if not reconfigurable:
            log.info("No plugin reads its configuration again; restart to change it")
        for one in reconfigurable:
            one.reconfigure()

    def close(self) -> None:
        """Let go of them all.  May block."""
        self._undo.close()


_Start = Callable[[Plugin, str], ExternalPlugin]


def _key_manager(config: AgentConfig, start: _Start) -> KeyManager:
    plugin = config.key_manager
    if not plugin.cmd:
        return open_key_manager(plugin.name, plugin.load_data(), authority_group=config.trust_domain.name)
    places = PluginKeys(start(plugin, service_name(keymanager_pb2)), keymanager_pb2)
    keys = ExternalKeyManager(places, config.data_dir / f"keymanager-{plugin.file_name}.json")
    places.on_restart(keys.compare)
    return keys


def _node_attestor(config: AgentConfig, start: _Start) -> NodeAttestor:
    """The node attestor; a join token, where one is given, counts whatever else is configured."""
    if config.join_token or not config.node_attestor.cmd:
        return open_node_attestor(config)
    return ExternalNodeAttestor(start(config.node_attestor, NODE_ATTESTOR))


def _workload_attestor(plugin: Plugin, start: _Start) -> Callable[[], WorkloadAttestor]:
    if not plugin.cmd:
        return lambda: WORKLOAD_ATTESTORS[plugin.name](plugin.load_data())
    return partial(ExternalWorkloadAttestor, start(plugin, WORKLOAD_ATTESTOR))
