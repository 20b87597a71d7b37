"""Numbers of flags that have to fit a message's field."""

from datetime import timedelta
from typing import Final

from spiffe_core.runtime.cli.errors import CommandError

_INT32: Final = range(-(2**31), 2**31)


def int32(value: int, name: str) -> int:
    """The value, if it fits a field of 32 bits.

    Raises:
        CommandError: if it does not.
    """
    if value not in _INT32:
        raise CommandError(f"invalid value for {name}: overflow converting int({value}) to int32")
    return value


def seconds(value: timedelta) -> int:
    """A lifetime in seconds, a begun one counted in full.

    Raises:
        CommandError: if it does not fit a field of 32 bits.
    """
    return int32(-(-value // timedelta(seconds=1)), "TTL")
