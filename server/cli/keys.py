"""``keys list|show|check``: the keys of a server's authorities, looked at from beside it.

They ask no server: they read its configuration, and open its database and its key manager in this process.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from server.cli.run import CONFIG_FLAG, EXPAND_FLAG, load_config
from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.output import JSON, echo_json, output_flag, plural

keys = Group("keys")

_KEY_ID = flags.text("keyID", "ID of the key, if only one is asked for")


def _configured(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare the flags that say where the keys are."""

    @CONFIG_FLAG
    @EXPAND_FLAG
    @output_flag
    @wraps(function)
    def call(**given: object) -> object:
        return function(**given)

    return call


@keys.add("list", "Lists the keys of the server's authorities")
@_configured
def list_keys(config: str, expand_env: bool, output: str) -> None:  # noqa: FBT001  a flag
    """List the keys of the server's authorities: journal against key manager."""
    _report(config, output, expand_env=expand_env)


@keys.add("show", "Shows keys with their attributes, read back from the token")
@_KEY_ID
@_configured
def show(key_id: str, config: str, expand_env: bool, output: str) -> None:  # noqa: FBT001  a flag
    """Show keys with their attributes, read back from the token."""
    _report(config, output, only=key_id, expand_env=expand_env, attributes=True)


@keys.add("check", "Has each key sign a nonce, and tries to get at its value")
@_KEY_ID
@_configured
def check(key_id: str, config: str, expand_env: bool, output: str) -> None:  # noqa: FBT001  a flag
    """Have each key sign a nonce, and try to get at its value by every way there is."""
    _report(config, output, only=key_id, expand_env=expand_env, attributes=True, attempt=True)


def _report(
    config: str, output: str, *, expand_env: bool, only: str = "", attributes: bool = False, attempt: bool = False
) -> None:
    """Look at the keys and print them; one that is not as it should be makes the command fail."""
    from server.cli.key_text import key_json, key_text, summary  # noqa: PLC0415  help can do without
    from server.key_inventory import open_inventory  # noqa: PLC0415  help can do without
    from spiffe_core.runtime.cli.standard_error import warnings_on_standard_error  # noqa: PLC0415  as above

    try:
        loaded = load_config(config, {}, expand_env=expand_env)
    except InvalidConfig as exc:
        raise CommandError(str(exc)) from exc
    with warnings_on_standard_error(), open_inventory(loaded) as inventory:
        found = inventory.look(only, attempt=attempt)
    if output == JSON:
        echo_json(
            {
                "trust_domain": inventory.trust_domain,
                "authority_group": inventory.group,
                "key_manager": inventory.key_manager,
                "unprotected": inventory.unprotected,
                "keys": [key_json(report) for report in found],
            }
        )
    else:
        click.echo(f'Found {plural(len(found), "key", "keys")} of authority group "{inventory.group}"')
        if inventory.unprotected:
            click.echo(f"Protection: {inventory.unprotected}")
        click.echo()
        click.echo("".join(key_text(report, attributes=attributes) for report in found), nl=False)
    if trouble := summary(found):
        raise CommandError(trouble)
