"""Go's durations, as texts."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.durations import format_duration, parse_duration
from tests.support.refusals import refusal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", timedelta()),
        ("-0", timedelta()),
        ("1h30m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("-1.5h", -timedelta(minutes=90)),
        ("+5s", timedelta(seconds=5)),
        ("5.s", timedelta(seconds=5)),
        (".5s", timedelta(milliseconds=500)),
        ("1h2m3s4ms5us6ns", timedelta(hours=1, minutes=2, seconds=3, milliseconds=4, microseconds=6)),
        ("1µs", timedelta(microseconds=1)),
        ("1ns", timedelta(microseconds=1)),
        ("30m1h", timedelta(minutes=90)),
        ("2540400h10m10.000000000s", timedelta(hours=2540400, minutes=10, seconds=10)),
    ],
)
def test_a_duration_is_read(text, value):
    assert parse_duration(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("s", 'time: invalid duration "s"'),
        (".", 'time: invalid duration "."'),
        ("24", 'time: missing unit in duration "24"'),
        ("1h2", 'time: missing unit in duration "1h2"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("1 h", 'time: unknown unit " h" in duration "1 h"'),
        ("3000000h", 'time: invalid duration "3000000h"'),
        ("9" * 99 + "s", f'time: invalid duration "{"9" * 99}s"'),
        ("9" * 500 + "s", f'time: invalid duration "{"9" * 100}"'),
    ],
)
def test_what_is_no_duration_is_refused_in_gos_words(text, message):
    with pytest.raises(InvalidConfig) as caught:
        parse_duration(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (timedelta(), "0s"),
        (timedelta(hours=24), "24h0m0s"),
        (timedelta(minutes=1), "1m0s"),
        (timedelta(seconds=1.5), "1.5s"),
        (timedelta(milliseconds=2, microseconds=3), "2.003ms"),
        (timedelta(microseconds=7), "7µs"),
        (-timedelta(hours=1, seconds=2), "-1h0m2s"),
        (timedelta(hours=1, microseconds=1), "1h0m0.000001s"),
    ],
)
def test_a_duration_is_printed_as_go_does(value, text):
    assert format_duration(value) == text


@given(st.timedeltas(min_value=-timedelta(days=100_000), max_value=timedelta(days=100_000)))
def test_what_is_printed_is_read_back(value):
    assert parse_duration(format_duration(value)) == value


@given(st.text(alphabet="0123456789.hmsnuµ+-x ", max_size=12))
def test_any_text_is_read_or_refused(text):
    refused = refusal(parse_duration, text)
    assert refused is None or str(refused).startswith("time: ")
