"""HCL written from a tree says what the tree says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffe_core.runtime.hcl import Item, Number, Object, parse
from spiffe_core.runtime.hcl_text import hcl_text

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(["${a}", "$${", "${", "true"])
SCALARS = TEXTS | st.booleans() | st.sampled_from([Number("0"), Number("-1.5e3"), Number("0x1F")])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.lists(st.builds(Item, TEXTS, inner), max_size=3).map(lambda items: Object(tuple(items)))
    ),
    max_leaves=8,
)


def lineless(value):
    """A tree without the lines in which its items stood."""
    if isinstance(value, Object):
        return Object(tuple(Item(item.key, lineless(item.value)) for item in value.items))
    return tuple(map(lineless, value)) if isinstance(value, tuple) else value


@given(st.lists(st.builds(Item, TEXTS, VALUES), max_size=4))
def test_what_is_written_is_read_back(items):
    assert lineless(parse(hcl_text(items))) == Object(tuple(items))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('a = "b"', 'a = "b"\n'),
        ('a "label" { n = 1 }', "a {\n    label {\n        n = 1\n    }\n}\n"),
        ('"a b" = [1, "x", true]', '"a b" = [1, "x", true]\n'),
        ('{"a": {"b": [{"c": false}]}}', "a {\n    b = [{\n        c = false\n    }]\n}\n"),
        ("a = <<E\none\ntwo\nE\n", 'a = "one\\ntwo\\n"\n'),
        ("a {}\na {}", "a {}\na {}\n"),
    ],
)
def test_a_text_as_it_is_written(text, written):
    assert hcl_text(parse(text).items) == written
