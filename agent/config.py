"""An agent's configuration: SPIRE's file format, defaults and rules.

The dataclasses are the schema; what needs several keys at once is checked at their birth.  Keys of SPIRE's
whose function is missing here are refused by name, or taken with a warning where nothing is lost.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Final

from agent.bootstrap_rules import check_bootstrap
from spiffe_core.errors import InvalidConfig
from spiffe_core.ids import TrustDomain
from spiffe_core.runtime.config import Block, Plugin, PluginType, check_plugins, read_file, read_plugins
from spiffe_core.runtime.gotext import quote, read_error
from spiffe_core.runtime.levels import Level
from spiffe_core.runtime.settings import (
    PROFILING,
    HealthChecks,
    LogFormat,
    Telemetry,
    check_port,
    check_positive,
)

DEFAULT_CONFIG_PATH: Final = Path("conf/agent/agent.conf")
DEFAULT_SOCKET_PATH: Final = Path("/tmp/spire-agent/public/api.sock")  # noqa: S108  SPIRE's path
_MAX_TOKEN_BYTES: Final = 4096

PLUGIN_TYPES: Final = (
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
    PluginType("NodeAttestor", 1, 1, {"join_token": ""}, external=True),
    PluginType("WorkloadAttestor", 1, 0, {"unix": "agent.workload_attestors.unix:UnixConfig"}, external=True),
    PluginType("SVIDStore", 0, 0, {}),
)
"""The plugin types of an agent, and what is built in."""

_SDS: Final = "Envoy's SDS API is not served by this version"


class BundleFormat(StrEnum):
    """How a trust bundle is written."""

    PEM = "pem"
    SPIFFE = "spiffe"


class RebootstrapMode(StrEnum):
    """When an agent that no longer trusts its server begins anew."""

    NEVER = "never"
    AUTO = "auto"
    ALWAYS = "always"


class WorkloadKeyType(StrEnum):
    """Key types of X509-SVIDs of workloads."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """The `experimental.ratelimit` block: calls a second for each set of selectors; 0 sets no limit."""

    fetch_x509_svid: int = 0
    """Streams of `FetchX509SVID` opened."""
    fetch_jwt_svid: int = 0
    """Calls of `FetchJWTSVID`."""
    fetch_x509_bundles: int = 0
    """Streams of `FetchX509Bundles` opened."""
    fetch_jwt_bundles: int = 0
    """Streams of `FetchJWTBundles` opened."""

    WITHOUT_EFFECT: ClassVar[Mapping[str, str]] = {"stream_secrets": _SDS, "fetch_secrets": _SDS}

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) < 0:
                raise InvalidConfig(f"{one.name}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class Experimental:
    """The `experimental` block."""

    sync_interval: timedelta = timedelta(seconds=5)
    """How often the agent asks its server for changes."""
    jwt_svid_cache_hit_timeout: timedelta = timedelta(seconds=30)
    """How long the server may take to renew a JWT-SVID while a valid one is cached: `5s` to less than `30s`."""
    ratelimit: RateLimit = field(default_factory=RateLimit)
    """Limits on callers of the Workload API."""

    NOT_SUPPORTED: ClassVar[Mapping[str, str]] = {
        "broker": "the SPIFFE Broker API is not supported by this version",
        "require_pq_kem": "post-quantum key exchange cannot be required by this version",
        "feature_flags": "feature flags are not supported by this version",
        "named_pipe_name": "named_pipe_name is not supported in this platform; please use socket_path instead",
        "admin_named_pipe_name": (
            "admin_named_pipe_name is not supported in this platform; please use admin_socket_path instead"
        ),
    }
    WITHOUT_EFFECT: ClassVar[Mapping[str, str]] = {
        "use_sync_authorized_entries": "entries are always synchronised with SyncAuthorizedEntries",
    }

    def __post_init__(self) -> None:
        check_positive("sync_interval", self.sync_interval)
        if not timedelta(seconds=5) <= self.jwt_svid_cache_hit_timeout <= timedelta(seconds=30):
            raise InvalidConfig("jwt_svid_cache_hit_timeout: must be from 5s to 30s")


@dataclass(frozen=True, kw_only=True)
class AgentBlock:
    """The `agent` block."""

    server_address: str
    """Host name or IP address of the server."""
    server_port: int
    """TCP port of the server."""
    trust_domain: TrustDomain
    """The trust domain of this agent."""
    data_dir: Path = Path()
    """Folder for what the agent keeps."""
    socket_path: Path = DEFAULT_SOCKET_PATH
    """Unix socket of the Workload API."""
    admin_socket_path: Path | None = None
    """Unix socket of the debug and logger APIs, outside the folder of `socket_path`; not served if it is not set."""
    join_token: str = field(default="", repr=False)
    """Join token for the first attestation."""
    join_token_file: Path | None = None
    """File that holds the join token."""
    insecure_bootstrap: bool = False
    """Trust whatever server answers the first time."""
    trust_bundle_path: Path | None = None
    """File with the bundle by which the server is trusted the first time."""
    trust_bundle_url: str = ""
    """HTTPS URL of that bundle."""
    trust_bundle_unix_socket: Path | None = None
    """Unix socket at which `trust_bundle_url`, then `http://`, is asked."""
    trust_bundle_spiffe_workload_api: str = ""
    """Address of a Workload API that has that bundle, such as `unix:///run/spire/agent.sock`."""
    trust_bundle_format: BundleFormat = BundleFormat.PEM
    """Format of that bundle: `pem` or `spiffe`."""
    rebootstrap_mode: RebootstrapMode = RebootstrapMode.NEVER
    """When to begin anew with that bundle, if the server is no longer trusted: `never`, `auto` or `always`."""
    rebootstrap_delay: timedelta = timedelta(minutes=10)
    """How long the server must have been untrusted before that."""
    allow_unauthenticated_verifiers: bool = False
    """Give trust bundles also to callers that have no identity."""
    allowed_foreign_jwt_claims: tuple[str, ...] = ()
    """Claims that are passed on from JWT-SVIDs of other trust domains."""
    availability_target: timedelta | None = None
    """How long workloads must get by without a server: SVIDs are renewed that early; `24h` or more."""
    disable_workload_api: bool = False
    """Do not serve the Workload API."""
    disable_sds_api: bool = False
    """Do not serve Envoy's SDS API, which this version never does."""
    log_file: Path | None = None
    """File to log to, opened again on SIGUSR2; standard output if it is not set."""
    log_format: LogFormat = LogFormat.TEXT
    """`text` or `json`."""
    log_level: Level = Level.INFO
    """`panic`, `fatal`, `error`, `warn`, `info`, `debug` or `trace`."""
    log_selectors: tuple[str, ...] = ()
    """Prefixes of selectors, such as `unix:user`, whose values may be logged."""
    log_source_location: bool = False
    """Add the source file, line and function to log lines."""
    workload_x509_svid_key_type: WorkloadKeyType = WorkloadKeyType.EC_P256
    """Key type of X509-SVIDs: `ec-p256`, `ec-p384` or `rsa-2048`."""
    x509_svid_cache_max_size: int = 1000
    """X509-SVIDs that are kept though nobody has asked for them lately."""
    jwt_svid_cache_max_size: int = 1000
    """The most JWT-SVIDs that are kept."""
    experimental: Experimental = field(default_factory=Experimental)
    """What may change or go."""

    WITHOUT_EFFECT: ClassVar[Mapping[str, str]] = {
        **PROFILING,
        "sds": _SDS,
        "authorized_delegates": "the Delegated Identity API is not served by this version",
    }

    def __post_init__(self) -> None:
        check_port("server_port", self.server_port)
        check_bootstrap(self)
        if self.rebootstrap_mode != RebootstrapMode.NEVER and self.insecure_bootstrap:
            raise InvalidConfig("insecure_bootstrap option can not be used with rebootstrapping")
        if self.availability_target is not None and self.availability_target < timedelta(hours=24):
            raise InvalidConfig("availability_target: must be at least 24h0m0s")
        for name in ("x509_svid_cache_max_size", "jwt_svid_cache_max_size"):
            if getattr(self, name) < 0:
                raise InvalidConfig(f"{name}: should not be negative")
        public = self.socket_path.absolute().parent
        if (
            self.admin_socket_path is not None
            and not (self.disable_workload_api and self.disable_sds_api)
            and Path(os.path.normpath(self.admin_socket_path.absolute())).is_relative_to(os.path.normpath(public))
        ):
            raise InvalidConfig(
                "admin_socket_path: admin socket cannot be in the same directory or a subdirectory as that containing "
                "the Workload API socket"
            )


