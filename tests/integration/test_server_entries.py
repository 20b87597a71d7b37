"""The Entry service for administrators: what may be registered, found, changed and deleted."""

from typing import Final

import pytest
import sqlalchemy as sa
from grpc import StatusCode

from server.datastore.tables import CHANGES
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.types import entry_pb2 as types_pb2
from spiffe_core.api.spire.api.types import federateswith_pb2, selector_pb2
from spiffe_core.bundle import Bundle
from spiffe_core.ids import TrustDomain
from tests.support.registry import entry
from tests.support.servers import TD, Refusal, pb_id, serving


@pytest.fixture
async def served():
    async with serving() as served:
        yield served


def pb(path="/workload", parent="/spire/agent/one", *wanted, **fields):
    """An entry as a caller sends it; without selectors it has ``unix:uid:1000``."""
    chosen = [text.partition(":") for text in wanted or ("unix:uid:1000",)]
    usual = {
        "spiffe_id": pb_id(path),
        "parent_id": pb_id(parent),
        "selectors": [selector_pb2.Selector(type=kind, value=value) for kind, _, value in chosen],
    }
    return types_pb2.Entry(**(usual | fields))


async def create(served, *entries, **more):
    return (await served.local.call(entry_pb2, "BatchCreateEntry", entries=entries, **more)).results


async def update(served, *entries, **more):
    return (await served.local.call(entry_pb2, "BatchUpdateEntry", entries=entries, **more)).results


def outcomes(results):
    return [(result.status.code, result.status.message) for result in results]


def code(status):
    return status.value[0]


OK: Final = (0, "OK")
LONGEST: Final = "x" * 1024


async def test_an_entry_is_registered_with_everything_that_it_has(served):
    served.datastore.bundles.create(Bundle(TrustDomain("other.test")))
    wanted = pb(
        "/web",
        "/spire/agent/x509pop/1",
        "unix:uid:1",
        "unix:path:/bin/a:b",
        id="my.own-ID_1",
        x509_svid_ttl=60,
        jwt_svid_ttl=30,
        federates_with=["spiffe://other.test"],
        dns_names=["a.test", "*.b.test"],
        hint=LONGEST,
        admin=True,
        downstream=True,
        expires_at=2_000_000_000,
        additional_attributes={"disable_x509_svid_prefetch": True, "jwt_svid_include_jti": True},
        revision_number=77,
        created_at=78,
    )
    [result] = await create(served, wanted)
    assert (result.status.code, result.status.message) == OK
    made = types_pb2.Entry()
    made.CopyFrom(wanted)
    made.federates_with[:] = ["other.test"]
    made.revision_number = 0
    made.created_at = int(served.clock.now().timestamp())
    assert result.entry == made
    assert await served.local.call(entry_pb2, "GetEntry", id="my.own-ID_1") == made


async def test_an_entry_without_an_id_is_given_one(served):
    [result] = await create(served, pb())
    assert len(result.entry.id) == 36
    assert (await served.local.call(entry_pb2, "GetEntry", id=result.entry.id)).spiffe_id == pb_id("/workload")


