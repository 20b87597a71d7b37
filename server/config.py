"""A server's configuration: SPIRE's file format and defaults, and a few keys of ours.

The dataclasses are the schema; what needs several keys at once is checked in ``load_server_config``.  Keys of
SPIRE's whose function is missing here are refused by name, or taken with a warning where nothing is lost.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Final

from hsm_ca.policy import DEFAULT_CA_TTL, DEFAULT_JWT_SVID_TTL, DEFAULT_X509_SVID_TTL, CaPolicy, CaSubject
from keymanagers.base import KeyType
from server.ttl_warnings import ttl_warnings
from spiffe_core.errors import InvalidConfig
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.config import Block, Plugin, PluginType, check_plugins, read_file, read_plugins
from spiffe_core.runtime.levels import Level
from spiffe_core.runtime.settings import (
    PROFILING,
    HealthChecks,
    LogFormat,
    Telemetry,
    check_port,
    check_positive,
)

DEFAULT_CONFIG_PATH: Final = Path("conf/server/server.conf")
DEFAULT_SOCKET_PATH: Final = Path("/tmp/spire-server/private/api.sock")  # noqa: S108  SPIRE's path

PLUGIN_TYPES: Final = (
    PluginType("DataStore", 1, 1, {"sql": "server.datastore.config:SqlConfig"}),
    PluginType(
        "KeyManager",
        1,
        1,
        {
            "memory": "keymanagers.memory:MemoryConfig",
            "disk": "keymanagers.disk:DiskConfig",
            "pkcs11": "keymanagers.pkcs11.config:Pkcs11Config",
        },
        external=True,
    ),
    PluginType("NodeAttestor", 0, 0, {"join_token": ""}, external=True),
    PluginType(
        "UpstreamAuthority", 0, 1, {"disk": "server.upstream_authorities.disk:DiskUpstreamConfig"}, external=True
    ),
    PluginType("Notifier", 0, 0, {}),
    PluginType("BundlePublisher", 0, 0, {}),
    PluginType("CredentialComposer", 0, 0, {}),
)
"""The plugin types of a server, and what is built in."""


@dataclass(frozen=True, kw_only=True)
class CaSubjectBlock:
    """The `ca_subject` block: the subject of CA certificates."""

    country: tuple[str, ...] = ()
    """Values of C."""
    organization: tuple[str, ...] = ()
    """Values of O."""
    common_name: str = ""
    """Value of CN."""


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """The `ratelimit` block: limits on callers over TCP, by IP address."""

    attestation: bool = True
    """One node attestation a second."""
    signing: bool = True
    """500 X.509 and 500 JWT signatures a second."""


@dataclass(frozen=True, kw_only=True)
class Experimental:
    """The `experimental` block."""

    agent_spiffe_id_as_selector: bool = False
    """Give every agent its own SPIFFE ID as a selector."""
    cache_reload_interval: timedelta = timedelta(seconds=5)
    """How often the caches of entries and agents follow the changes in the database."""
    full_cache_reload_interval: timedelta = timedelta(hours=24)
    """How often these caches are read anew in full; more than `cache_reload_interval`."""
    prune_events_older_than: timedelta = timedelta(hours=12)
    """Age at which records of changes are deleted from the database."""
    event_timeout: timedelta | None = None
    """How long a change that may still become visible is waited for; `15m` if it is not set."""
    sql_transaction_timeout: timedelta | None = field(
        default=None, metadata={"deprecated": "use experimental.event_timeout instead"}
    )
    """Former name of `event_timeout`."""

    NOT_SUPPORTED: ClassVar[Mapping[str, str]] = {
        "auth_opa_policy_engine": "authorization policies are not supported by this version",
        "require_pq_kem": "post-quantum key exchange cannot be required by this version",
        "feature_flags": "feature flags are not supported by this version",
        "named_pipe_name": "named_pipe_name is not supported in this platform; please use socket_path instead",
    }
    WITHOUT_EFFECT: ClassVar[Mapping[str, str]] = {
        "events_based_cache": "the caches always follow the changes in the database",
        "wit_key_type": "WIT-SVIDs are not supported by this version",
        "wit_issuer": "WIT-SVIDs are not supported by this version",
    }

    def __post_init__(self) -> None:
        for name in ("cache_reload_interval", "prune_events_older_than", "event_timeout", "sql_transaction_timeout"):
            check_positive(name, getattr(self, name))
        if self.event_timeout and self.sql_transaction_timeout:
            raise InvalidConfig("sql_transaction_timeout: event_timeout is set too; only set event_timeout")
        if self.full_cache_reload_interval <= self.cache_reload_interval:
            raise InvalidConfig("full_cache_reload_interval: must be greater than cache_reload_interval")

    @property
    def wait_for_events(self) -> timedelta:
        """How long a change that may still become visible is waited for."""
        return self.event_timeout or self.sql_transaction_timeout or timedelta(minutes=15)


@dataclass(frozen=True, kw_only=True)
class ServerBlock:
    """The `server` block."""

    trust_domain: TrustDomain
    """The trust domain of this server, `example.org` or `spiffe://example.org`."""
    data_dir: Path
    """Folder for what the server keeps."""
    bind_address: str = "0.0.0.0"  # noqa: S104  SPIRE's default
    """IP address or host name on which agents are served."""
    bind_port: int = 8081
    """TCP port on which agents are served."""
    socket_path: Path = DEFAULT_SOCKET_PATH
    """Unix socket on which the command line is served."""
    registration_uds_path: Path | None = field(
        default=None, metadata={"deprecated": "use socket_path instead; the API is served at both"}
    )
    """A second Unix socket with the same API, by the name that SPIRE had before 1.0."""
    admin_ids: tuple[SpiffeId, ...] = ()
    """SPIFFE IDs whose holders may use the whole API over TCP, of this trust domain or a federated one."""
    agent_ttl: timedelta | None = None
    """Lifetime of agent SVIDs; that of workloads' X509-SVIDs if it is not set."""
    audit_log_enabled: bool = False
    """Write one log line for each API call."""
    ca_key_type: KeyType = KeyType.EC_P256
    """Key type of the X.509 authorities: `ec-p256`, `ec-p384`, `rsa-2048` or `rsa-4096`."""
    ca_subject: CaSubjectBlock | None = None
    """Subject of CA certificates; `C=US, O=SPIFFE` if it is not set."""
    ca_ttl: timedelta = DEFAULT_CA_TTL
    """Lifetime of authorities."""
    default_x509_svid_ttl: timedelta | None = None
    """Lifetime of X509-SVIDs whose entry sets none; `1h` if it is not set."""
    default_svid_ttl: timedelta | None = field(
        default=None, metadata={"deprecated": "use default_x509_svid_ttl instead"}
    )
    """Former name of `default_x509_svid_ttl`, which wins if both are set."""
    default_jwt_svid_ttl: timedelta = DEFAULT_JWT_SVID_TTL
    """Lifetime of JWT-SVIDs whose entry sets none."""
    disable_jwt_svids: bool = False
    """Sign no JWT-SVIDs and make no JWT keys."""
    jwt_issuer: str = ""
    """Issuer claim of JWT-SVIDs; they have none if it is empty."""
    jwt_key_type: KeyType | None = None
    """Key type of the JWT authorities; that of `ca_key_type` if it is not set."""
    log_file: Path | None = None
    """File to log to, opened again on SIGUSR2; standard output if it is not set."""
    log_format: LogFormat = LogFormat.TEXT
    """`text` or `json`."""
    log_level: Level = Level.INFO
    """`panic`, `fatal`, `error`, `warn`, `info`, `debug` or `trace`."""
    log_source_location: bool = False
    """Add the source file, line and function to log lines."""
    max_attested_node_info_staleness: timedelta = timedelta()
    """How old the server's knowledge of an agent may be when it calls; `0s` asks the database each time."""
    prune_attested_nodes_expired_for: timedelta | None = None
    """Delete agents whose SVID expired that long ago; no agent is deleted if it is not set."""
    prune_attested_nodes_batch_size: int = 1000
    """The most agents that one round deletes."""
    prune_tofu_nodes: bool = False
    """Delete also expired agents that cannot attest again."""
    ratelimit: RateLimit = field(default_factory=RateLimit)
    """Rate limits."""
    experimental: Experimental = field(default_factory=Experimental)
    """What may change or go."""
    workers: int = 1
    """Ours: processes that serve the port together; more than one needs a key manager that processes can share."""
    max_lanes: int = 16
    """Ours: the most threads that wait for the key manager's device in one worker."""
    lane_deadline: timedelta = timedelta(seconds=10)
    """Ours: how long one call to the key manager's device may take."""
    verify_signatures: bool = True
    """Ours: check each signature of the key manager with the public key before it leaves, which keeps back those of a \
faulty device or of another key. It costs about 70 microseconds a signature."""
    max_connections: int = 10_000
    """Ours: the most connections that one worker holds; further ones are closed at once."""
    bundle_path: Path | None = None
    """Ours: file that the server keeps at what `bundle show` prints, for the `trust_bundle_path` of an agent."""
    go_on_without_lost_keys: bool = False
    """Ours: start although the key manager does not show keys that the journal names, and give these up."""

    NOT_SUPPORTED: ClassVar[Mapping[str, str]] = {
        "federation": "federation is not supported by this version",
        "proxy_protocol_trusted_cidrs": "the PROXY protocol is not supported by this version",
    }
    WITHOUT_EFFECT: ClassVar[Mapping[str, str]] = PROFILING

    def __post_init__(self) -> None:
        check_port("bind_port", self.bind_port)
        for name in _POSITIVE:
            check_positive(name, getattr(self, name))
        if self.max_attested_node_info_staleness < timedelta():
            raise InvalidConfig("max_attested_node_info_staleness: must not be negative")


