"""Registration entries in messages, whole and masked."""

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiffe_core.api.convert.entries import entry_fields, entry_from_pb, entry_to_pb
from spiffe_core.api.spire.api.types import entry_pb2, selector_pb2, spiffeid_pb2
from spiffe_core.entries import Entry, EntryId, Selector, check_entry
from spiffe_core.errors import InvalidEntry, InvalidInput, InvalidSelector
from spiffe_core.ids import SpiffeId, TrustDomain
from tests.support.strategies import entries

HOME = TrustDomain("home.test")
DEFAULTS = {field.name: field.default for field in fields(Entry)} | {
    "spiffe_id": HOME.id,
    "parent_id": HOME.id,
    "selectors": (),
}
FULL = Entry(
    id=EntryId("e1"),
    spiffe_id=SpiffeId(HOME, "/web"),
    parent_id=SpiffeId(HOME, "/spire/agent/join_token/t"),
    selectors=(Selector("unix", "uid:1000"), Selector("unix", "gid:1000")),
    x509_svid_ttl=60,
    jwt_svid_ttl=30,
    federates_with=(TrustDomain("away.test"),),
    dns_names=("web.test", "*.web.test"),
    hint="front",
    admin=True,
    downstream=True,
    store_svid=True,
    disable_x509_svid_prefetch=True,
    jwt_svid_include_jti=True,
    expires_at=2_000_000_000,
    created_at=1_700_000_000,
    revision_number=4,
)
"""Every field differs from its default."""


def masks() -> st.SearchStrategy[entry_pb2.EntryMask]:
    names = [field.name for field in entry_pb2.EntryMask.DESCRIPTOR.fields]
    return st.sets(st.sampled_from(names)).map(lambda chosen: entry_pb2.EntryMask(**dict.fromkeys(chosen, True)))


def sent(entry: Entry, mask: entry_pb2.EntryMask | None = None) -> entry_pb2.Entry:
    return entry_pb2.Entry.FromString(entry_to_pb(entry, mask).SerializeToString())


@settings(deadline=None)
@given(entries(HOME))
def test_an_entry_comes_back_as_it_went(entry: Entry) -> None:
    check_entry(entry, HOME)
    assert entry_from_pb(sent(entry), HOME) == entry


@settings(deadline=None)
@given(entries(HOME), masks())
def test_a_mask_keeps_the_chosen_fields_and_the_id_on_both_ways(entry: Entry, mask: entry_pb2.EntryMask) -> None:
    chosen = entry_fields(mask) | {"id"}
    want = replace(entry, **{name: value for name, value in DEFAULTS.items() if name not in chosen})
    assert entry_from_pb(sent(entry), HOME, mask) == want
    assert entry_from_pb(sent(entry, mask), HOME, mask) == want


def test_the_message_has_what_the_wire_says() -> None:
    def spiffe_id(path: str) -> spiffeid_pb2.SPIFFEID:
        return spiffeid_pb2.SPIFFEID(trust_domain="home.test", path=path)

    def selector(value: str) -> selector_pb2.Selector:
        return selector_pb2.Selector(type="unix", value=value)

    assert entry_to_pb(FULL) == entry_pb2.Entry(
        id="e1",
        spiffe_id=spiffe_id("/web"),
        parent_id=spiffe_id("/spire/agent/join_token/t"),
        selectors=[selector("uid:1000"), selector("gid:1000")],
        x509_svid_ttl=60,
        federates_with=["away.test"],
        admin=True,
        downstream=True,
        expires_at=2_000_000_000,
        dns_names=["web.test", "*.web.test"],
        revision_number=4,
        store_svid=True,
        jwt_svid_ttl=30,
        hint="front",
        created_at=1_700_000_000,
        additional_attributes=entry_pb2.Entry.AdditionalAttributes(
            disable_x509_svid_prefetch=True, jwt_svid_include_jti=True
        ),
    )


@pytest.mark.parametrize("name", [field.name for field in entry_pb2.EntryMask.DESCRIPTOR.fields])
def test_each_field_of_the_mask_chooses_the_field_of_its_name(name: str) -> None:
    written = entry_to_pb(FULL, entry_pb2.EntryMask(**{name: True}))
    assert {field.name for field, _ in written.ListFields()} == {"id", name}


def test_an_empty_mask_leaves_the_id() -> None:
    assert entry_to_pb(FULL, entry_pb2.EntryMask()) == entry_pb2.Entry(id="e1")


def test_no_mask_chooses_every_attribute_of_an_entry() -> None:
    assert entry_fields(None) == {field.name for field in fields(Entry)} - {"id"}
    assert entry_fields(entry_pb2.EntryMask()) == set()
    assert entry_fields(entry_pb2.EntryMask(hint=True, additional_attributes=True)) == {
        "hint",
        "disable_x509_svid_prefetch",
        "jwt_svid_include_jti",
    }


@pytest.mark.parametrize(("prefetch", "jti"), [(True, False), (False, True)])
def test_additional_attributes_are_sent_when_one_is_set(prefetch: bool, jti: bool) -> None:
    entry = replace(FULL, disable_x509_svid_prefetch=prefetch, jwt_svid_include_jti=jti)
    assert sent(entry).HasField("additional_attributes")
    assert entry_from_pb(sent(entry), HOME) == entry