NOT_MEMBER: Final = 'is not a member of trust domain "example.org"'
NO_WORKLOAD: Final = 'is not a workload in trust domain "example.org"'
CONVERT: Final = "failed to convert entry: "
CREATE: Final = "failed to create entry: "
REFUSED: Final = {
    "no parent": (
        types_pb2.Entry(),
        f"{CONVERT}invalid parent ID: request must specify SPIFFE ID",
    ),
    "a foreign parent": (
        pb(parent_id=pb_id("/a", "other.test")),
        f'{CONVERT}invalid parent ID: "spiffe://other.test/a" {NOT_MEMBER}',
    ),
    "a parent without path": (
        pb(parent_id=pb_id("")),
        f'{CONVERT}invalid parent ID: "spiffe://example.org" {NOT_MEMBER}; path is empty',
    ),
    "no SPIFFE ID": (
        types_pb2.Entry(parent_id=pb_id("/a")),
        f"{CONVERT}invalid spiffe ID: request must specify SPIFFE ID",
    ),
    "a foreign SPIFFE ID": (
        pb(spiffe_id=pb_id("/a", "other.test")),
        f'{CONVERT}invalid spiffe ID: "spiffe://other.test/a" {NOT_MEMBER}',
    ),
    "a SPIFFE ID without path": (
        pb(spiffe_id=pb_id("")),
        f'{CONVERT}invalid spiffe ID: "spiffe://example.org" {NO_WORKLOAD}; path is empty',
    ),
    "the reserved ID": (
        pb("/spire"),
        f'{CONVERT}invalid spiffe ID: "spiffe://example.org/spire" {NO_WORKLOAD}; path is in the reserved namespace',
    ),
    "a reserved ID": (
        pb("/spire/agent/x"),
        f'{CONVERT}invalid spiffe ID: "spiffe://example.org/spire/agent/x" {NO_WORKLOAD}; path is in the reserved '
        "namespace",
    ),
    "no selector": (pb(selectors=[]), f"{CONVERT}selector list is empty"),
    "a selector without type": (pb(selectors=[{"value": "x"}]), f"{CONVERT}missing selector type"),
    "a selector without value": (pb(selectors=[{"type": "x"}]), f"{CONVERT}missing selector value"),
    "a colon in a type": (pb(selectors=[{"type": "a:b", "value": "c"}]), f"{CONVERT}selector type contains ':'"),
    "a negative X.509 lifetime": (pb(x509_svid_ttl=-1), f"{CREATE}X509SVIDTTL is negative"),
    "a negative JWT lifetime": (pb(jwt_svid_ttl=-1), f"{CREATE}JWTSVIDTTL is negative"),
    "a negative expiry": (pb(expires_at=-1), f"{CREATE}expiry is negative"),
    "a long hint": (pb(hint=LONGEST + "x"), f"{CONVERT}hint is too long, max length is 1024 characters"),
    "an ID of other characters": (
        pb(id="a/b"),
        f"{CREATE}entry ID contains invalid characters or is longer than 255",
    ),
    "a long ID": (pb(id="a" * 256), f"{CREATE}entry ID contains invalid characters or is longer than 255"),
    "a bad federated trust domain": (
        pb(federates_with=["Other"]),
        f"{CONVERT}invalid federated trust domain: trust domain 'Other' is invalid: characters are limited to "
        "lowercase letters, numbers, dots, dashes, and underscores",
    ),
    "the reserved DNS name": (
        pb(dns_names=["server.steeple.internal"]),
        f"{CONVERT}invalid DNS name 'server.steeple.internal': steeple.internal is reserved for the server's own "
        "certificate",
    ),
    "DNS names of which one covers another": (
        pb(dns_names=["*.a.test", "b.a.test"]),
        f'{CREATE}name "b.a.test" overlaps with an existing wildcard name in the list',
    ),
    "stored with selectors of two types": (
        pb("/a", "/b", "a:1", "b:1", store_svid=True),
        f"{CREATE}selector types must be the same when store SVID is enabled",
    ),
    "stored and not prefetched": (
        pb(store_svid=True, additional_attributes={"disable_x509_svid_prefetch": True}),
        f"{CREATE}X509-SVID prefetch cannot be disabled when store SVID is enabled",
    ),
    "a character that cannot be stored": (
        pb(hint="a\0b"),
        f"{CREATE}'a\\x00b' holds a character that cannot be stored: NUL or half a surrogate pair",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_breaks_a_rule_is_not_registered(served, what):
    wanted, text = REFUSED[what]
    assert outcomes(await create(served, wanted)) == [(code(StatusCode.INVALID_ARGUMENT), text)]
    assert served.datastore.entries.count() == 0


@pytest.mark.parametrize(
    "wanted",
    [
        pb(parent="/spire/server"),
        pb(parent="/spire"),
        pb(parent="/any/where"),
        pb(id="A.b-c_" + "9" * 249),
        pb("/spiret"),
        pb("/a", "/a"),
        pb("/s", "/p", "a:1", "a:2", store_svid=True),
    ],
    ids=["the server as parent", "a reserved parent", "any parent", "a long ID", "nearly reserved", "itself", "stored"],
)
async def test_what_breaks_no_rule_is_registered(served, wanted):
    assert outcomes(await create(served, wanted)) == [OK]


async def test_a_batch_has_an_outcome_for_each_entry_in_their_order(served):
    results = await create(
        served,
        pb("/a"),
        pb("/spire/b"),
        pb("/a", hint="again"),
        pb("/c", federates_with=["unknown.test"]),
        pb("/d", id="id"),
        pb("/e", id="id"),
    )
    assert [(status, text.partition(":")[0]) for status, text in outcomes(results)] == [
        OK,
        (code(StatusCode.INVALID_ARGUMENT), "failed to convert entry"),
        (code(StatusCode.ALREADY_EXISTS), "similar entry already exists"),
        (code(StatusCode.INTERNAL), "failed to create entry"),
        OK,
        (code(StatusCode.ALREADY_EXISTS), 'an entry with ID "id" already exists'),
    ]
    assert results[3].status.message == (
        'failed to create entry: unable to find federated bundle "spiffe://unknown.test"'
    )
    assert results[2].entry == results[0].entry
    assert not results[1].HasField("entry")
    assert [one.spiffe_id.path for one in served.datastore.entries.list().items] == ["/a", "/d"]


async def test_a_similar_entry_is_answered_with_the_one_that_is_there(served):
    [first] = await create(served, pb("/a", "/p", "x:1", "x:2", hint="first"))
    [second] = await create(served, pb("/a", "/p", "x:2", "x:1", "x:2", hint="second", id="other"))
    assert outcomes([second]) == [(code(StatusCode.ALREADY_EXISTS), "similar entry already exists")]
    assert second.entry == first.entry


@pytest.mark.parametrize(
    "other",
    [pb("/b", "/p", "x:1"), pb("/a", "/q", "x:1"), pb("/a", "/p", "x:2"), pb("/a", "/p", "x:1", "x:2")],
    ids=["SPIFFE ID", "parent", "selector", "one more selector"],
)
async def test_an_entry_that_differs_in_one_of_three_things_is_another(served, other):
    assert outcomes(await create(served, pb("/a", "/p", "x:1"), other)) == [OK, OK]


async def test_a_mask_chooses_what_is_answered(served):
    [result] = await create(served, pb(hint="h"), output_mask={"hint": True})
    assert {name.name for name, _ in result.entry.ListFields()} == {"id", "hint"}
    shown = await served.local.call(entry_pb2, "GetEntry", id=result.entry.id, output_mask={"parent_id": True})
    assert {name.name for name, _ in shown.ListFields()} == {"id", "parent_id"}
    listed = await served.local.call(entry_pb2, "ListEntries", output_mask={})
    assert [{name.name for name, _ in one.ListFields()} for one in listed.entries] == [{"id"}]


async def test_a_batch_is_one_transaction(served):
    def transactions():
        with served.datastore._database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(CHANGES)).scalar_one()

    before = transactions()
    results = await create(served, *(pb(f"/w/{number}") for number in range(500)))
    assert outcomes(results) == [OK] * 500
    assert transactions() == before + 1
    await update(served, *(types_pb2.Entry(id=one.entry.id, hint="h") for one in results), input_mask={"hint": True})
    assert transactions() == before + 2
    await served.local.call(entry_pb2, "BatchDeleteEntry", ids=[one.entry.id for one in results])
    assert transactions() == before + 3
    assert served.datastore.entries.count() == 0


@pytest.mark.parametrize("rpc", ["BatchCreateEntry", "BatchUpdateEntry", "BatchDeleteEntry"])
async def test_an_empty_batch_has_no_outcomes(served, rpc):
    assert not (await served.local.call(entry_pb2, rpc)).results


# -- update and delete -----------------------------------------------------------------------------------------


async def test_an_update_without_a_mask_replaces_everything(served):
    [made] = await create(served, pb("/a", "/p", "x:1", hint="h", admin=True, dns_names=["a.test"]))
    [result] = await update(served, pb("/b", "/q", "x:2", id=made.entry.id, x509_svid_ttl=9))
    assert outcomes([result]) == [OK]
    assert result.entry == pb(
        "/b",
        "/q",
        "x:2",
        id=made.entry.id,
        x509_svid_ttl=9,
        revision_number=1,
        created_at=made.entry.created_at,
    )


async def test_an_update_changes_the_fields_of_its_mask_and_no_others(served):
    [made] = await create(served, pb("/a", "/p", "x:1", hint="h", dns_names=["a.test"]))
    change = types_pb2.Entry(id=made.entry.id, hint="new", x509_svid_ttl=9, admin=True)
    [result] = await update(served, change, input_mask={"hint": True, "dns_names": True})
    assert result.entry == pb(
        "/a", "/p", "x:1", id=made.entry.id, hint="new", revision_number=1, created_at=made.entry.created_at
    )


async def test_each_update_is_a_revision_even_one_that_changes_nothing(served):
    [made] = await create(served, pb())
    for revision in (1, 2):
        [result] = await update(served, types_pb2.Entry(id=made.entry.id), input_mask={})
        assert result.entry.revision_number == revision


NOT_UPDATED: Final = {
    "an unknown ID": (
        types_pb2.Entry(id="unknown"),
        {"hint": True},
        StatusCode.NOT_FOUND,
        "failed to update entry: entry not found",
    ),
    "no selectors": (
        types_pb2.Entry(id="one"),
        {"selectors": True},
        StatusCode.INVALID_ARGUMENT,
        "failed to convert entry: selector list is empty",
    ),
    "a reserved ID": (
        types_pb2.Entry(id="one", spiffe_id=pb_id("/spire/a")),
        {"spiffe_id": True},
        StatusCode.INVALID_ARGUMENT,
        'failed to convert entry: invalid spiffe ID: "spiffe://example.org/spire/a" is not a workload in trust domain '
        '"example.org"; path is in the reserved namespace',
    ),
    "to be stored with selectors of two types": (
        types_pb2.Entry(id="one", store_svid=True),
        {"store_svid": True},
        StatusCode.INVALID_ARGUMENT,
        "failed to update entry: selector types must be the same when store SVID is enabled",
    ),
    "a negative lifetime": (
        types_pb2.Entry(id="one", jwt_svid_ttl=-1),
        {"jwt_svid_ttl": True},
        StatusCode.INVALID_ARGUMENT,
        "failed to update entry: JWTSVIDTTL is negative",
    ),
    "like another": (
        types_pb2.Entry(id="one", spiffe_id=pb_id("/two")),
        {"spiffe_id": True},
        StatusCode.ALREADY_EXISTS,
        "similar entry already exists",
    ),
    "an unknown bundle": (
        types_pb2.Entry(id="one", federates_with=["unknown.test"]),
        {"federates_with": True},
        StatusCode.INTERNAL,
        'failed to update entry: unable to find federated bundle "spiffe://unknown.test"',
    ),
}


@pytest.mark.parametrize("what", NOT_UPDATED)
async def test_an_update_that_breaks_a_rule_changes_nothing(served, what):
    change, mask, status, text = NOT_UPDATED[what]
    await create(served, pb("/one", "/p", "a:1", "b:1", id="one"), pb("/two", "/p", "a:1", "b:1", id="two"))
    assert outcomes(await update(served, change, input_mask=mask)) == [(code(status), text)]
    assert [(one.id, one.revision_number) for one in served.datastore.entries.list().items] == [("one", 0), ("two", 0)]


async def test_a_refused_update_keeps_no_other_of_its_batch_from_being_made(served):
    await create(served, pb("/one", id="one"))
    results = await update(
        served,
        types_pb2.Entry(id="unknown"),
        types_pb2.Entry(id="one", hint="new"),
        input_mask={"hint": True},
        output_mask={"hint": True},
    )
    assert [result.status.code for result in results] == [code(StatusCode.NOT_FOUND), 0]
    assert {name.name for name, _ in results[1].entry.ListFields()} == {"id", "hint"}


async def test_a_batch_of_deletions_has_an_outcome_for_each(served):
    await create(served, pb("/one", id="one"), pb("/two", id="two"))
    answer = await served.local.call(entry_pb2, "BatchDeleteEntry", ids=["one", "", "unknown", "one", "two"])
    assert [(result.id, result.status.code, result.status.message) for result in answer.results] == [
        ("one", *OK),
        ("", code(StatusCode.INVALID_ARGUMENT), "missing entry ID"),
        ("unknown", code(StatusCode.NOT_FOUND), "entry not found"),
        ("one", code(StatusCode.NOT_FOUND), "entry not found"),
        ("two", *OK),
    ]
    refusal = await served.local.refusal(entry_pb2, "GetEntry", id="one")
    assert refusal == Refusal(StatusCode.NOT_FOUND, "entry not found")


# -- lists -----------------------------------------------------------------------------------------------------


@pytest.fixture
def registered(served):
    for name in ("one.test", "two.test"):
        served.datastore.bundles.create(Bundle(TrustDomain(name)))
    one, two = TrustDomain("one.test"), TrustDomain("two.test")
    served.register(
        entry("/a", "/p", "s:1", hint="h", federates_with=(one,)),
        entry("/b", "/p", "s:1", "s:2", federates_with=(one, two), downstream=True),
        entry("/c", "/q", "s:3"),
        entry("/a", "/q", "s:2", "s:3"),
    )
    return served


def by_selectors(match, *texts):
    return {"by_selectors": {"match": match, "selectors": [{"type": "s", "value": text} for text in texts]}}


def by_federation(match, *names):
    kind = federateswith_pb2.FederatesWithMatch
    return {"by_federates_with": {"match": kind.MatchBehavior.Value(match), "trust_domains": names}}


FILTERS: Final = {
    "none": ({}, "abca"),
    "a SPIFFE ID": ({"by_spiffe_id": pb_id("/a")}, "aa"),
    "a parent": ({"by_parent_id": pb_id("/p")}, "ab"),
    "a SPIFFE ID and a parent": ({"by_spiffe_id": pb_id("/a"), "by_parent_id": pb_id("/q")}, "a"),
    "exactly these selectors": (by_selectors("MATCH_EXACT", "1"), "a"),
    "exactly these selectors in another order": (by_selectors("MATCH_EXACT", "2", "1", "2"), "b"),
    "no selectors but these": (by_selectors("MATCH_SUBSET", "1", "2"), "ab"),
    "these selectors and any": (by_selectors("MATCH_SUPERSET", "2"), "ba"),
    "one of these selectors": (by_selectors("MATCH_ANY", "1", "3"), "abca"),
    "exactly these trust domains": (by_federation("MATCH_EXACT", "one.test"), "a"),
    "no trust domains but these": (by_federation("MATCH_SUBSET", "one.test", "two.test"), "ab"),
    "these trust domains and any": (by_federation("MATCH_SUPERSET", "spiffe://one.test"), "ab"),
    "one of these trust domains": (by_federation("MATCH_ANY", "two.test"), "b"),
    "a hint": ({"by_hint": {"value": "h"}}, "a"),
    "an empty hint, which filters nothing": ({"by_hint": {"value": ""}}, "abca"),
    "downstream": ({"by_downstream": {"value": True}}, "b"),
    "not downstream, which filters nothing": ({"by_downstream": {"value": False}}, "abca"),
}


@pytest.mark.parametrize("what", FILTERS)
async def test_a_filter_chooses_entries(registered, what):
    wanted, found = FILTERS[what]
    answer = await registered.local.call(entry_pb2, "ListEntries", filter=wanted)
    assert "".join(one.spiffe_id.path[1:] for one in answer.entries) == found
    assert answer.next_page_token == ""
    assert (await registered.local.call(entry_pb2, "CountEntries", filter=wanted)).count == len(found)


BAD_FILTERS: Final = {
    "no selectors": ({"by_selectors": {}}, "malformed selectors filter: empty selector set"),
    "a malformed selector": (
        {"by_selectors": {"selectors": [{"type": "a:b", "value": "c"}]}},
        "malformed selectors filter: selector type contains ':'",
    ),
    "no trust domains": ({"by_federates_with": {}}, "malformed federates with filter: empty trust domain set"),
    "a malformed trust domain": (
        {"by_federates_with": {"trust_domains": ["A"]}},
        "malformed federates with filter: trust domain 'A' is invalid: characters are limited to lowercase letters, "
        "numbers, dots, dashes, and underscores",
    ),
    "a foreign SPIFFE ID": (
        {"by_spiffe_id": pb_id("/a", "other.test")},
        f'malformed SPIFFE ID filter: "spiffe://other.test/a" {NOT_MEMBER}',
    ),
    "a parent without path": (
        {"by_parent_id": pb_id("")},
        f'malformed parent ID filter: "spiffe://example.org" {NOT_MEMBER}; path is empty',
    ),
}


@pytest.mark.parametrize("rpc", ["ListEntries", "CountEntries"])
@pytest.mark.parametrize("what", BAD_FILTERS)
async def test_a_malformed_filter_is_refused(served, rpc, what):
    wanted, text = BAD_FILTERS[what]
    assert await served.local.refusal(entry_pb2, rpc, filter=wanted) == Refusal(StatusCode.INVALID_ARGUMENT, text)


async def pages(served, size, **wanted):
    found, token = [], ""
    while True:
        answer = await served.local.call(entry_pb2, "ListEntries", page_size=size, page_token=token, filter=wanted)
        found.append("".join(one.spiffe_id.path[1:] for one in answer.entries))
        token = answer.next_page_token
        if not token:
            return found
        assert token.isdecimal()


async def test_every_page_that_is_not_empty_has_a_token(registered):
    assert await pages(registered, 2) == ["ab", "ca", ""]
    assert await pages(registered, 3) == ["abc", "a", ""]
    assert await pages(registered, 10) == ["abca", ""]


async def test_pages_of_a_filter_are_full(registered):
    assert await pages(registered, 1, **by_selectors("MATCH_SUPERSET", "2")) == ["b", "a", ""]
    assert await pages(registered, 2, **by_selectors("MATCH_EXACT", "3")) == ["c", ""]


async def test_what_is_registered_while_somebody_pages_comes_last(registered):
    first = await registered.local.call(entry_pb2, "ListEntries", page_size=3)
    registered.datastore.entries.delete_batch([first.entries[2].id])
    registered.register(entry("/z"))
    rest = await registered.local.call(entry_pb2, "ListEntries", page_size=3, page_token=first.next_page_token)
    assert "".join(one.spiffe_id.path[1:] for one in rest.entries) == "az"


@pytest.mark.parametrize("token", ["x", "-1", "1.0", str(2**64), "\u0661"])
async def test_a_page_token_that_is_none_is_refused(served, token):
    refusal = await served.local.refusal(entry_pb2, "ListEntries", page_size=1, page_token=token)
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, f"could not parse token '{token}'")


async def test_an_entry_is_asked_for_by_its_id(served):
    assert await served.local.refusal(entry_pb2, "GetEntry") == Refusal(StatusCode.INVALID_ARGUMENT, "missing ID")
    refusal = await served.local.refusal(entry_pb2, "GetEntry", id="unknown")
    assert refusal == Refusal(StatusCode.NOT_FOUND, "entry not found")


def test_the_trust_domain_of_the_tables_is_the_servers():
    assert TrustDomain("example.org") == TD
