"""What a server holds open: the database, the key manager, and the plugins that are other programs.

They are opened in this order and closed in the reverse one; both may block.  Of a server that cannot open one of them
none is left open.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from hsm_ca.upstream import Upstream
from keymanagers.base import KeyManager
from server.config import ServerConfig
from server.datastore.config import SqlConfig
from server.datastore.store import Datastore
from server.node_attestors.base import NodeAttestor
from server.plugins import ServerPlugins
from server.trust import TrustStore
from server.upstream_authorities.disk import DiskUpstream, DiskUpstreamConfig
from spiffe_core.bundle import X509Authority
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Resources:
    """All of it, and what is known only with it."""

    metrics: Metrics
    datastore: Datastore
    trust: TrustStore
    keys: KeyManager
    upstream: Upstream | None
    node_attestors: Mapping[str, NodeAttestor]
    """Those that are plugins outside this process, by name."""
    plugins: ServerPlugins
    _undo: ExitStack = field(repr=False)

    @classmethod
    def open(cls, config: ServerConfig, clock: Clock) -> "Resources":
        """Open everything.

        Raises:
            SpiffeError: if something cannot be used.
        """
        metrics = Metrics(config.telemetry.metric_prefix or "spire_server")
        with ExitStack() as undo:
            datastore = Datastore.open(config.datastore.load_data().read(SqlConfig), clock)
            undo.callback(datastore.close)
            trust = TrustStore(config.trust_domain, datastore.bundles)
            plugins = ServerPlugins(config, metrics)
            undo.callback(plugins.close)
            keys = plugins.key_manager()
            undo.callback(keys.close)

            def publish(roots: Sequence[bytes]) -> None:
                trust.publish([X509Authority(der) for der in roots], [])

            upstream = plugins.upstream(publish) or _built_in_upstream(config)
            return cls(
                metrics=metrics,
                datastore=datastore,
                trust=trust,
                keys=keys,
                upstream=upstream,
                node_attestors=plugins.node_attestors(),
                plugins=plugins,
                _undo=undo.pop_all(),
            )

    def close(self) -> None:
        """Let go of everything."""
        self._undo.close()


def _built_in_upstream(config: ServerConfig) -> Upstream | None:
    plugin = config.upstream_authority
    return DiskUpstream(plugin.load_data().read(DiskUpstreamConfig), config.trust_domain) if plugin else None
