"""``logger get|set|reset``, which servers and agents answer alike."""

from dataclasses import dataclass
from typing import Final

import click
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from spiffe_core.api.spire.api.types.logger_pb2 import Logger
from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.local_client import LocalClient, RpcFailure
from spiffe_core.runtime.cli.output import JSON, echo_json, output_flag
from spiffe_core.runtime.gotext import quote
from spiffe_core.runtime.levels import Level

_LEVELS: Final = "panic, fatal, error, warn, info, debug, trace"


@dataclass(frozen=True, slots=True)
class LoggerApi:
    """The logger service of a server or an agent, and the requests of its three RPCs, which are named alike."""

    service: FileDescriptor
    get: type[Message]
    set: type[Message]
    reset: type[Message]


def add_logger_commands(group: Group, calls: flags.Decorator, api: LoggerApi) -> None:
    """Add the three commands to a group; ``calls`` declares the flags of the socket and gives the client."""

    @group.add("get", "Prints the log level")
    @output_flag
    @calls
    def get(client: LocalClient, output: str) -> None:
        """Print the log level."""
        _print(_call(client, api, "GetLogger", api.get(), "error fetching logger"), output)

    @group.add("set", "Sets the log level")
    @flags.text("level", f"The new level, one of ({_LEVELS})")
    @output_flag
    @calls
    def set_level(client: LocalClient, level: str, output: str) -> None:
        """Set the log level."""
        if not level:
            raise CommandError("a value (-level) must be set")
        try:
            new = Level.parse(level).name  # the API's names are the same
        except InvalidConfig:
            raise CommandError(f"the value {quote(level)} is not a valid setting") from None
        _print(_call(client, api, "SetLogLevel", api.set(new_level=new), "failed to set log level"), output)

    @group.add("reset", "Resets the log level to the configured one")
    @output_flag
    @calls
    def reset(client: LocalClient, output: str) -> None:
        """Set the log level back."""
        _print(_call(client, api, "ResetLogLevel", api.reset(), "failed to reset log level"), output)


def _call(client: LocalClient, api: LoggerApi, name: str, request: Message, complaint: str) -> Logger:
    try:
        return client.call(api.service, name, request, Logger)
    except RpcFailure as exc:
        raise CommandError(f"{complaint}: {exc}") from exc


def _print(found: Logger, output: str) -> None:
    if output == JSON:
        echo_json(found)
        return
    click.echo(f"Logger Level : {_label(found.current_level)}\nLaunch Level : {_label(found.launch_level)}\n")


def _label(number: int) -> str:
    try:
        return Level(number).label
    except ValueError:
        raise CommandError(f"server returned an unknown log level {number}") from None
