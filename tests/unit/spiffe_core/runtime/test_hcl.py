"""HCL 1 texts and their trees.  What SPIRE's parser takes and refuses is taken and refused here."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime import hcl
from spiffe_core.runtime.hcl import Item, Number, Object
from tests.support.refusals import refusal


def tree(text: str) -> object:
    """The tree without its lines: an object is a list of pairs, a list is a tuple, a number its text in a set."""
    return _plain(hcl.parse(text))


def _plain(value: object) -> object:
    if isinstance(value, Object):
        return [(item.key, _plain(item.value)) for item in value.items]
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return {value.text} if isinstance(value, Number) else value


ACCEPTED: Mapping[str, object] = {
    "": [],
    "# only\n// comments\n/* of three\nkinds */": [],
    'a = "x"': [("a", "x")],
    'a = "x", b = "y",': [("a", "x"), ("b", "y")],
    'a = "x" b = "y"': [("a", "x"), ("b", "y")],
    "a = 1 b = -2 c = 0x1F d = 010 e = 1.5 f = 1e5 g = .5": [
        (key, {text}) for key, text in zip("abcdefg", ["1", "-2", "0x1F", "010", "1.5", "1e5", ".5"], strict=True)
    ],
    "a = true b = false": [("a", True), ("b", False)],
    "trueish = true": [("trueish", True)],
    'a = "x" a = "y"': [("a", "x"), ("a", "y")],
    "a { b = 1 }": [("a", [("b", {"1"})])],
    "a = { b = 1 }": [("a", [("b", {"1"})])],
    "a {} a = {}": [("a", []), ("a", [])],
    'a "b" "c" { d = 1 }': [("a", [("b", [("c", [("d", {"1"})])])])],
    '"a" "b" {}': [("a", [("b", [])])],
    'a = ["x", "y",]': [("a", ("x", "y"))],
    "a = [] b = [1, true, [2]]": [("a", ()), ("b", ({"1"}, True, ({"2"},)))],
    'a = [{ b = "x" }, { b = "y" },]': [("a", ([("b", "x")], [("b", "y")]))],
    r'a = "\n\t\"\\ \u00e9 \101 \x41 \U0001F600"': [("a", '\n\t"\\ é A A 😀')],
    r'a = "\\n"': [("a", r"\n")],
    r'a = "${b "c" {"\n"}} d"': [("a", r'${b "c" {"\n"}} d')],
    'a = "$b ${c}$"': [("a", "$b ${c}$")],
    "a-b.c = 1 é = 2": [("a-b.c", {"1"}), ("é", {"2"})],
    "a = <<EOF\nx\n y\nEOF\nb = 1": [("a", "x\n y\n"), ("b", {"1"})],
    "a = <<-EOF\n    x\n     y\n    EOF\n": [("a", "x\n y\n")],
    "a = <<-EOF\n  x\n y\n  EOF\n": [("a", "  x\n y\n")],
    "a = <<EOF\nEOFx\nEOF\n": [("a", "EOFx\n")],
    "a = <<EOF\nEOF\n": [("a", "")],
    'a = "x"\r\nb = "y"\r\n': [("a", "x"), ("b", "y")],
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_a_text_has_its_tree(text):
    assert tree(text) == ACCEPTED[text]


REFUSED: Mapping[str, str] = {
    "a": "At 1:2: key 'a' expected start of object ('{') or assignment ('=')",
    "a = ": "At 1:5: expected a value, got the end of the text",
    "a = b": "At 1:5: expected a value, got word 'b' (text needs double quotes)",
    "a: 1": "At 1:2: illegal char ':'",
    "a = 1 + 1": "At 1:7: illegal char '+'",
    "a = (1)": "At 1:5: illegal char '('",
    'a "b" = 1': "At 1:7: key 'a b' takes a block, not an assignment",
    "= 1": "At 1:1: expected a key, got = '='",
    "true = 1": "At 1:1: expected a key, got bool 'true'",
    "<<EOF\nx\nEOF\n{}": "At 1:1: expected a key, got heredoc 'x\\n'",
    "a {": "At 1:4: expected a key, got the end of the text",
    "}": "At 1:1: expected a key, got } '}'",
    "a = 1,, b = 2": "At 1:7: expected a key, got , ','",
    "a = [1 2]": "At 1:8: expected comma or list end, got number '2'",
    "a = [b]": "At 1:6: expected a value, got word 'b' (text needs double quotes)",
    "a = [": "At 1:6: expected a value, got the end of the text",
    'a = "x': "At 1:5: literal not terminated",
    'a = "x\ny"': "At 1:5: literal not terminated",
    'a = "${x"': "At 1:5: literal not terminated",
    r'a = "\q"': "At 1:6: illegal char escape",
    r'a = "\ud800"': "At 1:6: illegal char escape",
    r'a = "\UFFFFFFFF"': "At 1:6: illegal char escape",
    "a = 1\n/* x": "At 2:1: comment not terminated",
    "a = 1 / 2": "At 1:7: expected '/' for comment",
    "a = <<EOF\nx\n": "At 1:5: heredoc not terminated",
    "a = < EOF": "At 1:5: a heredoc starts with '<<' and an anchor that ends its line",
    "\ufeffa = 1": "At 1:1: illegal char '\\ufeff'",
    "a = \0": "At 1:5: illegal char '\\x00'",
    "a {" * 51: "At 1:153: nested deeper than 50 levels",
    "a = " + "[" * 51: "At 1:55: nested deeper than 50 levels",
    '"a" ' * 60 + "{": "At 1:241: nested deeper than 50 levels",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_malformed_text_is_refused_with_its_place(text):
    with pytest.raises(InvalidConfig) as caught:
        hcl.parse(text)
    assert str(caught.value) == REFUSED[text]


def test_items_know_their_lines():
    found = hcl.parse('a = 1\n\nb "c" {\n  d = 2\n}\n')
    assert found.items == (
        Item("a", Number("1"), 1),
        Item("b", Object((Item("c", Object((Item("d", Number("2"), 4),)), 3),)), 3),
    )


def test_json_has_the_same_tree():
    text = '{"a": {"b": {"c": [1, true, "x", null]}}, "d": 1.5, "d": -2, "e": null}'
    assert tree(text) == [
        ("a", [("b", [("c", ({"1"}, True, "x"))])]),
        ("d", {"1.5"}),
        ("d", {"-2"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1', "At 1:8: Expecting ',' delimiter"),
        ('{"a": 1} b', "At 1:10: Extra data"),
        ('{"a": ' * 60 + "1" + "}" * 60, "nested deeper than 50 levels"),
        ('{"a": ' * 100_000, "nested deeper than 50 levels"),
        ("{'a': 1}", "At 1:2: Expecting property name enclosed in double quotes"),
    ],
)
def test_malformed_json_is_refused(text, message):
    with pytest.raises(InvalidConfig) as caught:
        hcl.parse(text)
    assert str(caught.value) == message


def test_a_text_that_is_too_long_is_refused():
    with pytest.raises(InvalidConfig, match=r"^configuration is longer than 1048576 characters$"):
        hcl.parse(" " * (1024 * 1024 + 1))


PIECES = [*ACCEPTED, *REFUSED, "{", "}", "[", "]", "=", ",", '"', "<<-X\n", "X\n", "${", "\\", "é", "\x85", " "]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=60))
@example("{")
@example(" {")
@example('{"a": NaN}')
def test_any_text_is_read_or_refused(text):
    refused = refusal(hcl.parse, text)
    assert refused is None or str(refused)


values = st.recursive(
    st.text(max_size=12) | st.booleans() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_json_and_hcl_agree(document):
    assert tree(json.dumps(document)) == tree(_as_hcl(document)[1:-1])


def _as_hcl(value: object) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{_as_hcl(key)} = {_as_hcl(one)}" for key, one in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_as_hcl, value)) + "]"
        case bool() | int():
            return json.dumps(value)
    return '"' + "".join(f"\\U{ord(char):08x}" for char in str(value)) + '"'
