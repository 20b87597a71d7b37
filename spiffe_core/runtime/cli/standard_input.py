"""Standard input, as commands read it that take a file."""

import sys

from spiffe_core.runtime.cli.errors import CommandError


def read_standard_input(most: int) -> bytes:
    """What standard input holds, so many bytes at most.

    Raises:
        CommandError: if the process has none.
    """
    if sys.stdin is None:  # its descriptor was closed
        raise CommandError("standard input is closed")
    return sys.stdin.buffer.read(most)