@dataclass(frozen=True, kw_only=True)
class AgentConfig(AgentBlock):
    """A whole file with the flags of the command line: the keys of ``agent``, and the other blocks."""

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
    def node_attestor(self) -> Plugin:
        """The NodeAttestor plugin."""
        return self.plugins_of("NodeAttestor")[0]


@dataclass(frozen=True, kw_only=True)
class _File:
    """What stands at the top of a file."""

    agent: Block = field(default_factory=lambda: Block(path="agent"))
    plugins: Block | None = None
    telemetry: Telemetry = field(default_factory=Telemetry)
    health_checks: HealthChecks = field(default_factory=HealthChecks)


def load_agent_config(
    path: str | os.PathLike[str] = DEFAULT_CONFIG_PATH,
    overrides: Mapping[str, str | int | bool] | None = None,
    *,
    expand_env: bool = False,
) -> AgentConfig:
    """Read an agent's file; ``overrides`` are values of its ``agent`` block that flags set.

    Raises:
        InvalidConfig: with the first thing that is wrong; ``InvalidPlugins`` with all that is wrong with plugins.
    """
    return agent_config(read_file(path, expand_env=expand_env), overrides)


def agent_config(file: Block, overrides: Mapping[str, str | int | bool] | None = None) -> AgentConfig:
    """The configuration from the block of a whole file.

    Raises:
        InvalidConfig: as ``load_agent_config``.
    """
    warnings: list[str] = []
    top = file.read(_File, warnings=warnings)
    if top.plugins is None:
        raise InvalidConfig("plugins section must be configured")
    block = top.agent.with_values(overrides or {}).read(AgentBlock, warnings=warnings, zero_is_unset=True)
    plugins = tuple(plugin for plugin in read_plugins(top.plugins) if plugin.enabled)
    check_plugins(plugins, PLUGIN_TYPES)
    config = AgentConfig(
        **{one.name: getattr(block, one.name) for one in fields(block)},
        plugins=plugins,
        telemetry=top.telemetry,
        health_checks=top.health_checks,
        warnings=tuple(warnings),
    )
    if config.join_token_file is None:
        return config
    return replace(config, join_token=_read_token(config.join_token_file), join_token_file=None)


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).decode().strip()
    except OSError as exc:
        raise InvalidConfig(
            f"agent.join_token_file: unable to read join token file {quote(str(path))}: {read_error(path, exc)}"
        ) from exc
    except UnicodeDecodeError:
        raise InvalidConfig(f"agent.join_token_file: {quote(str(path))} is no UTF-8 text") from None
    if not token:
        raise InvalidConfig("agent.join_token_file: join token file is empty")
    return token
