"""base64url and JSON, read strictly: one spelling of each value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffe_core.jose import decode_base64url, encode_base64url, parse_json


@given(st.binary(max_size=40))
def test_bytes_survive_their_spelling(data):
    text = encode_base64url(data)

    assert "=" not in text
    assert decode_base64url(text) == data


@pytest.mark.parametrize(
    "text",
    [
        "YQ==",
        "YQ=",
        "A",
        "AAAAA",
        "+/8",
        "_+8",
        "YQ\n",
        "Y Q",
        "YR",
        "YWK",
        "é",
        "\u212a",
        "YQ\0",
        None,
        5,
        ["YQ"],
        b"YQ",
    ],
)
def test_another_spelling_is_refused(text):
    with pytest.raises(ValueError, match="base64"):
        decode_base64url(text)


def test_json_is_read_from_text_and_from_utf_8():
    assert parse_json('{"a": [1, 2.5, null, true, "é"]}') == {"a": [1, 2.5, None, True, "é"]}
    assert parse_json('{"a": "é"}'.encode()) == {"a": "é"}
    assert parse_json(r'"\ud83d\udd11"') == "\U0001f511"
    assert parse_json(r'"\\ud800"') == r"\ud800"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{} {}",
        "{'a': 1}",
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": -Infinity}',
        '{"a": 1, "a": 2}',
        '{"a": 1, "\\u0061": 1}',
        '[{"b": {"a": 1, "a": 1}}]',
        r'"\ud800"',
        r'{"\uDC00": 1}',
        '"\ud800\\ud83d\\udd11"',
        "9" * 5000,
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a": 1}'.encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b'"\xff"',
        b'"\xed\xa0\x80"',
    ],
)
def test_what_is_no_json_or_has_two_readings_is_refused(text):
    with pytest.raises(ValueError):
        parse_json(text)
