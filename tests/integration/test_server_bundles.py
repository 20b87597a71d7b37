"""The Bundle service: the trust domain's own bundle and those of others."""

from dataclasses import replace
from typing import Final

import pytest
from grpc import StatusCode

from spiffe_core.api.convert.bundles import bundle_from_pb, bundle_to_pb, jwt_authority_to_pb, x509_authority_to_pb
from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.api.spire.api.types import bundle_pb2 as types_pb2
from spiffe_core.bundle import Bundle
from spiffe_core.ids import TrustDomain
from tests.support.registry import OTHER_TD, entry, jwt_authority, x509_authority
from tests.support.servers import TD, Refusal, serving

Delete: Final = bundle_pb2.BatchDeleteFederatedBundleRequest
OK: Final = (0, "OK")
NAMES: Final = ("other.test", "third.test", "fourth.test")


@pytest.fixture
async def served():
    async with serving() as served:
        yield served


def bundle(name=OTHER_TD.name, **fields):
    """A bundle of two authorities."""
    usual = {"x509_authorities": (x509_authority(),), "jwt_authorities": (jwt_authority("kid"),)}
    return Bundle(TrustDomain(name), **(usual | {"refresh_hint": 60, "sequence_number": 42} | fields))


def outcomes(results):
    return [(result.status.code, result.status.message) for result in results]


def code(status):
    return status.value[0]


async def store(served, verb, *bundles, **more):
    pbs = [one if isinstance(one, types_pb2.Bundle) else bundle_to_pb(one) for one in bundles]
    return (await served.local.call(bundle_pb2, f"Batch{verb}FederatedBundle", bundle=pbs, **more)).results


# -- the own bundle --------------------------------------------------------------------------------------------


async def test_the_own_bundle_has_the_authorities_that_sign(served):
    own = await served.local.call(bundle_pb2, "GetBundle")
    assert bundle_from_pb(own) == served.parts.trust.own
    assert [one.key_id for one in own.jwt_authorities] == [served.parts.authorities.jwt.authority_id]


async def test_a_mask_chooses_what_is_shown_of_a_bundle(served):
    shown = await served.local.call(bundle_pb2, "GetBundle", output_mask={"jwt_authorities": True})
    assert {name.name for name, _ in shown.ListFields()} == {"trust_domain", "jwt_authorities"}
    shown = await (await served.remote()).call(bundle_pb2, "GetBundle", output_mask={})
    assert shown == types_pb2.Bundle(trust_domain=TD.name)


async def test_before_there_is_an_authority_there_is_no_bundle():
    async with serving(ready=False) as served:
        refusal = await served.local.refusal(bundle_pb2, "GetBundle")
        assert refusal == Refusal(StatusCode.NOT_FOUND, "bundle not found")


async def test_appended_authorities_are_in_the_bundle_with_those_before(served):
    before = await served.local.call(bundle_pb2, "GetBundle")
    root, key = x509_authority(), jwt_authority("kid", expires_at=2_000_000_000)
    answer = await served.local.call(
        bundle_pb2,
        "AppendBundle",
        x509_authorities=[x509_authority_to_pb(root)],
        jwt_authorities=[jwt_authority_to_pb(key)],
    )
    after = bundle_from_pb(answer)
    assert after.x509_authorities == (*bundle_from_pb(before).x509_authorities, root)
    assert after.jwt_authorities == (*bundle_from_pb(before).jwt_authorities, key)
    assert after.sequence_number == before.sequence_number + 1
    assert await served.local.call(bundle_pb2, "GetBundle") == answer


async def test_appending_what_is_there_changes_nothing(served):
    before = await served.local.call(bundle_pb2, "GetBundle")
    answer = await served.local.call(bundle_pb2, "AppendBundle", x509_authorities=before.x509_authorities)
    assert answer == before


async def test_agents_are_told_of_an_appended_authority_from_the_next_refresh_on(served):
    agent = await served.agent()
    await served.local.call(bundle_pb2, "AppendBundle", x509_authorities=[x509_authority_to_pb(x509_authority())])
    assert len((await agent.call(bundle_pb2, "GetBundle")).x509_authorities) == 1
    await served.refresh()
    assert len((await agent.call(bundle_pb2, "GetBundle")).x509_authorities) == 2


async def test_an_appended_bundle_is_shown_by_the_mask(served):
    answer = await served.local.call(
        bundle_pb2,
        "AppendBundle",
        jwt_authorities=[jwt_authority_to_pb(jwt_authority("kid"))],
        output_mask={"sequence_number": True},
    )
    assert {name.name for name, _ in answer.ListFields()} == {"trust_domain", "sequence_number"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "no authorities to append"),
        ({"x509_authorities": [{"asn1": b"x"}]}, "failed to convert X.509 authority: "),
        ({"jwt_authorities": [{"key_id": "k", "public_key": b"x"}]}, "failed to convert JWT authority: "),
        (
            {"jwt_authorities": [{"public_key": jwt_authority("k").public_key_der}]},
            "failed to convert JWT authority: missing key ID",
        ),
    ],
    ids=["none", "X.509", "JWT", "no key ID"],
)
async def test_what_is_no_authority_is_not_appended(served, fields, text):
    before = await served.local.call(bundle_pb2, "GetBundle")
    refusal = await served.local.refusal(bundle_pb2, "AppendBundle", **fields)
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert refusal.text.startswith(text)
    assert await served.local.call(bundle_pb2, "GetBundle") == before


