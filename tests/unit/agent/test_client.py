"""What an agent makes of a server that answers, refuses, lies, or goes away in the middle of a sentence."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from google.rpc import status_pb2

from agent.client import ServerClient
from agent.csr import make_csr
from agent.node_attestors.join_token import JoinTokenAttestor
from spiffe_core.api.convert.bundles import bundle_to_pb
from spiffe_core.api.convert.entries import entry_to_pb
from spiffe_core.api.convert.ids import id_to_pb
from spiffe_core.api.convert.status import status_to_pb
from spiffe_core.api.services import methods_of, service_in
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.api.spire.api.types import entry_pb2 as entries_pb2
from spiffe_core.api.spire.api.types import status_pb2 as types_pb2
from spiffe_core.api.spire.api.types.x509svid_pb2 import X509SVID
from spiffe_core.bundle import Bundle, X509Authority
from spiffe_core.entries import EntryId
from spiffe_core.errors import (
    AttestationFailed,
    DenialReason,
    Denied,
    FailedPrecondition,
    Internal,
    InvalidConfig,
    ResourceExhausted,
    Unavailable,
)
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.files import private_folder
from spiffe_core.runtime.reach import UntrustedServer
from spiffe_core.x509svid import id_of
from tests.support.agent_values import TD, entry
from tests.support.pki import Realm

REALM = Realm()
KEY = ec.generate_private_key(ec.SECP256R1())
CSR = make_csr(KEY)
AGENT = "/spire/agent/join_token/one"
TOKEN = JoinTokenAttestor("one")


def refuse(code, text="no", details=()):
    """A handler that refuses every call."""

    async def handle(_request, context):
        await context.abort(code, text, details)

    return handle


def svid_pb(path=AGENT, *, key=KEY, realm=REALM, named=None) -> X509SVID:
    """An SVID for that key, under the ID of its path or the one that the message names."""
    identity = realm.issue(path, key=key)
    return X509SVID(
        cert_chain=[one.public_bytes(Encoding.DER) for one in identity.chain],
        id=id_to_pb(named or id_of(identity.chain[0])),
    )


class Way:
    """Stands for a dialler: the way to the server of a test."""

    def __init__(self, channel):
        self._channel = channel
        self.untrusted = False
        self.last_error = None

    async def channel(self):
        return self._channel


@asynccontextmanager
async def a_server(**handlers):
    """The client of a server that handles RPCs as it is told, by their names."""
    with private_folder() as folder:
        server = grpc.aio.server()
        for module in (agent_pb2, bundle_pb2, entry_pb2, svid_pb2):
            service = service_in(module.DESCRIPTOR)
            server.add_generic_rpc_handlers(
                (
                    grpc.method_handlers_generic_handler(
                        service.full_name,
                        {
                            method.name: _handler(method, handlers[method.name])
                            for method in methods_of(service)
                            if method.name in handlers
                        },
                    ),
                )
            )
        server.add_insecure_port(f"unix:{folder}/grpc")
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{folder}/grpc") as channel:
            way = Way(channel)
            client = ServerClient(way, TD)
            client.way = way
            yield client
        await server.stop(0)


def _handler(method, handle):
    build = grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
    return build(
        handle,
        request_deserializer=method.request.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


def saying(*answers):
    """A conversation: one of these answers, or lists of answers, for each request."""

    async def handle(requests, _context):
        said = iter(answers)
        async for _ in requests:
            answer = next(said, None)
            if answer is None:
                return
            for one in answer if isinstance(answer, list) else [answer]:
                yield one

    return handle


def answering(answer):
    async def handle(_request, _context):
        return answer

    return handle


def admission(svid, *, reattestable=False):
    result = agent_pb2.AttestAgentResponse.Result(svid=svid, reattestable=reattestable)
    return agent_pb2.AttestAgentResponse(result=result)


# -- attestation -----------------------------------------------------------------------------------------------


async def test_an_admission_is_an_svid_for_the_agents_key():
    async with a_server(AttestAgent=saying(admission(svid_pb(), reattestable=True))) as client:
        admitted = await client.attest(TOKEN, CSR)
    assert str(id_of(admitted.chain[0])) == f"spiffe://example.org{AGENT}"
    assert admitted.reattestable


@pytest.mark.parametrize(
    ("svid", "text"),
    [
        (svid_pb(key=ec.generate_private_key(ec.SECP256R1())), "is for another key than the one that was sent"),
        (svid_pb(realm=Realm("other.org")), "outside of trust domain"),
        (svid_pb(named=SpiffeId(TD, "/spire/agent/join_token/two")), "as the server said"),
        (X509SVID(), "has 0 certificates"),
    ],
    ids=["another key", "another trust domain", "another ID", "no certificate"],
)
async def test_an_svid_that_is_not_the_agents_is_refused(svid, text):
    async with a_server(AttestAgent=saying(admission(svid))) as client:
        with pytest.raises(Internal, match=text):
            await client.attest(TOKEN, CSR)


async def test_an_admission_without_an_svid_is_refused():
    async with a_server(AttestAgent=saying(agent_pb2.AttestAgentResponse())) as client:
        with pytest.raises(Internal, match="attest response is missing SVID"):
            await client.attest(TOKEN, CSR)


async def test_a_challenge_to_a_join_token_is_refused():
    async with a_server(AttestAgent=saying(agent_pb2.AttestAgentResponse(challenge=b"prove it"))) as client:
        with pytest.raises(AttestationFailed, match="server issued unexpected challenge"):
            await client.attest(TOKEN, CSR)


async def test_without_a_token_nothing_is_sent():
    async with a_server(AttestAgent=saying()) as client:
        with pytest.raises(InvalidConfig, match="join token was not provided"):
            await client.attest(JoinTokenAttestor(), CSR)


async def test_a_server_that_hangs_up_is_unavailable():
    async with a_server(AttestAgent=saying()) as client:
        with pytest.raises(Unavailable, match="ended the conversation before it had answered"):
            await client.attest(TOKEN, CSR)


def test_a_token_is_in_no_repr():
    assert "one" not in repr(TOKEN)


# -- refusals --------------------------------------------------------------------------------------------------


def details(reason):
    status = status_pb2.Status(code=7, message="no")
    status.details.add().Pack(types_pb2.PermissionDeniedDetails(reason=reason))
    return (("grpc-status-details-bin", status.SerializeToString()),)


@pytest.mark.parametrize("reason", list(DenialReason), ids=lambda reason: reason.name)
async def test_the_reason_of_a_refusal_arrives(reason):
    handler = refuse(grpc.StatusCode.PERMISSION_DENIED, "not you", details(int(reason)))
    async with a_server(RenewAgent=handler) as client:
        with pytest.raises(Denied, match="rpc error: code = PermissionDenied desc = not you") as caught:
            await client.renew(CSR)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "trailing", [(), details(99), (("grpc-status-details-bin", b"\xff\xff"),)], ids=["none", "unknown", "garbage"]
)
async def test_a_refusal_without_a_reason_that_we_know_has_none(trailing):
    async with a_server(RenewAgent=refuse(grpc.StatusCode.PERMISSION_DENIED, "no", trailing)) as client:
        with pytest.raises(Denied) as caught:
            await client.renew(CSR)
    assert caught.value.reason is None


@pytest.mark.parametrize(
    ("code", "kind", "name"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ResourceExhausted, "ResourceExhausted"),
        (grpc.StatusCode.FAILED_PRECONDITION, FailedPrecondition, "FailedPrecondition"),
        (grpc.StatusCode.INTERNAL, Internal, "Internal"),
        (grpc.StatusCode.UNAVAILABLE, Unavailable, "Unavailable"),
        (grpc.StatusCode.ABORTED, Unavailable, "Aborted"),
        (grpc.StatusCode.CANCELLED, Unavailable, "Canceled"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_status_code_is_an_error_of_ours(code, kind, name):
    async with a_server(GetBundle=refuse(code)) as client:
        with pytest.raises(kind, match=f"rpc error: code = {name} desc = no"):
            await client.bundle()


async def test_a_server_that_nobody_vouches_for_is_told_from_one_that_is_away():
    async with a_server(GetBundle=refuse(grpc.StatusCode.UNAVAILABLE)) as client:
        client.way.untrusted, client.way.last_error = True, "x509svid: certificate does not chain"
        with pytest.raises(UntrustedServer, match="desc = no: x509svid: certificate does not chain"):
            await client.bundle()


async def test_a_server_that_does_not_answer_in_time_is_unavailable():
    async def slow(_request, _context):
        await asyncio.sleep(60)

    async with a_server(NewJWTSVID=slow) as client:
        with pytest.raises(Unavailable, match="DeadlineExceeded"):
            await client.jwt_svid(EntryId("one"), ["a"], 0.05)


# -- bundles ---------------------------------------------------------------------------------------------------


async def test_the_bundle_keeps_its_taints():
    tainted = Bundle(TD, (X509Authority(REALM.root.der, tainted=True),))
    async with a_server(GetBundle=answering(bundle_to_pb(tainted))) as client:
        assert await client.bundle() == tainted


@pytest.mark.parametrize(
    ("bundle", "text"),
    [
        (Bundle(TrustDomain("other.org"), (X509Authority(REALM.root.der),)), "as its own"),
        (Bundle(TD), "a bundle without X.509 authorities"),
    ],
    ids=["another trust domain", "empty"],
)
async def test_a_bundle_that_would_lock_the_agent_out_is_refused(bundle, text):
    async with a_server(GetBundle=answering(bundle_to_pb(bundle))) as client:
        with pytest.raises(Internal, match=text):
            await client.bundle()


async def test_federated_bundles_are_of_those_that_were_asked_for():
    other, third, liar = map(TrustDomain, ("other.org", "third.org", "liar.org"))

    async def handle(request, context):
        if request.trust_domain == "third.org":
            await context.abort(grpc.StatusCode.NOT_FOUND, "bundle not found")
        return bundle_to_pb(Bundle(other, (X509Authority(REALM.root.der, tainted=True),)))

    async with a_server(GetFederatedBundle=handle) as client:
        found = await client.federated_bundles([other, third, liar])
    assert found == {other: Bundle(other, (X509Authority(REALM.root.der),))}, "a foreign taint is not its word to say"


# -- entries ---------------------------------------------------------------------------------------------------


def entries_pb(*entries, more=False):
    return entry_pb2.SyncAuthorizedEntriesResponse(entries=map(entry_to_pb, entries), more=more)


def revisions_pb(*entries, more=False):
    return entry_pb2.SyncAuthorizedEntriesResponse(
        entry_revisions=[
            entry_pb2.EntryRevision(id=one.id, revision_number=one.revision_number, created_at=one.created_at)
            for one in entries
        ],
        more=more,
    )


def bare(one):
    """An entry as agents are sent it."""
    return replace(one, parent_id=TD.id)


async def test_few_entries_come_whole():
    one, two, old = bare(entry("one")), bare(entry("two")), bare(entry("old"))
    async with a_server(SyncAuthorizedEntries=saying(entries_pb(one, two))) as client:
        changes = await client.sync_entries({one.id: one, old.id: old})
    assert changes.changed == {two.id: two}
    assert changes.removed == {old.id}


async def test_no_entries_at_all_are_an_answer():
    old = bare(entry("old"))
    async with a_server(SyncAuthorizedEntries=saying(entries_pb())) as client:
        assert (await client.sync_entries({old.id: old})).removed == {old.id}


async def test_of_many_entries_only_what_is_new_is_asked_for():
    same = bare(entry("same", revision_number=1, created_at=5))
    stale = bare(entry("stale", revision_number=2, created_at=5))
    remade = bare(entry("remade", revision_number=1, created_at=9))
    new = bare(entry("new"))
    known = {
        one.id: one
        for one in (same, replace(stale, revision_number=1), replace(remade, created_at=5), bare(entry("gone")))
    }
    asked = []

    async def handle(requests, _context):
        turns = iter(
            [
                [revisions_pb(same, stale, more=True), revisions_pb(remade, new)],
                [entries_pb(new, more=True), entries_pb(remade)],
                [entries_pb(stale)],
            ]
        )
        async for request in requests:
            asked.append(list(request.ids))
            for one in next(turns):
                yield one

    async with a_server(SyncAuthorizedEntries=handle) as client:
        changes = await client.sync_entries(known)
    assert asked == [[], ["new", "remade"], ["stale"]], "a page at a time, as large as the server's first"
    assert changes.changed == {one.id: one for one in (new, remade, stale)}
    assert changes.removed == {EntryId("gone")}


async def test_a_malformed_entry_is_passed_over_and_not_forgotten():
    good, known = bare(entry("good")), bare(entry("bad"))
    bad = entries_pb2.Entry(id="bad", spiffe_id=id_to_pb(SpiffeId(TrustDomain("other.org"), "/x")))
    nameless = entry_to_pb(replace(good, id=EntryId("")))
    answer = entry_pb2.SyncAuthorizedEntriesResponse(entries=[bad, nameless, entry_to_pb(good)])
    async with a_server(SyncAuthorizedEntries=saying(answer)) as client:
        changes = await client.sync_entries({known.id: known})
    assert changes.changed == {good.id: good}
    assert changes.removed == frozenset(), "the server has it still"


async def test_a_synchronisation_that_breaks_off_changes_nothing():
    async with a_server(SyncAuthorizedEntries=saying([revisions_pb(entry("one"), more=True)])) as client:
        task = asyncio.ensure_future(client.sync_entries({}))
        await asyncio.sleep(0.05)
        assert not task.done(), "there is more to come"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# -- SVIDs -----------------------------------------------------------------------------------------------------


def results(*pairs):
    result = svid_pb2.BatchNewX509SVIDResponse.Result
    return svid_pb2.BatchNewX509SVIDResponse(results=[result(status=status, svid=svid) for status, svid in pairs])


async def test_each_of_a_batch_has_its_svid_or_why_not():
    answer = results(
        (status_to_pb(), svid_pb("/one")),
        (status_to_pb(grpc.StatusCode.NOT_FOUND, "entry not found or not authorized"), None),
        (status_to_pb(), svid_pb("/three", key=ec.generate_private_key(ec.SECP256R1()))),
    )
    async with a_server(BatchNewX509SVID=answering(answer)) as client:
        found = await client.x509_svids({EntryId(name): CSR for name in ("one", "two", "three")})
    assert str(id_of(found["one"][0])) == "spiffe://example.org/one"
    assert found["two"] == "NotFound: entry not found or not authorized"
    assert "for another key" in found["three"]


async def test_an_svid_of_another_id_than_the_entry_had_is_for_another_workload():
    csr = make_csr(KEY, SpiffeId(TD, "/one"))
    answer = results((status_to_pb(), svid_pb("/one")), (status_to_pb(), svid_pb("/renamed")))
    async with a_server(BatchNewX509SVID=answering(answer)) as client:
        found = await client.x509_svids({EntryId("same"): csr, EntryId("changed"): csr})
    assert str(id_of(found["same"][0])) == "spiffe://example.org/one"
    assert found["changed"] == (
        'X509-SVID is of "spiffe://example.org/renamed": the entry has changed since it was asked for'
    )


async def test_an_answer_for_fewer_than_were_asked_for_is_refused():
    async with a_server(BatchNewX509SVID=answering(results((status_to_pb(), svid_pb("/one"))))) as client:
        with pytest.raises(Internal, match="server answered 1 of 2 X509-SVIDs"):
            await client.x509_svids({EntryId("one"): CSR, EntryId("two"): CSR})


async def test_a_malformed_token_is_refused():
    async with a_server(NewJWTSVID=answering(svid_pb2.NewJWTSVIDResponse())) as client:
        with pytest.raises(Internal, match="server gave a malformed JWT-SVID"):
            await client.jwt_svid(EntryId("one"), ["a"], 5.0)
