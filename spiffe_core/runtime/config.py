"""Configuration files: SPIRE's format, read into frozen dataclasses.

``read_file`` gives the ``Block`` of a file, ``Block.read`` a dataclass, ``read_plugins`` the plugins.  What a
file may say is said by the dataclasses of each process (``server.config``, ``agent.config``) and of each plugin;
their attribute docstrings are the reference documentation.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.block import Block
from spiffe_core.runtime.gotext import quote, read_error
from spiffe_core.runtime.hcl import MAX_LENGTH
from spiffe_core.runtime.plugins import (
    InvalidPlugins,
    Plugin,
    PluginType,
    check_plugin_data,
    check_plugins,
    read_plugins,
)

__all__ = [
    "Block",
    "InvalidPlugins",
    "Plugin",
    "PluginType",
    "check_plugin_data",
    "check_plugins",
    "expand",
    "read_file",
    "read_plugins",
]

_VARIABLE: Final = re.compile(r"\$(?:\{([^}]*)\}|(\{)|([*#$@!?0-9-])|([A-Za-z0-9_]+))", re.ASCII)


def read_file(path: str | os.PathLike[str], *, expand_env: bool = False) -> Block:
    """The block of a whole file; with ``expand_env`` after ``$NAME`` and ``${NAME}`` were replaced in its text.

    Raises:
        InvalidConfig: if it cannot be read or is malformed.
    """
    shown = quote(os.fspath(path))
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_LENGTH + 1)
        text = data.decode("utf-8")
        return Block.parse(expand(text, os.environ) if expand_env else text)
    except FileNotFoundError:
        raise InvalidConfig(
            f"could not find config file {Path(path).absolute()}: please use the -config flag"
        ) from None
    except OSError as exc:
        raise InvalidConfig(f"unable to read configuration at {shown}: {read_error(path, exc)}") from exc
    except ValueError as exc:
        reason = "it is no UTF-8 text" if isinstance(exc, UnicodeDecodeError) else str(exc)
        raise InvalidConfig(f"unable to read configuration at {shown}: {reason}") from exc
    except InvalidConfig as exc:
        raise InvalidConfig(f"unable to decode configuration at {shown}: {exc}") from exc


def expand(text: str, variables: Mapping[str, str]) -> str:
    """The text with its variables replaced as Go's ``os.Expand`` does: an unset one is empty, ``$$`` is ``$``."""

    def value(match: re.Match[str]) -> str:
        braced, unclosed, special, name = match.groups()
        if unclosed:
            return ""
        key = braced if braced is not None else special or name
        return "$" if key == "$" else variables.get(key, "")

    return _VARIABLE.sub(value, text)