_POSITIVE: Final = (
    "agent_ttl",
    "ca_ttl",
    "default_x509_svid_ttl",
    "default_svid_ttl",
    "default_jwt_svid_ttl",
    "prune_attested_nodes_expired_for",
    "prune_attested_nodes_batch_size",
    "workers",
    "max_lanes",
    "lane_deadline",
    "max_connections",
)


@dataclass(frozen=True, kw_only=True)
class ServerConfig(ServerBlock):
    """A whole file with the flags of the command line: the keys of ``server``, and the other blocks."""

    plugins: tuple[Plugin, ...]
    """The enabled plugins, in the order of the file."""
    telemetry: Telemetry = field(default_factory=Telemetry)
    health_checks: HealthChecks = field(default_factory=HealthChecks)
    warnings: tuple[str, ...] = ()
    """What the operator should know, to be logged at start."""

    def plugins_of(self, kind: str) -> tuple[Plugin, ...]:
        """The enabled plugins of a type."""
        return tuple(plugin for plugin in self.plugins if plugin.type == kind)

    @property
    def key_manager(self) -> Plugin:
        """The KeyManager plugin."""
        return self.plugins_of("KeyManager")[0]

    @property
    def datastore(self) -> Plugin:
        """The DataStore plugin."""
        return self.plugins_of("DataStore")[0]

    @property
    def upstream_authority(self) -> Plugin | None:
        """The UpstreamAuthority plugin, if there is one."""
        return next(iter(self.plugins_of("UpstreamAuthority")), None)

    @property
    def x509_svid_ttl(self) -> timedelta:
        """Lifetime of X509-SVIDs whose entry sets none."""
        return self.default_x509_svid_ttl or self.default_svid_ttl or DEFAULT_X509_SVID_TTL

    @property
    def ca_policy(self) -> CaPolicy:
        """The settings that concern the authorities."""
        subject = self.ca_subject
        return CaPolicy(
            trust_domain=self.trust_domain,
            ca_ttl=self.ca_ttl,
            ca_key_type=self.ca_key_type,
            jwt_key_type=self.jwt_key_type,
            ca_subject=CaSubject()
            if subject in {None, CaSubjectBlock()}
            else CaSubject(**{f.name: getattr(subject, f.name) for f in fields(CaSubject)}),
            x509_svid_ttl=self.x509_svid_ttl,
            jwt_svid_ttl=self.default_jwt_svid_ttl,
            agent_ttl=self.agent_ttl,
            jwt_issuer=self.jwt_issuer,
            jwt_svids_disabled=self.disable_jwt_svids,
            go_on_without_lost_keys=self.go_on_without_lost_keys,
        )


