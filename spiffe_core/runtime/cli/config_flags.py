"""What ``run`` does with its flags before there is a configuration, and right after."""

import os
from collections.abc import Mapping
from typing import Any, Final

_UMASK: Final = 0o027
"""Bits that the files of a server or agent never have: not for others, no writing by the group."""


def overrides(given: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, str | int | bool]:
    """The values of flags that were given, by the keys of the file that they set.

    As in SPIRE, what is empty, zero or false does not change the file's value.
    """
    return {key: given[flag] for flag, key in keys.items() if given[flag]}


def tighten_umask() -> None:
    """Add the bits of ours to the process's umask, as SPIRE does."""
    os.umask(os.umask(_UMASK) | _UMASK)
