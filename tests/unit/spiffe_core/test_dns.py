"""DNS names that entries and certificates may have."""

import pytest

from spiffe_core.dns import RESERVED_SUFFIX, SERVER_NAME, check_dns_name, check_dns_names
from spiffe_core.errors import InvalidEntry

LABEL = "a" * 63


@pytest.mark.parametrize(
    "name",
    [
        "example",
        "web.example.org",
        "WEB.Example.org",
        "*.example.org",
        "*.org",
        "a_b._tcp.example.org",
        "1.2.3.4",
        "a--b.example.org",
        "xn--mnchen-3ya.de",
        "xn--mnchen-3ya.DE",
        f"{LABEL}.{LABEL}.{LABEL}.{'a' * 61}",
        f"*.{LABEL}.{LABEL}.{LABEL}.{'a' * 61}",
    ],
)
def test_a_host_name_is_accepted(name):
    check_dns_name(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty or longer than 253"),
        ("*.", "empty or longer than 253"),
        (f"{LABEL}.{LABEL}.{LABEL}.{'a' * 62}", "longer than 253"),
        ("a" * 64, "label .* is not allowed"),
        ("example.org.", "label '' is not allowed"),
        (".example.org", "label '' is not allowed"),
        ("a..b", "label '' is not allowed"),
        ("-a.org", "label '-a' is not allowed"),
        ("a-.org", "label 'a-' is not allowed"),
        ("*", "a wildcard must be the whole first label"),
        ("a*.org", "a wildcard must be the whole first label"),
        ("*a.org", "a wildcard must be the whole first label"),
        ("*.*.org", "a wildcard must be the whole first label"),
        ("a.*.org", "a wildcard must be the whole first label"),
        ("ab--c.org", "hyphens where only an A-label may"),
        ("XN--mnchen-3ya.de", "hyphens where only an A-label may"),
        ("xn--.de", "label 'xn--' is not allowed"),
        ("xn--a.de", "no valid IDNA label"),
        ("xn--0.pt", "no valid IDNA label"),
        ("xn--ls8h.la", "no valid IDNA label"),
    ],
)
def test_another_name_is_refused(name, why):
    with pytest.raises(InvalidEntry, match=why):
        check_dns_name(name)


def test_characters_other_than_letters_digits_hyphens_and_underscores_are_refused():
    def valid(name):
        try:
            check_dns_name(name)
        except InvalidEntry:
            return False
        return True

    sweep = [chr(code) for code in range(0x100)] + list("\u212a\u017fé\u3002\uff0e\U0001f511\ud800")
    plain = [c for c in sweep if c.isascii() and (c.isalnum() or c == "_")]
    assert [c for c in sweep if valid(f"{c}a")] == plain
    assert [c for c in sweep if valid(f"a{c}")] == plain
    assert [c for c in sweep if valid(f"a{c}b")] == sorted([*plain, "-", "."])


def test_a_name_beside_the_wildcard_that_covers_it_is_refused():
    check_dns_names(["a.example.org", "*.example.com", "c.b.a.example.com", "example.com", "*.a.example.com"])
    with pytest.raises(InvalidEntry, match=r'"a\.example\.org" overlaps with an existing wildcard'):
        check_dns_names(["a.example.org", "*.example.org"])
    with pytest.raises(InvalidEntry, match=r'"a\.example\.org" overlaps with an existing wildcard'):
        check_dns_names(["*.EXAMPLE.org", "A.example.org"])


def test_each_of_several_names_is_checked():
    with pytest.raises(InvalidEntry, match="'b c'"):
        check_dns_names(iter(["a", "b c"]))
    check_dns_names([])


@pytest.mark.parametrize(
    "name", [RESERVED_SUFFIX, SERVER_NAME, f"*.{RESERVED_SUFFIX}", f"a.b.{RESERVED_SUFFIX.upper()}"]
)
def test_the_name_of_the_server_itself_is_nobody_else_s(name):
    with pytest.raises(InvalidEntry, match="reserved for the server's own certificate"):
        check_dns_name(name)


def test_a_name_that_only_ends_like_the_reserved_one_is_free():
    check_dns_name(f"my{RESERVED_SUFFIX}")


def test_a_refusal_stays_short_whatever_was_sent():
    for name in ("a" * 10**6, "*" * 10**6, "." * 10**6):
        with pytest.raises(InvalidEntry) as refusal:
            check_dns_name(name)
        assert len(str(refusal.value)) < 300