def test_additional_attributes_are_absent_when_none_is_set() -> None:
    entry = replace(FULL, disable_x509_svid_prefetch=False, jwt_svid_include_jti=False)
    assert not sent(entry).HasField("additional_attributes")


def test_additional_attributes_that_are_there_and_false_are_false() -> None:
    pb = sent(replace(FULL, disable_x509_svid_prefetch=False, jwt_svid_include_jti=False))
    pb.additional_attributes.SetInParent()
    assert not entry_from_pb(pb, HOME).jwt_svid_include_jti


def test_trust_domains_to_federate_with_may_be_given_as_ids_and_come_back_as_names() -> None:
    pb = sent(FULL)
    pb.federates_with[:] = ["away.test", "spiffe://far.test", "spiffe://off.test/path"]
    entry = entry_from_pb(pb, HOME)
    assert entry.federates_with == (TrustDomain("away.test"), TrustDomain("far.test"), TrustDomain("off.test"))
    assert [*entry_to_pb(entry).federates_with] == ["away.test", "far.test", "off.test"]


def broken(**changes: object) -> entry_pb2.Entry:
    """``FULL`` as a message, with fields cleared (None) or set."""
    pb = sent(FULL)
    for name, value in changes.items():
        pb.ClearField(name)
        pb.MergeFrom(entry_pb2.Entry(**{name: value}))
    return pb


AWAY = spiffeid_pb2.SPIFFEID(trust_domain="away.test", path="/x")
REFUSED = [
    ("parent_id", None, InvalidEntry, "invalid parent ID: request must specify SPIFFE ID"),
    (
        "parent_id",
        AWAY,
        InvalidEntry,
        'invalid parent ID: "spiffe://away.test/x" is not a member of trust domain "home.test"',
    ),
    ("spiffe_id", None, InvalidEntry, "invalid spiffe ID: request must specify SPIFFE ID"),
    (
        "spiffe_id",
        spiffeid_pb2.SPIFFEID(trust_domain="home.test", path="/spire/server"),
        InvalidEntry,
        (
            'invalid spiffe ID: "spiffe://home.test/spire/server" is not a workload in trust domain "home.test"; '
            "path is in the reserved namespace"
        ),
    ),
    ("selectors", (), InvalidEntry, "selector list is empty"),
    ("selectors", [selector_pb2.Selector(value="v")], InvalidSelector, "missing selector type"),
    ("selectors", [selector_pb2.Selector(type="a:b", value="v")], InvalidSelector, "selector type contains ':'"),
    ("selectors", [selector_pb2.Selector(type="t")], InvalidSelector, "missing selector value"),
    (
        "dns_names",
        ["web.test", "a b"],
        InvalidEntry,
        "invalid DNS name 'a b': label 'a b' is not allowed",
    ),
    ("federates_with", [""], InvalidEntry, "invalid federated trust domain: trust domain is missing"),
    ("hint", "h" * 1025, InvalidEntry, "hint is too long, max length is 1024 characters"),
    ("hint", "é" * 513, InvalidEntry, "hint is too long, max length is 1024 characters"),
]


@pytest.mark.parametrize(("name", "value", "error", "text"), REFUSED)
def test_a_field_that_is_wrong_is_refused(name: str, value: object, error: type[InvalidInput], text: str) -> None:
    with pytest.raises(error) as refused:
        entry_from_pb(broken(**{name: value}), HOME)
    assert str(refused.value) == text


@pytest.mark.parametrize(("name", "value"), [case[:2] for case in REFUSED])
def test_a_field_outside_of_the_mask_may_be_wrong(name: str, value: object) -> None:
    others = [field.name for field in entry_pb2.EntryMask.DESCRIPTOR.fields if field.name != name]
    mask = entry_pb2.EntryMask(**dict.fromkeys(others, True))
    assert entry_from_pb(broken(**{name: value}), HOME, mask) == replace(FULL, **{name: DEFAULTS[name]})


def test_an_entry_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidEntry, match=r"^missing entry$"):
        entry_from_pb(None, HOME)


def test_the_first_thing_wrong_is_the_parent_then_the_id_then_dns_names_federation_and_selectors() -> None:
    pb = entry_pb2.Entry(dns_names=["a b"], federates_with=["A"], hint="h" * 1025)
    seen = []
    for name, value in [
        ("parent_id", sent(FULL).parent_id),
        ("spiffe_id", sent(FULL).spiffe_id),
        ("dns_names", ()),
        ("federates_with", ()),
        ("selectors", sent(FULL).selectors),
        ("hint", ""),
    ]:
        with pytest.raises(InvalidEntry) as refused:
            entry_from_pb(pb, HOME)
        seen.append(str(refused.value).partition(":")[0])
        pb.ClearField(name)
        pb.MergeFrom(entry_pb2.Entry(**{name: value}))
    assert seen == [
        "invalid parent ID",
        "invalid spiffe ID",
        "invalid DNS name 'a b'",
        "invalid federated trust domain",
        "selector list is empty",
        "hint is too long, max length is 1024 characters",
    ]
    assert entry_from_pb(pb, HOME).selectors == FULL.selectors
