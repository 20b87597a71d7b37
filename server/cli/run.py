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
    from server.config import ServerConfig

_KEYS: Final = {
    "bind_address": "bind_address",
    "server_port": "bind_port",
    "data_dir": "data_dir",
    "log_file": "log_file",
    "log_format": "log_format",
    "log_level": "log_level",
    "log_source_location": "log_source_location",
    "trust_domain": "trust_domain",
    "socket_path": "socket_path",
    "go_on_without_lost_keys": "go_on_without_lost_keys",
}
"""Flag: the key of the ``server`` block that it sets."""

CONFIG_FLAG: Final = flags.text("config", 'Path to a configuration file (default "conf/server/server.conf")')
EXPAND_FLAG: Final = flags.switch("expandEnv", "Expand environment variables in the configuration file")


def _config_flags(function: flags.Function) -> flags.Function:
    for declare in (
        CONFIG_FLAG,
        flags.text("bindAddress", "IP address or host name on which agents are served"),
        flags.whole("serverPort", "TCP port on which agents are served"),
        flags.text("dataDir", "Folder for what the server keeps"),
        flags.text("logFile", "File to write logs to"),
        flags.text("logFormat", "'text' or 'json'"),
        flags.text("logLevel", "'debug', 'info', 'warn', or 'error'"),
        flags.switch("logSourceLocation", "Add source file, line and function to log lines"),
        flags.text("trustDomain", "The trust domain of this server"),
        flags.text("socketPath", "Unix socket on which the command line is served"),
        flags.switch("goOnWithoutLostKeys", "Start although keys are lost, and give them up"),
        EXPAND_FLAG,
    ):
        function = declare(function)
    return function


@click.command("run", cls=Command)
@_config_flags
def run(config: str, expand_env: bool, **given: Any) -> int:  # noqa: ANN401, FBT001  flags
    """Run the server until it is told to stop."""
    try:
        loaded = load_config(config, overrides(given, _KEYS), expand_env=expand_env)
    except InvalidConfig as exc:
        raise PlainError(str(exc)) from exc
    tighten_umask()
    # The whole server is loaded only now: a wrong configuration can do without it.
    code: int = import_module("server.app").run(loaded)
    return code


@click.command("validate", cls=Command)
@_config_flags
def validate(config: str, expand_env: bool, **given: Any) -> None:  # noqa: ANN401, FBT001  flags
    """Say whether a configuration file is valid; nothing is opened or started."""
    from spiffe_core.runtime.config import InvalidPlugins  # noqa: PLC0415  help can do without

    try:
        loaded = load_config(config, overrides(given, _KEYS), expand_env=expand_env)
    except InvalidPlugins as exc:
        notes = "".join(f"\t{what}:\n" + "".join(f"\t\t{note}\n" for note in more) for what, more in exc.notes.items())
        text = f"SPIRE server configuration file is invalid.\nValidation errors:\n{notes}"
        raise PlainError(text.rstrip("\n")) from exc
    except InvalidConfig as exc:
        raise PlainError(f"SPIRE server configuration file is invalid: {exc}") from exc
    for warning in loaded.warnings:
        click.echo(f"Warning: {warning}", err=True)
    click.echo("SPIRE server configuration file is valid.")


def load_config(path: str, settings: Mapping[str, str | int | bool], *, expand_env: bool) -> "ServerConfig":
    """The configuration, with some settings changed, and with the data of its plugins looked at.

    Raises:
        InvalidConfig: if something is wrong with it.
    """
    from server.config import DEFAULT_CONFIG_PATH, PLUGIN_TYPES, load_server_config  # noqa: PLC0415  see above
    from spiffe_core.runtime.config import check_plugin_data  # noqa: PLC0415

    loaded = load_server_config(path or DEFAULT_CONFIG_PATH, settings, expand_env=expand_env)
    group = {"authority_group": loaded.trust_domain.name}
    check_plugin_data(loaded.plugins, PLUGIN_TYPES, {'KeyManager "pkcs11"': group})
    return loaded
