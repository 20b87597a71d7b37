"""SPIFFE IDs and trust domain names, to the letter of SPIFFE-ID.md."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffe_core.errors import InvalidSpiffeId
from spiffe_core.ids import SpiffeId, TrustDomain, agent_id, server_id

TD = TrustDomain("example.org")
TRUST_DOMAIN_CHARACTERS = string.ascii_lowercase + string.digits + ".-_"
SEGMENT_CHARACTERS = string.ascii_letters + string.digits + ".-_"
# Every byte as Latin-1, and characters that casual code takes for ASCII letters, digits, dots or slashes.
SWEEP = [chr(code) for code in range(0x100)] + list(
    "\u212a\u017f\u0131\u0130é٣\u2024\uff0f\uff0e\u2215\u00ad\u200d\ufeff\U0001f511\ud800"
)


def refused(parse, text, why=""):
    with pytest.raises(InvalidSpiffeId, match=why):
        parse(text)


def accepted(text):
    spiffe_id = SpiffeId.parse(text)
    assert str(spiffe_id) == text
    return spiffe_id


def test_an_id_is_its_trust_domain_and_its_path():
    spiffe_id = accepted("spiffe://example.org/ns/prod/sa/web")

    assert spiffe_id.trust_domain == TD
    assert spiffe_id.path == "/ns/prod/sa/web"
    assert spiffe_id.member_of(TD)
    assert not spiffe_id.member_of(TrustDomain("example.com"))


def test_a_trust_domain_has_an_id_of_its_own():
    assert TD.id == accepted("spiffe://example.org")
    assert TD.id.path == ""


@pytest.mark.conformance("ID-1", "X-24")
@pytest.mark.parametrize(
    "text",
    ["http://example.org/x", "spiffe:/example.org/x", "example.org/x", "/x", "spiffe", "xspiffe://example.org/x"],
)
def test_another_scheme_is_refused(text):
    refused(SpiffeId.parse, text, "scheme is missing or invalid")


def test_an_empty_text_is_refused():
    refused(SpiffeId.parse, "", "SPIFFE ID cannot be empty")
    refused(TrustDomain.parse, "", "trust domain is missing")


@pytest.mark.conformance("ID-2")
@pytest.mark.parametrize("text", ["spiffe://", "spiffe:///", "spiffe:///x"])
def test_an_id_without_trust_domain_is_refused(text):
    refused(SpiffeId.parse, text, "trust domain is missing")
    refused(TrustDomain.parse, text, "trust domain is missing")


@pytest.mark.conformance("ID-3")
@pytest.mark.parametrize("tail", ["?", "?a=b", "#", "#f", "?#", "/x?", "/x?a=b", "/x#", "/x#f"])
def test_query_and_fragment_are_refused(tail):
    refused(SpiffeId.parse, f"spiffe://example.org{tail}", "is invalid: characters are limited")


@pytest.mark.conformance("ID-4")
@pytest.mark.parametrize("authority", ["u@example.org", "@example.org", "u:p@example.org", ":@example.org"])
def test_user_information_is_refused(authority):
    refused(SpiffeId.parse, f"spiffe://{authority}/x", "trust domain .* is invalid")


@pytest.mark.conformance("ID-5")
@pytest.mark.parametrize("authority", ["example.org:8443", "example.org:", "example.org:0", ":"])
def test_a_port_is_refused(authority):
    refused(SpiffeId.parse, f"spiffe://{authority}/x", "trust domain .* is invalid")
    refused(TrustDomain, authority, "trust domain .* is invalid")


@pytest.mark.conformance("ID-6", "ID-18")
@pytest.mark.parametrize("text", ["spiffe://Example.org/x", "spiffe://EXAMPLE.ORG", "spiffe://example.orG/x"])
def test_an_uppercase_trust_domain_is_refused_not_folded(text):
    refused(SpiffeId.parse, text, "limited to lowercase letters")
    refused(TrustDomain.parse, text, "limited to lowercase letters")


@pytest.mark.conformance("ID-18")
@pytest.mark.parametrize("scheme", ["SPIFFE", "Spiffe", "\u017fpiffe"])
def test_an_uppercase_scheme_is_refused_not_folded(scheme):
    refused(SpiffeId.parse, f"{scheme}://example.org/x", "scheme is missing or invalid")


@pytest.mark.conformance("ID-18")
def test_paths_that_differ_in_case_are_two_ids():
    assert accepted("spiffe://example.org/A") != accepted("spiffe://example.org/a")


@pytest.mark.conformance("ID-7")
def test_39_characters_make_trust_domain_names():
    def valid(name):
        try:
            return TrustDomain(name).name == name
        except InvalidSpiffeId:
            return False

    for place in ("{}", "a{}", "{}a", "a{}b"):
        assert [c for c in SWEEP if valid(place.format(c))] == sorted(TRUST_DOMAIN_CHARACTERS), place


@pytest.mark.conformance("ID-7")
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\0", " ", "\u2028", "\x85"])
def test_a_line_that_ends_after_the_trust_domain_is_refused(end):
    refused(TrustDomain, f"example.org{end}", "trust domain .* is invalid")
    refused(SpiffeId.parse, f"spiffe://example.org{end}", "trust domain .* is invalid")
    refused(SpiffeId.parse, f"spiffe://example.org{end}/x", "trust domain .* is invalid")


@pytest.mark.conformance("ID-8")
@pytest.mark.parametrize("name", ["%65xample.org", "example%2eorg", "ex%61mple.org", "%", "%00"])
def test_a_percent_in_a_trust_domain_is_refused_not_decoded(name):
    refused(SpiffeId.parse, f"spiffe://{name}/x", "trust domain .* is invalid")


@pytest.mark.conformance("ID-9")
@pytest.mark.parametrize(
    "name", ["1.2.3.4", "under_score", "-x-", "..", ".", "a..b", "a.", ".a", "td", "0", "_", "xn--80ak6aa92e"]
)
def test_a_trust_domain_need_not_be_a_host_name(name):
    assert accepted(f"spiffe://{name}/x").trust_domain.name == name


@pytest.mark.conformance("ID-7", "ID-9")
def test_an_ipv6_address_is_no_trust_domain():
    refused(TrustDomain, "[::1]", "trust domain .* is invalid")


@pytest.mark.conformance("ID-10")
@pytest.mark.parametrize("path", ["/%61", "/a%2Fb", "/%2e%2e", "/a%", "/%00"])
def test_a_percent_in_a_path_is_refused_not_decoded(path):
    refused(SpiffeId.parse, f"spiffe://example.org{path}", "path segment .* is invalid")


@pytest.mark.conformance("ID-11")
@pytest.mark.parametrize("path", ["//x", "/x//y", "///x"])
def test_an_empty_segment_is_refused(path):
    refused(SpiffeId.parse, f"spiffe://example.org{path}", "path cannot contain empty segments")


@pytest.mark.conformance("ID-12")
@pytest.mark.parametrize("path", ["/.", "/..", "/./x", "/../x", "/x/.", "/x/..", "/x/./y", "/x/../y"])
def test_a_dot_segment_is_refused_not_resolved(path):
    refused(SpiffeId.parse, f"spiffe://example.org{path}", "path cannot contain dot segments")


@pytest.mark.conformance("ID-12")
@pytest.mark.parametrize("path", ["/...", "/.x", "/..x", "/x.", "/x..", "/.x/..y/...", "/x/.y"])
def test_dots_beside_other_characters_make_a_segment(path):
    assert accepted(f"spiffe://example.org{path}").path == path


@pytest.mark.conformance("ID-13")
@pytest.mark.parametrize("path", ["/", "/x/", "/x/y/", "//", "/x//"])
def test_a_slash_at_the_end_is_refused(path):
    refused(SpiffeId.parse, f"spiffe://example.org{path}", "path cannot have a trailing slash|empty segments")


@pytest.mark.conformance("ID-14")
def test_65_characters_make_path_segments():
    def valid(path):
        try:
            return SpiffeId.parse(f"spiffe://example.org{path}").path == path
        except InvalidSpiffeId:
            return False

    for place in ("/a{}", "/{}a", "/a{}b", "/x/a{}/y"):
        found = [c for c in SWEEP if valid(place.format(c))]
        slash = ["/"] if place == "/a{}b" else []
        assert found == sorted([*SEGMENT_CHARACTERS, *slash]), place


@pytest.mark.conformance("ID-14")
@pytest.mark.parametrize("character", "~!$&'()*+,;=:@[]|^`{}\"<>\\% ")
def test_other_characters_of_uris_are_refused_in_paths(character):
    refused(SpiffeId.parse, f"spiffe://example.org/x{character}", "characters are limited to letters, numbers")


@pytest.mark.conformance("ID-14")
@pytest.mark.parametrize("end", ["\n", "\r\n", "\0", " ", "\u2028"])
def test_a_line_that_ends_after_the_path_is_refused(end):
    refused(SpiffeId.parse, f"spiffe://example.org/x{end}", "path segment .* is invalid")


@pytest.mark.conformance("ID-15")
def test_an_id_of_2048_bytes_is_one():
    text = "spiffe://example.org/" + "a" * (2048 - len("spiffe://example.org/"))

    assert len(text) == 2048
    accepted(text)


@pytest.mark.conformance("ID-15", "ID-17")
def test_the_longest_trust_domain_and_the_longest_path_go_together():
    name = "a" * 255
    path = "/b" + "c" * (2048 - len("spiffe:///b") - 255)

    assert len(str(accepted(f"spiffe://{name}{path}"))) == 2048
    refused(SpiffeId.parse, f"spiffe://{name}{path}c", "longer than 2048 bytes")


@pytest.mark.conformance("ID-16")
def test_an_id_of_2049_bytes_is_refused():
    text = "spiffe://example.org/" + "a" * (2049 - len("spiffe://example.org/"))

    refused(SpiffeId.parse, text, "SPIFFE ID is longer than 2048 bytes")
    with pytest.raises(InvalidSpiffeId, match="longer than 2048 bytes"):
        SpiffeId(TD, text.removeprefix("spiffe://example.org"))


@pytest.mark.conformance("ID-16")
def test_an_agent_s_id_is_never_made_longer_than_2048_bytes():
    room = 2048 - len("spiffe://example.org/spire/agent")

    assert len(str(agent_id(TD, "/" + "x" * (room - 1)))) == 2048
    with pytest.raises(InvalidSpiffeId, match="longer than 2048 bytes"):
        agent_id(TD, "/" + "x" * room)


@pytest.mark.conformance("ID-17")
def test_a_trust_domain_name_has_255_bytes_at_most():
    assert TrustDomain("a" * 255).name == "a" * 255
    refused(TrustDomain, "a" * 256, "longer than 255 bytes")
    refused(SpiffeId.parse, f"spiffe://{'a' * 256}/x", "longer than 255 bytes")


@pytest.mark.conformance("ID-17")
@pytest.mark.parametrize("name", ["\u212a", "td\u212a", "\u017f", "e\u0301", "\uff41"])
def test_letters_that_fold_to_ascii_are_refused(name):
    refused(TrustDomain, name, "limited to lowercase letters")


def test_a_path_of_its_own_starts_with_a_slash():
    with pytest.raises(InvalidSpiffeId, match="must have a leading slash"):
        SpiffeId(TD, "x")


def test_a_trust_domain_is_read_from_its_name_or_from_an_id_in_it():
    assert TrustDomain.parse("example.org") == TD
    assert TrustDomain.parse("spiffe://example.org") == TD
    assert TrustDomain.parse("spiffe://example.org/x") == TD
    refused(TrustDomain.parse, "spiffe://example.org/", "trailing slash")
    refused(TrustDomain.parse, "https://example.org", "scheme is missing or invalid")
    refused(TrustDomain.parse, "example.org/x", "trust domain .* is invalid")


def test_a_refusal_stays_short_whatever_was_sent():
    for text in (
        "x" * 10**6,
        "spiffe://example.org/" + "%" * 10**6,
        "spiffe://" + "a" * 10**6,
        "spiffe://a/" + "/" * 10**6,
    ):
        with pytest.raises(InvalidSpiffeId) as refusal:
            SpiffeId.parse(text)
        assert len(str(refusal.value)) < 400
    with pytest.raises(InvalidSpiffeId) as refusal:
        SpiffeId(TD, "x" * 10**6)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("path", "reserved"),
    [
        ("/spire", True),
        ("/spire/", None),
        ("/spire/agent/x", True),
        ("/spirex", False),
        ("/x/spire", False),
        ("", False),
    ],
)
def test_what_lies_below_spire_is_reserved(path, reserved):
    if reserved is None:
        refused(SpiffeId.parse, f"spiffe://example.org{path}", "trailing slash")
    else:
        assert SpiffeId(TD, path).is_reserved is reserved


def test_server_and_agents_have_reserved_ids():
    assert str(server_id(TD)) == "spiffe://example.org/spire/server"
    assert str(agent_id(TD, "/join_token/abc")) == "spiffe://example.org/spire/agent/join_token/abc"
    assert server_id(TD).is_reserved
    assert agent_id(TD, "/x").is_reserved


@pytest.mark.parametrize("suffix", ["x", "/x/", "//x", "/..", "/x y", "/"])
def test_an_agent_s_suffix_must_make_a_path(suffix):
    if suffix == "x":  # "/spire/agentx" is a path, and no agent's
        assert agent_id(TD, suffix).path == "/spire/agentx"
        return
    with pytest.raises(InvalidSpiffeId):
        agent_id(TD, suffix)


@given(st.text(max_size=40))
def test_whatever_is_read_is_spelt_as_it_was(text):
    for candidate in (text, f"spiffe://{text}", f"spiffe://example.org/{text}"):
        try:
            assert str(SpiffeId.parse(candidate)) == candidate
        except InvalidSpiffeId:
            continue


def test_an_id_equals_no_text():
    assert accepted("spiffe://example.org/x") != "spiffe://example.org/x"
    assert TD != "example.org"