# -- bundles of others -----------------------------------------------------------------------------------------


async def test_a_foreign_bundle_is_stored_and_shown_as_it_was_sent(served):
    wanted = bundle()
    [result] = await store(served, "Create", wanted)
    assert outcomes([result]) == [OK]
    assert bundle_from_pb(result.bundle) == wanted
    shown = await served.local.call(bundle_pb2, "GetFederatedBundle", trust_domain=OTHER_TD.name)
    assert shown == result.bundle
    by_id = await served.local.call(bundle_pb2, "GetFederatedBundle", trust_domain="spiffe://other.test")
    assert by_id == shown


async def test_what_a_caller_says_of_taint_and_wit_keys_is_passed_over(served):
    sent = bundle_to_pb(bundle())
    sent.x509_authorities[0].tainted = True
    sent.jwt_authorities[0].tainted = True
    sent.wit_authorities.add(key_id="wit")
    [result] = await store(served, "Create", sent)
    assert bundle_from_pb(result.bundle, keep_taint=True).x509_authorities[0].tainted is False
    assert not result.bundle.jwt_authorities[0].tainted
    assert not result.bundle.wit_authorities


async def test_agents_are_told_foreign_bundles_from_the_next_refresh_on(served):
    agent = await served.agent()
    await store(served, "Create", bundle())
    refusal = await agent.refusal(bundle_pb2, "GetFederatedBundle", trust_domain="other.test")
    assert refusal == Refusal(StatusCode.NOT_FOUND, "bundle not found")
    await served.refresh()
    told = await agent.call(bundle_pb2, "GetFederatedBundle", trust_domain="other.test")
    assert told.sequence_number == 42
    await served.local.call(bundle_pb2, "BatchDeleteFederatedBundle", trust_domains=["other.test"])
    await served.refresh()
    refusal = await agent.refusal(bundle_pb2, "GetFederatedBundle", trust_domain="other.test")
    assert refusal == Refusal(StatusCode.NOT_FOUND, "bundle not found")


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("other.test", StatusCode.NOT_FOUND, "bundle not found"),
        (
            TD.name,
            StatusCode.INVALID_ARGUMENT,
            "getting a federated bundle for the server's own trust domain is not allowed",
        ),
        ("A", StatusCode.INVALID_ARGUMENT, "trust domain argument is not valid: "),
    ],
    ids=["unknown", "own", "malformed"],
)
async def test_a_bundle_that_cannot_be_shown_is_refused(served, name, status, text):
    refusal = await served.local.refusal(bundle_pb2, "GetFederatedBundle", trust_domain=name)
    assert refusal.code is status
    assert refusal.text.startswith(text)


async def test_a_bundle_is_created_once(served):
    first, second = bundle(), bundle(sequence_number=43)
    results = await store(served, "Create", first, second)
    assert outcomes(results) == [OK, (code(StatusCode.ALREADY_EXISTS), "bundle already exists")]
    assert not results[1].HasField("bundle")
    assert served.datastore.bundles.get(OTHER_TD) == first


async def test_a_bundle_is_set_whether_or_not_there_was_one(served):
    for wanted in (bundle(), bundle(sequence_number=7, refresh_hint=0, jwt_authorities=())):
        assert outcomes(await store(served, "Set", wanted)) == [OK]
        assert served.datastore.bundles.get(OTHER_TD) == wanted


async def test_an_update_without_a_mask_replaces_everything(served):
    await store(served, "Create", bundle())
    wanted = bundle(sequence_number=7, refresh_hint=0, jwt_authorities=())
    assert outcomes(await store(served, "Update", wanted)) == [OK]
    assert served.datastore.bundles.get(OTHER_TD) == wanted


async def test_an_update_changes_the_fields_of_its_mask_and_no_others(served):
    before = bundle()
    await store(served, "Create", before)
    change = bundle(sequence_number=7, refresh_hint=1)
    [result] = await store(
        served, "Update", change, input_mask={"refresh_hint": True}, output_mask={"sequence_number": True}
    )
    assert served.datastore.bundles.get(OTHER_TD) == replace(before, refresh_hint=1)
    assert result.bundle == types_pb2.Bundle(trust_domain="other.test", sequence_number=42)


async def test_a_bundle_that_is_not_there_is_not_updated(served):
    assert outcomes(await store(served, "Update", bundle())) == [(code(StatusCode.NOT_FOUND), "bundle not found")]
    assert served.datastore.bundles.count() == 1


DOING: Final = {"Create": "creating", "Update": "updating", "Set": "setting"}


