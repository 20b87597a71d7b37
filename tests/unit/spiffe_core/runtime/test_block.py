"""Blocks and the dataclasses that are read from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffe_core.errors import InvalidConfig
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.block import Block
from tests.support.refusals import refusal


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Inner:
    name: str
    size: int = 1


@dataclass(frozen=True, kw_only=True)
class Outer:
    text: str = "default"
    number: int = 7
    factor: float = 1.0
    on: bool = False
    path: Path | None = None
    ttl: timedelta = timedelta(hours=1)
    colour: Colour = Colour.RED
    domain: TrustDomain | None = None
    ids: tuple[SpiffeId, ...] = ()
    names: tuple[str, ...] = ()
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()
    free: Block | None = None
    secret: timedelta | None = field(default=None, repr=False)
    camel: int = field(default=0, metadata={"key": "CamelCase"})
    old: str = field(default="", metadata={"deprecated": "use text instead"})

    NOT_SUPPORTED: ClassVar[Mapping[str, str]] = {"warp": "warp is not supported"}
    WITHOUT_EFFECT: ClassVar[Mapping[str, str]] = {"lamp": "there is no lamp"}

    def __post_init__(self) -> None:
        if self.number < 0:
            raise InvalidConfig("number: must not be negative")
        if self.text == "bad":
            raise InvalidConfig("text and number do not fit")


def read(text: str, **options: Any) -> Outer:
    return Block.parse(text, "outer").read(Outer, **options)


def test_a_block_that_sets_nothing_gives_the_defaults():
    assert read("") == Outer()


def test_every_kind_of_value_is_read():
    found = read("""
        text = "x" number = 5 factor = 2.5 on = true path = "./p" ttl = "1h30m" colour = "blue"
        domain = "spiffe://example.org" ids = ["spiffe://example.org/a"] names = ["a", "b"]
        inner { name = "i" size = 2 } inners = [{ name = "j" }, { name = "k" }] free { anything = 1 }
        secret = "5s" CamelCase = 3
    """)
    assert found == Outer(
        text="x",
        number=5,
        factor=2.5,
        on=True,
        path=Path("./p"),
        ttl=timedelta(minutes=90),
        colour=Colour.BLUE,
        domain=TrustDomain("example.org"),
        ids=(SpiffeId.parse("spiffe://example.org/a"),),
        names=("a", "b"),
        inner=Inner(name="i", size=2),
        inners=(Inner(name="j"), Inner(name="k")),
        free=found.free,
        secret=timedelta(seconds=5),
        camel=3,
    )
    assert found.free is not None
    assert found.free.items[0].key == "anything"


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ('number = "8081"', "number", 8081),
        ('number = "0x1F"', "number", 31),
        ("number = 010", "number", 8),
        ("number = 1 number = 2", "number", 2),
        ('on = "true"', "on", True),
        ("on = true on = false", "on", False),
        ('factor = "2.5"', "factor", 2.5),
        ("text = 007", "text", "007"),
        ('text = "a" text = ""', "text", ""),
        ('TEXT = "x"', "text", "x"),
        ('colour = "BLUE"', "colour", Colour.BLUE),
        ('names = ["a"] names = ["b"]', "names", ("a", "b")),
        ("names = [1]", "names", ("1",)),
        ('inner { name = "a" } inner { size = 5 }', "inner", Inner(name="a", size=5)),
        ('inner = [{ name = "a" }, { size = 5 }]', "inner", Inner(name="a", size=5)),
        ('inners { name = "a" } inners { name = "b" }', "inners", (Inner(name="a"), Inner(name="b"))),
        ("warp = false", "text", "default"),
        ("warp {}", "text", "default"),
    ],
)
def test_what_is_written_in_another_way_means_the_same(text, name, value):
    assert getattr(read(text), name) == value


@pytest.mark.parametrize("text", ['ttl = ""', 'path = ""', 'colour = ""', 'number = ""', "names = []", 'domain = ""'])
def test_an_empty_value_says_not_set(text):
    assert read(text) == Outer()


def test_zero_says_not_set_only_where_it_shall():
    assert read("number = 0").number == 0
    assert read("number = 0", zero_is_unset=True).number == 7
    assert read("number = 5 number = 0", zero_is_unset=True).number == 7
    assert read('inner { name = "a" size = 0 }', zero_is_unset=True).inner == Inner(name="a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\ntexts = 1", "outer.texts: unknown configuration detected (line 2); did you mean text?"),
        ("xyzzy = 1", "outer.xyzzy: unknown configuration detected (line 1)"),
        ("warp = 5", "outer.warp: warp is not supported (line 1)"),
        ("number = true", "outer.number: must be a number, not a boolean (line 1)"),
        ('number = "a"', 'outer.number: "a" is no whole number (line 1)'),
        ("number = 1.5", 'outer.number: "1.5" is no whole number (line 1)'),
        ('number = " 1"', 'outer.number: " 1" is no whole number (line 1)'),
        ('number = "٣"', 'outer.number: "٣" is no whole number (line 1)'),
        ("number = 9223372036854775808", "outer.number: 9223372036854775808 is out of range (line 1)"),
        ("number = {}", "outer.number: must be a single value, not a block (line 1)"),
        ("number = [1]", "outer.number: must be a single value, not a list (line 1)"),
        ("number = -1", "outer.number: must not be negative"),
        ('text = "bad"', "outer: text and number do not fit"),
        ("text = true", "outer.text: must be text in double quotes, not a boolean (line 1)"),
        ("on = 1", "outer.on: must be true or false (line 1)"),
        ('on = "yes"', "outer.on: must be true or false (line 1)"),
        ('factor = "inf"', "outer.factor: inf is out of range (line 1)"),
        ('ttl = "24"', 'outer.ttl: time: missing unit in duration "24" (line 1)'),
        ("ttl = 24", 'outer.ttl: time: missing unit in duration "24" (line 1)'),
        ('path = "\\x00"', "outer.path: a path cannot hold a null character (line 1)"),
        ('colour = "green"', 'outer.colour: "green" is unknown; must be one of [red blue] (line 1)'),
        ('ids = ["x"]', "outer.ids: 'x' is no SPIFFE ID: scheme is missing or invalid (line 1)"),
        ('names = "a"', 'outer.names: must be a list, such as ["..."] (line 1)'),
        ("inner {}", "outer.inner.name must be configured"),
        ('inner { name = "" }', "outer.inner.name must be configured"),
        (
            'inner { name = "a" sise = 1 }',
            "outer.inner.sise: unknown configuration detected (line 1); did you mean size?",
        ),
        ('inner = "x"', "outer.inner: must be a block { ... } (line 1)"),
        ("inners = [1]", "outer.inners: must be a block { ... } (line 1)"),
        ("free = 1", "outer.free: must be a block { ... } (line 1)"),
    ],
)
def test_what_is_wrong_is_refused_with_its_dotted_path(text, message):
    with pytest.raises(InvalidConfig) as caught:
        read(text)
    assert str(caught.value) == message


def test_the_value_of_a_secret_is_in_no_error_and_no_repr():
    with pytest.raises(InvalidConfig) as caught:
        read('secret = "hunter2"')
    assert str(caught.value) == "outer.secret: is malformed (line 1)"
    assert "hunter2" not in repr(Block.parse('secret = "hunter2"', "outer"))
    assert repr(Block.parse("", "outer")) == "<Block outer>"


def test_deprecated_keys_and_those_without_effect_are_told():
    warnings: list[str] = []
    found = read('old = "x" lamp = 1 Lamp = 2', warnings=warnings)
    assert found.old == "x"
    assert warnings == [
        "outer.lamp has no effect: there is no lamp",
        "outer.Lamp has no effect: there is no lamp",
        "outer.old is deprecated: use text instead",
    ]


def test_flags_take_the_place_of_values_in_the_file():
    block = Block.parse('text = "file" number = 1', "outer").with_values({"text": "flag", "number": 2, "on": True})
    assert block.read(Outer) == Outer(text="flag", number=2, on=True)


keys = st.sampled_from([*Outer.__dataclass_fields__, "warp", "lamp", "x"])
scalars = st.sampled_from(
    ['""', '"a"', "0", "1", "1.5", "true", '"true"', "[]", "{}", '["a"]', "[{}]", '{ name = "" }']
)


@given(st.lists(st.tuples(keys, scalars), max_size=6))
def test_any_block_is_read_or_refused_with_its_path(items):
    text = "\n".join(f"{key} = {value}" for key, value in items)
    refused = refusal(read, text)
    assert refused is None or str(refused).startswith("outer.")
