"""Go's texts of values."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from spiffe_core.runtime.gotext import list_text, os_error, quote, time_rfc3339, time_text

TOKYO = timezone(timedelta(hours=9), "JST")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("", '""'),
        ("a b", '"a b"'),
        ('a"b\\', r'"a\"b\\"'),
        ("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
        ("\x00\x7f", r'"\x00\x7f"'),
        ("é😀", '"é😀"'),
        ("\x85\u2028\U000e0001", '"\\u0085\\u2028\\U000e0001"'),
    ],
)
def test_a_text_is_quoted(text, quoted):
    assert quote(text) == quoted


def test_times_are_printed_in_their_own_zone():
    moment = datetime(2026, 11, 22, 5, 0, 0, tzinfo=UTC)
    assert time_text(moment) == "2026-11-22 05:00:00 +0000 UTC"
    assert time_text(moment.astimezone(TOKYO)) == "2026-11-22 14:00:00 +0900 JST"
    assert time_text(moment.replace(microsecond=250_000)) == "2026-11-22 05:00:00.25 +0000 UTC"
    assert time_rfc3339(moment) == "2026-11-22T05:00:00Z"
    assert time_rfc3339(moment.astimezone(TOKYO).replace(microsecond=1)) == "2026-11-22T14:00:00.000001+09:00"


def test_a_list_is_printed_with_spaces():
    assert list_text(["a", 1]) == "[a 1]"


def test_an_error_of_the_system_is_told_in_small_letters():
    assert (
        os_error("open", "/x", FileNotFoundError(2, "No such file or directory"))
        == "open /x: no such file or directory"
    )
    assert os_error("open", "/x", OSError()) == "open /x: input/output error"
