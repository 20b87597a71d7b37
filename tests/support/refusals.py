"""What a call refuses, where a test does not know beforehand whether it will."""

from collections.abc import Callable
from typing import Any

from spiffe_core.errors import InvalidConfig


def refusal(call: Callable[..., object], *args: Any) -> InvalidConfig | None:
    """The InvalidConfig that the call raises, or None if it raises nothing; any other error goes on."""
    try:
        call(*args)
    except InvalidConfig as exc:
        return exc
    return None
