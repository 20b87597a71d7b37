"""Selectors in messages."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiffe_core.api.convert.selectors import selectors_from_pb, selectors_to_pb
from spiffe_core.api.spire.api.types.selector_pb2 import Selector as SelectorPb
from spiffe_core.entries import Selector
from spiffe_core.errors import InvalidSelector
from tests.support.strategies import selectors


@settings(deadline=None)
@given(st.lists(selectors(), max_size=4))
def test_selectors_come_back_in_their_order_repeated_ones_too(given_selectors: list[Selector]) -> None:
    twice = (*given_selectors, *given_selectors)
    assert selectors_from_pb(selectors_to_pb(twice)) == twice


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (SelectorPb(value="uid:1"), "missing selector type"),
        (SelectorPb(type="unix:uid", value="1"), "selector type contains ':'"),
        (SelectorPb(type="unix"), "missing selector value"),
    ],
)
def test_a_malformed_selector_is_refused(message: SelectorPb, text: str) -> None:
    with pytest.raises(InvalidSelector, match=f"^{text}$"):
        selectors_from_pb([SelectorPb(type="unix", value="gid:1"), message])