@pytest.mark.parametrize("verb", DOING)
async def test_a_batch_has_an_outcome_for_each_bundle_in_their_order(served, verb):
    if verb == "Update":
        await store(served, "Create", bundle("other.test"), bundle("third.test"))
    malformed = types_pb2.Bundle(trust_domain="fourth.test", x509_authorities=[{"asn1": b"x"}])
    nameless = types_pb2.Bundle(trust_domain="")
    results = await store(
        served, verb, bundle("other.test"), bundle(TD.name), malformed, nameless, bundle("third.test")
    )
    statuses, texts = zip(*outcomes(results), strict=True)
    invalid = code(StatusCode.INVALID_ARGUMENT)
    assert statuses == (0, invalid, invalid, invalid, 0)
    assert texts[1] == f"{DOING[verb]} a federated bundle for the server's own trust domain is not allowed"
    assert texts[2].startswith("failed to convert bundle: unable to parse X.509 authority: ")
    assert texts[3].startswith("trust domain argument is not valid: ")
    assert [result.bundle.trust_domain for result in results] == ["other.test", "", "", "", "third.test"]
    assert served.datastore.bundles.count() == 3


async def test_the_own_bundle_is_counted_and_not_listed(served):
    await store(served, "Create", *map(bundle, NAMES))
    assert (await served.local.call(bundle_pb2, "CountBundles")).count == 4
    answer = await served.local.call(bundle_pb2, "ListFederatedBundles")
    assert tuple(one.trust_domain for one in answer.bundles) == NAMES
    assert answer.next_page_token == ""


async def test_bundles_come_in_pages_that_an_empty_one_ends(served):
    await store(served, "Create", *map(bundle, NAMES))
    pages, token = [], ""
    while True:
        answer = await served.local.call(
            bundle_pb2, "ListFederatedBundles", page_size=2, page_token=token, output_mask={"refresh_hint": True}
        )
        assert all(one.refresh_hint == 60 and not one.sequence_number for one in answer.bundles)
        pages.append([one.trust_domain for one in answer.bundles])
        token = answer.next_page_token
        if not token:
            break
    assert pages == [["other.test"], ["third.test", "fourth.test"], []]


async def test_a_page_token_that_is_none_is_refused(served):
    refusal = await served.local.refusal(bundle_pb2, "ListFederatedBundles", page_size=1, page_token="x")
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, "could not parse token 'x'")


# -- deletion --------------------------------------------------------------------------------------------------


@pytest.fixture
async def federated(served):
    """An entry that federates with two trust domains, and one that does not."""
    await store(served, "Create", *map(bundle, NAMES))
    served.register(
        entry("/a", federates_with=(OTHER_TD, TrustDomain("third.test"))),
        entry("/b"),
    )
    return served


async def delete(served, *names, mode=Delete.RESTRICT):
    answer = await served.local.call(bundle_pb2, "BatchDeleteFederatedBundle", trust_domains=names, mode=mode)
    return [(result.trust_domain, result.status.code, result.status.message) for result in answer.results]


def entries(served):
    return [
        (one.spiffe_id.path, [td.name for td in one.federates_with], one.revision_number)
        for one in served.datastore.entries.list().items
    ]


async def test_a_bundle_with_which_entries_federate_is_kept(federated):
    before = entries(federated)
    text = "failed to delete federated bundle: cannot delete bundle; federated with 1 registration entries"
    assert await delete(federated, "other.test") == [("other.test", code(StatusCode.FAILED_PRECONDITION), text)]
    assert federated.datastore.bundles.count() == 4
    assert entries(federated) == before


async def test_a_bundle_takes_its_entries_along_where_that_is_asked(federated):
    assert await delete(federated, "other.test", mode=Delete.DELETE) == [("other.test", *OK)]
    assert entries(federated) == [("/b", [], 0)]


async def test_entries_forget_a_bundle_where_that_is_asked(federated):
    assert await delete(federated, "other.test", mode=Delete.DISSOCIATE) == [("other.test", *OK)]
    assert entries(federated) == [("/a", ["third.test"], 1), ("/b", [], 0)]


async def test_a_batch_of_deletions_has_an_outcome_for_each(federated):
    invalid = code(StatusCode.INVALID_ARGUMENT)
    results = await delete(federated, "spiffe://fourth.test", TD.name, "unknown.test", "A", "fourth.test")
    assert results[:3] == [
        ("spiffe://fourth.test", *OK),
        (TD.name, invalid, "removing the bundle for the server trust domain is not allowed"),
        ("unknown.test", code(StatusCode.NOT_FOUND), "bundle not found"),
    ]
    assert results[3][:2] == ("A", invalid)
    assert results[3][2].startswith("trust domain argument is not valid: ")
    assert results[4] == ("fourth.test", code(StatusCode.NOT_FOUND), "bundle not found")
    assert federated.datastore.bundles.get(TD) is not None


async def test_an_unknown_mode_is_refused(federated):
    refusal = await federated.local.refusal(
        bundle_pb2, "BatchDeleteFederatedBundle", trust_domains=["other.test"], mode=7
    )
    text = 'failed to parse deletion mode: unhandled delete mode "7"'
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, text)