@dataclass(frozen=True, kw_only=True)
class _File:
    """What stands at the top of a file."""

    server: Block = field(default_factory=lambda: Block(path="server"))
    plugins: Block | None = None
    telemetry: Telemetry = field(default_factory=Telemetry)
    health_checks: HealthChecks = field(default_factory=HealthChecks)


def load_server_config(
    path: str | os.PathLike[str] = DEFAULT_CONFIG_PATH,
    overrides: Mapping[str, str | int | bool] | None = None,
    *,
    expand_env: bool = False,
) -> ServerConfig:
    """Read a server's file; ``overrides`` are values of its ``server`` block that flags set.

    Raises:
        InvalidConfig: with the first thing that is wrong; ``InvalidPlugins`` with all that is wrong with plugins.
    """
    return server_config(read_file(path, expand_env=expand_env), overrides)


def server_config(file: Block, overrides: Mapping[str, str | int | bool] | None = None) -> ServerConfig:
    """The configuration from the block of a whole file.

    Raises:
        InvalidConfig: as ``load_server_config``.
    """
    warnings: list[str] = []
    top = file.read(_File, warnings=warnings)
    block = top.server.with_values(overrides or {}).read(ServerBlock, warnings=warnings, zero_is_unset=True)
    if top.plugins is None:
        raise InvalidConfig("plugins section must be configured")
    plugins = _current(read_plugins(top.plugins), warnings)
    check_plugins(plugins, PLUGIN_TYPES)
    return ServerConfig(
        **{one.name: getattr(block, one.name) for one in fields(block)},
        plugins=plugins,
        telemetry=top.telemetry,
        health_checks=top.health_checks,
        warnings=(*warnings, *_warnings(block)),
    )


def _current(plugins: Iterable[Plugin], warnings: list[str]) -> tuple[Plugin, ...]:
    """The enabled plugins without those that SPIRE has dropped and that did nothing."""
    found = []
    for plugin in plugins:
        if (plugin.type, plugin.name) == ("NodeResolver", "noop"):
            warnings.append('plugins.NodeResolver "noop" is deprecated: node resolvers are gone; delete it')
        elif plugin.enabled:
            found.append(plugin)
    return tuple(found)


def _warnings(block: ServerBlock) -> Iterable[str]:
    if block.ca_subject == CaSubjectBlock():
        yield "server.ca_subject is set but empty: the default is used"
    if block.default_svid_ttl and block.default_x509_svid_ttl:
        yield "server.default_svid_ttl has no effect: default_x509_svid_ttl is set too"
    ttls = {
        "default_x509_svid_ttl": block.default_x509_svid_ttl or block.default_svid_ttl or DEFAULT_X509_SVID_TTL,
        "default_jwt_svid_ttl": block.default_jwt_svid_ttl,
        "agent_ttl": block.agent_ttl,
    }
    yield from ttl_warnings(block.ca_ttl, ttls)
