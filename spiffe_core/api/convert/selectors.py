"""Selectors."""

from collections.abc import Iterable

from spiffe_core.api.spire.api.types import selector_pb2
from spiffe_core.entries import Selector


def selectors_from_pb(pbs: Iterable[selector_pb2.Selector]) -> tuple[Selector, ...]:
    """The selectors in their order, repeated ones too.

    Raises:
        InvalidSelector: if one has no type, no value, or a colon in its type.
    """
    return tuple(Selector(pb.type, pb.value) for pb in pbs)


def selectors_to_pb(selectors: Iterable[Selector]) -> list[selector_pb2.Selector]:
    """The selectors as messages."""
    return [selector_pb2.Selector(type=selector.type, value=selector.value) for selector in selectors]
