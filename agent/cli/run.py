"""``run`` and ``validate``: the commands that read a configuration file."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Command
from spiffe_core.runtime.cli.config_flags import overrides, tighten_umask
from spiffe_core.runtime.cli.errors import PlainError

if TYPE_CHECKING:
    from agent.config import AgentConfig

_DEFAULT: Final = "conf/agent/agent.conf"
_KEYS: Final = {
    "data_dir": "data_dir",
    "join_token": "join_token",
    "join_token_file": "join_token_file",
    "log_file": "log_file",
    "log_format": "log_format",
    "log_level": "log_level",
    "log_source_location": "log_source_location",
    "server_address": "server_address",
    "server_port": "server_port",
    "trust_domain": "trust_domain",
    "socket_path": "socket_path",
    "disable_workload_api": "disable_workload_api",
    "disable_sds_api": "disable_sds_api",
    "trust_bundle": "trust_bundle_path",
    "trust_bundle_url": "trust_bundle_url",
    "trust_bundle_format": "trust_bundle_format",
    "allow_unauthenticated_verifiers": "allow_unauthenticated_verifiers",
    "insecure_bootstrap": "insecure_bootstrap",
    "rebootstrap_mode": "rebootstrap_mode",
    "rebootstrap_delay": "rebootstrap_delay",
}
"""Flag: the key of the ``agent`` block that it sets."""


def _config_flags(function: flags.Function) -> flags.Function:
    for declare in (
        flags.text("config", "Path to a configuration file", _DEFAULT),
        flags.text("dataDir", "Folder for what the agent keeps"),
        flags.text("joinToken", "Join token for the first attestation"),
        flags.text("joinTokenFile", "File that holds the join token"),
        flags.text("logFile", "File to write logs to"),
        flags.text("logFormat", "'text' or 'json'"),
        flags.text("logLevel", "'debug', 'info', 'warn', or 'error'"),
        flags.switch("logSourceLocation", "Add source file, line and function to log lines"),
        flags.text("serverAddress", "IP address or host name of the server"),
        flags.whole("serverPort", "TCP port of the server"),
        flags.text("trustDomain", "The trust domain of this agent"),
        flags.text("socketPath", "Unix socket of the Workload API"),
        flags.switch("disableWorkloadAPI", "Do not serve the Workload API"),
        flags.switch("disableSDSAPI", "Do not serve Envoy's SDS API, which this version never does"),
        flags.text("trustBundle", "File with the bundle by which the server is trusted the first time"),
        flags.text("trustBundleUrl", "HTTPS URL of that bundle"),
        flags.text("trustBundleFormat", 'Format of that bundle, "pem" or "spiffe"'),
        flags.switch("allowUnauthenticatedVerifiers", "Give bundles also to callers without an identity"),
        flags.switch("insecureBootstrap", "Trust whatever server answers the first time"),
        flags.text("rebootstrapMode", "'never', 'auto', or 'always'"),
        flags.text("rebootstrapDelay", "How long the server must have been untrusted before that"),
        flags.switch("expandEnv", "Expand environment variables in the configuration file"),
    ):
        function = declare(function)
    return function


@click.command("run", cls=Command)
@_config_flags
def run(config: str, expand_env: bool, **given: Any) -> int:  # noqa: ANN401, FBT001  flags
    """Run the agent until it is told to stop."""
    try:
        loaded = _load(config, given, expand_env=expand_env)
    except InvalidConfig as exc:
        raise PlainError(str(exc)) from exc
    tighten_umask()
    # The whole agent is loaded only now: a wrong configuration can do without it.
    code: int = import_module("agent.app").run(loaded)
    return code


@click.command("validate", cls=Command)
@_config_flags
def validate(config: str, expand_env: bool, **given: Any) -> None:  # noqa: ANN401, FBT001  flags
    """Say whether a configuration file is valid; but for the join token's file, nothing else is opened."""
    try:
        loaded = _load(config, given, expand_env=expand_env)
    except InvalidConfig as exc:
        raise PlainError(f"SPIRE agent configuration file is invalid: {exc}") from exc
    for warning in loaded.warnings:
        click.echo(f"Warning: {warning}", err=True)
    click.echo("SPIRE agent configuration file is valid.")


def _load(path: str, given: Mapping[str, Any], *, expand_env: bool) -> "AgentConfig":
    """The configuration, with the data of its plugins looked at.

    Raises:
        InvalidConfig: if something is wrong with it.
    """
    from agent.config import PLUGIN_TYPES, load_agent_config  # noqa: PLC0415  help can do without
    from spiffe_core.runtime.config import check_plugin_data  # noqa: PLC0415

    loaded = load_agent_config(path or _DEFAULT, overrides(given, _KEYS), expand_env=expand_env)
    group = {"authority_group": loaded.trust_domain.name}
    check_plugin_data(loaded.plugins, PLUGIN_TYPES, {'KeyManager "pkcs11"': group})
    return loaded
