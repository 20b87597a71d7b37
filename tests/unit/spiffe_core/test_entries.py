"""Selectors, registration entries and agents: the rules that hold for each by itself."""

from dataclasses import replace

import pytest

from spiffe_core.agents import Agent, JoinToken
from spiffe_core.entries import (
    Entry,
    EntryId,
    Selector,
    check_entry,
    check_parent_id,
    check_workload_id,
    unique_selectors,
)
from spiffe_core.errors import InvalidEntry, InvalidSelector, InvalidSpiffeId
from spiffe_core.ids import SpiffeId, TrustDomain, agent_id, server_id

TD = TrustDomain("example.org")
ENTRY = Entry(
    spiffe_id=SpiffeId(TD, "/web"),
    parent_id=agent_id(TD, "/x"),
    selectors=(Selector("unix", "uid:1000"), Selector("unix", "gid:1000")),
)


def refused(error, why, **changes):
    with pytest.raises(error, match=why):
        check_entry(replace(ENTRY, **changes), TD)


def test_a_selector_is_a_type_and_a_value_that_may_hold_colons():
    assert Selector.parse("k8s:pod-label:app:web") == Selector("k8s", "pod-label:app:web")
    assert str(Selector("k8s", "pod-label:app:web")) == "k8s:pod-label:app:web"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must be formatted as type:value"),
        ("unix", "must be formatted as type:value"),
        (":uid:1", "missing selector type"),
        ("unix:", "missing selector value"),
    ],
)
def test_half_a_selector_is_refused(text, why):
    with pytest.raises(InvalidSelector, match=why):
        Selector.parse(text)


def test_a_selector_s_type_has_no_colon():
    with pytest.raises(InvalidSelector, match="selector type contains ':'"):
        Selector("a:b", "c")


def test_selectors_are_kept_once_in_their_order():
    a, b = Selector("x", "2"), Selector("x", "1")

    assert unique_selectors([a, b, a]) == (a, b)
    assert sorted([a, b]) == [b, a]


def test_an_ordinary_entry_is_accepted():
    check_entry(ENTRY, TD)
    check_entry(replace(ENTRY, parent_id=server_id(TD)), TD)


@pytest.mark.conformance("X-5", "ID-13")
def test_no_entry_is_for_the_trust_domain_itself():
    refused(InvalidSpiffeId, '"spiffe://example.org" is not a workload .* path is empty', spiffe_id=TD.id)


def test_a_parent_has_a_path():
    refused(InvalidSpiffeId, '"spiffe://example.org" is not a member .* path is empty', parent_id=TD.id)


@pytest.mark.parametrize("path", ["/spire", "/spire/server", "/spire/agent/x", "/spire/other"])
def test_no_entry_is_for_a_reserved_path(path):
    refused(InvalidSpiffeId, "path is in the reserved namespace", spiffe_id=SpiffeId(TD, path))


def test_entries_and_parents_lie_in_the_trust_domain():
    foreign = SpiffeId(TrustDomain("example.com"), "/web")

    refused(InvalidSpiffeId, 'not a member of trust domain "example.org"', spiffe_id=foreign)
    refused(InvalidSpiffeId, 'not a member of trust domain "example.org"', parent_id=foreign)
    with pytest.raises(InvalidSpiffeId, match="not a member"):
        check_workload_id(foreign, TD)
    with pytest.raises(InvalidSpiffeId, match="not a member"):
        check_parent_id(foreign, TD)


def test_an_entry_has_selectors():
    refused(InvalidEntry, "selector list is empty", selectors=())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"x509_svid_ttl": -1}, "X509SVIDTTL is negative"),
        ({"jwt_svid_ttl": -1}, "JWTSVIDTTL is negative"),
        ({"expires_at": -1}, "expiry is negative"),
    ],
)
def test_a_negative_time_is_refused(changes, why):
    refused(InvalidEntry, why, **changes)


@pytest.mark.conformance("W-41")
def test_a_hint_has_1024_bytes_at_most():
    check_entry(replace(ENTRY, hint="h" * 1024), TD)
    check_entry(replace(ENTRY, hint="é" * 512), TD)
    refused(InvalidEntry, "hint is too long, max length is 1024", hint="h" * 1025)
    refused(InvalidEntry, "hint is too long, max length is 1024", hint="é" * 512 + "h")


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_text_that_no_database_holds_is_refused(text):
    refused(InvalidEntry, "cannot be stored", hint=text)
    refused(InvalidEntry, "cannot be stored", selectors=(Selector("unix", text),))
    refused(InvalidEntry, "cannot be stored", selectors=(Selector(text, "x"),))


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 255])
def test_an_entry_may_come_with_its_id(name):
    check_entry(replace(ENTRY, id=EntryId(name)), TD)


@pytest.mark.parametrize("name", ["a b", "a/b", "é", "\u212a", "a\n", "x" * 256, "a\0"])
def test_an_entry_s_id_is_short_and_plain(name):
    refused(InvalidEntry, "entry ID contains invalid characters or is longer than 255", id=EntryId(name))


def test_dns_names_are_checked():
    check_entry(replace(ENTRY, dns_names=("web.example.org", "*.example.com")), TD)
    refused(InvalidEntry, "invalid DNS name", dns_names=("web example",))
    refused(InvalidEntry, "overlaps", dns_names=("a.example.org", "*.example.org"))
    refused(InvalidEntry, "reserved", dns_names=("server.steeple.internal",))


def test_a_stored_svid_has_selectors_of_one_type_and_is_prefetched():
    check_entry(replace(ENTRY, store_svid=True), TD)
    refused(
        InvalidEntry,
        "selector types must be the same when store SVID is enabled",
        store_svid=True,
        selectors=(Selector("unix", "uid:1"), Selector("k8s", "ns:x")),
    )
    refused(InvalidEntry, "prefetch cannot be disabled", store_svid=True, disable_x509_svid_prefetch=True)
    check_entry(replace(ENTRY, disable_x509_svid_prefetch=True), TD)


def test_entries_are_alike_by_parent_id_and_set_of_selectors():
    again = replace(ENTRY, selectors=(*reversed(ENTRY.selectors), ENTRY.selectors[0]), hint="other", admin=True)

    assert again.likeness == ENTRY.likeness
    assert replace(ENTRY, selectors=ENTRY.selectors[:1]).likeness != ENTRY.likeness
    assert replace(ENTRY, spiffe_id=SpiffeId(TD, "/other")).likeness != ENTRY.likeness
    assert replace(ENTRY, parent_id=agent_id(TD, "/y")).likeness != ENTRY.likeness


def test_an_agent_without_serial_number_is_banned():
    agent = Agent(id=agent_id(TD, "/x"), attestation_type="join_token", cert_serial="17", cert_not_after=1)

    assert not agent.banned
    assert replace(agent, cert_serial="").banned


def test_a_join_token_is_not_shown():
    assert "secret" not in repr(JoinToken("secret-value", 1))
