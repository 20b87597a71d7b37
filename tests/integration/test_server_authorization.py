"""Who may call what: every RPC of the server, called by every kind of caller over real connections."""

import asyncio
from datetime import timedelta
from typing import Final

import pytest
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode
from grpc_health.v1 import health_pb2

from server.authorization import ALLOWED
from server.rate_limits import POST_STATUS
from spiffe_core.api.services import methods_of, service_in
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.api.spire.api.server.debug.v1 import debug_pb2
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.server.logger.v1 import logger_pb2
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.errors import DenialReason
from spiffe_core.ids import SpiffeId
from tests.support import pki
from tests.support.registry import entry
from tests.support.servers import TD, Refusal, serving

ADMIN: Final = frozenset({"local", "admin"})
AGENT: Final = frozenset({"agent"})
LOCAL: Final = frozenset({"local"})
ANY: Final = frozenset({"local", "admin", "agent", "nobody"})

WELCOME: Final = {
    agent_pb2: {
        "AttestAgent": ANY,
        "BanAgent": ADMIN,
        "CountAgents": ADMIN,
        "CreateJoinToken": ADMIN,
        "DeleteAgent": ADMIN,
        "GetAgent": ADMIN,
        "ListAgents": ADMIN,
        "PostStatus": AGENT,
        "RenewAgent": AGENT,
    },
    bundle_pb2: {
        "AppendBundle": ADMIN,
        "BatchCreateFederatedBundle": ADMIN,
        "BatchDeleteFederatedBundle": ADMIN,
        "BatchSetFederatedBundle": ADMIN,
        "BatchUpdateFederatedBundle": ADMIN,
        "CountBundles": ADMIN,
        "GetBundle": ANY,
        "GetFederatedBundle": ADMIN | AGENT,
        "ListFederatedBundles": ADMIN,
    },
    debug_pb2: {"GetInfo": LOCAL},
    entry_pb2: {
        "BatchCreateEntry": ADMIN,
        "BatchDeleteEntry": ADMIN,
        "BatchUpdateEntry": ADMIN,
        "CountEntries": ADMIN,
        "GetAuthorizedEntries": AGENT,
        "GetEntry": ADMIN,
        "ListEntries": ADMIN,
        "SyncAuthorizedEntries": AGENT,
    },
    health_pb2: {"Check": LOCAL},
    logger_pb2: {"GetLogger": LOCAL, "ResetLogLevel": LOCAL, "SetLogLevel": LOCAL},
    svid_pb2: {
        "BatchNewWITSVID": AGENT,
        "BatchNewX509SVID": AGENT,
        "MintJWTSVID": ADMIN,
        "MintWITSVID": ADMIN,
        "MintX509SVID": ADMIN,
        "NewJWTSVID": AGENT,
    },
}
"""Every RPC that answers an empty request, and who is welcome: SPIRE's default policy, in the words of this test."""

ONLY_LOCAL: Final = {debug_pb2, health_pb2, logger_pb2}
"""Services that the TCP port does not have at all."""

OF_AN_EMPTY_REQUEST: Final = {
    "AppendBundle": (StatusCode.INVALID_ARGUMENT, "no authorities to append"),
    "AttestAgent": (StatusCode.INVALID_ARGUMENT, "malformed param: missing params"),
    "BanAgent": (StatusCode.INVALID_ARGUMENT, "invalid agent ID: request must specify SPIFFE ID"),
    "BatchNewWITSVID": (StatusCode.UNIMPLEMENTED, "WIT functionality is disabled"),
    "BatchNewX509SVID": (StatusCode.INVALID_ARGUMENT, "missing parameters"),
    "CreateJoinToken": (StatusCode.INVALID_ARGUMENT, "ttl is required, you must provide one"),
    "DeleteAgent": (StatusCode.INVALID_ARGUMENT, "invalid agent ID: request must specify SPIFFE ID"),
    "GetAgent": (StatusCode.INVALID_ARGUMENT, "invalid agent ID: request must specify SPIFFE ID"),
    "GetEntry": (StatusCode.INVALID_ARGUMENT, "missing ID"),
    "GetFederatedBundle": (
        StatusCode.INVALID_ARGUMENT,
        "trust domain argument is not valid: trust domain is missing",
    ),
    "MintJWTSVID": (StatusCode.INVALID_ARGUMENT, "invalid SPIFFE ID: request must specify SPIFFE ID"),
    "MintWITSVID": (StatusCode.UNIMPLEMENTED, "WIT functionality is disabled"),
    "MintX509SVID": (StatusCode.INVALID_ARGUMENT, "missing CSR"),
    "NewJWTSVID": (StatusCode.NOT_FOUND, "entry not found or not authorized"),
    "RenewAgent": (StatusCode.INVALID_ARGUMENT, "params cannot be nil"),
    "SetLogLevel": (StatusCode.INVALID_ARGUMENT, "newLevel value cannot be LogLevel_UNSPECIFIED"),
}
"""How an RPC refuses a request without a content from somebody who is welcome; the others answer it."""

UNKNOWN: Final = Refusal(StatusCode.UNIMPLEMENTED, "Method not found!")


async def local(served):
    return served.local


async def anonymous(served):
    return await served.remote()


async def workload(served):
    return await served.remote(served.issue())


async def agent(served):
    return await served.agent()


async def stranger(served):
    """It has an agent's ID, and is not known."""
    return await served.remote(served.issue("/spire/agent/x509pop/stranger"))


async def expired(served):
    """Its SVID ran out after it had connected."""
    client = await served.agent("x509pop/late", ttl=timedelta(minutes=1))
    assert await client.refusal(bundle_pb2, "GetBundle") is None
    served.clock.advance(61)
    return client


async def banned(served):
    client = await served.agent("x509pop/banned")
    served.datastore.agents.ban(SpiffeId(TD, "/spire/agent/x509pop/banned"))
    return client


async def evicted(served):
    client = await served.agent("x509pop/evicted")
    served.datastore.agents.delete(SpiffeId(TD, "/spire/agent/x509pop/evicted"))
    return client


async def superseded(served):
    """Another SVID of the same agent has taken the place of the one that it presents."""
    client = await served.agent("x509pop/old")
    served.attested("x509pop/old")
    return client


async def admin_by_configuration(served):
    return await served.remote(served.issue("/configured"))


async def admin_by_entry(served):
    served.register(entry("/registered", "/nowhere", admin=True))
    await served.refresh()
    return await served.remote(served.issue("/registered"))


async def downstream(served):
    served.register(entry("/nested", "/nowhere", downstream=True))
    await served.refresh()
    return await served.remote(served.issue("/nested"))


PARTNER: Final = pki.Realm("partner.test")


async def admin_of_another_trust_domain(served):
    root = pki.ca(None, pki.Shape(validity=_validity(served)), subject="Partner", uri="spiffe://partner.test")
    served.datastore.bundles.create(pki.Realm("partner.test", root).bundle)
    await served.refresh()
    return await served.remote(pki.Realm("partner.test", root).issue("/admin", validity=_validity(served)))


def _validity(served):
    return served.clock.now() - timedelta(hours=1), served.clock.now() + timedelta(hours=1)


CALLERS: Final = {
    local: ("local", None),
    anonymous: ("nobody", None),
    workload: ("nobody", DenialReason.AGENT_NOT_ATTESTED),
    downstream: ("nobody", DenialReason.AGENT_NOT_ATTESTED),
    agent: ("agent", None),
    stranger: ("nobody", DenialReason.AGENT_NOT_ATTESTED),
    expired: ("nobody", DenialReason.AGENT_EXPIRED),
    banned: ("nobody", DenialReason.AGENT_BANNED),
    evicted: ("nobody", DenialReason.AGENT_NOT_ATTESTED),
    superseded: ("nobody", DenialReason.AGENT_NOT_ACTIVE),
    admin_by_configuration: ("admin", DenialReason.AGENT_NOT_ATTESTED),
    admin_by_entry: ("admin", DenialReason.AGENT_NOT_ATTESTED),
    admin_of_another_trust_domain: ("admin", DenialReason.AGENT_NOT_ATTESTED),
}
"""What each caller is, and why it is no agent, as it is told by RPCs for agents."""


def expected(module, name, role, reason):
    """How the RPC refuses an empty request of such a caller, or None if it does not."""
    if module in ONLY_LOCAL and role != "local":
        return UNKNOWN
    welcome = WELCOME[module][name]
    if role in welcome:
        refusal = OF_AN_EMPTY_REQUEST.get(name)
        return Refusal(*refusal) if refusal else None
    path = f"/{service_in(module.DESCRIPTOR).full_name}/{name}"
    denial = reason if "agent" in welcome else None
    return Refusal(StatusCode.PERMISSION_DENIED, f"authorization denied for method {path}", denial)


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.__name__)
async def test_each_caller_is_let_in_where_it_is_welcome_and_refused_everywhere_else(caller):
    role, reason = CALLERS[caller]
    admins = '"spiffe://example.org/configured", "spiffe://partner.test/admin"'
    async with serving(f"admin_ids = [{admins}] ratelimit {{ attestation = false }}") as served:
        client = await caller(served)
        calls = [(module, name) for module, methods in WELCOME.items() for name in methods]
        found = {name: await client.refusal(module, name) for module, name in calls}
        assert found == {name: expected(module, name, role, reason) for module, name in calls}


def test_the_tables_have_every_rpc_that_is_offered():
    paths = {f"/{service_in(module.DESCRIPTOR).full_name}/{name}" for module, of in WELCOME.items() for name in of}
    assert set(ALLOWED) - paths == {"/grpc.health.v1.Health/Watch"}  # which does not end: it has tests of its own
    assert paths <= set(ALLOWED)


@pytest.mark.parametrize("where", ["local", "remote"])
async def test_rpcs_that_are_not_offered_are_unimplemented_for_everybody(where):
    async with serving('admin_ids = ["spiffe://example.org/configured"]') as served:
        client = served.local if where == "local" else await admin_by_configuration(served)
        missing = {
            method.name: await client.refusal(module, method.name)
            for module in (svid_pb2, bundle_pb2)
            for method in methods_of(service_in(module.DESCRIPTOR))
            if method.path not in ALLOWED
        }
        assert missing == dict.fromkeys(["NewDownstreamX509CA", "PublishJWTAuthority", "PublishWITAuthority"], UNKNOWN)


async def test_a_renewed_svid_is_let_in_and_ends_the_one_before_it():
    async with serving() as served:
        before = await served.agent()
        renewed = served.issue("/spire/agent/x509pop/one")
        leaf, agent_id = renewed.chain[0], SpiffeId(TD, "/spire/agent/x509pop/one")
        end = int(leaf.not_valid_after_utc.timestamp())
        current = served.datastore.agents.get(agent_id).cert_serial
        served.datastore.agents.set_new_serial(agent_id, str(leaf.serial_number), end, beside=current)
        assert await before.refusal(entry_pb2, "GetAuthorizedEntries") is None
        after = await served.remote(renewed)
        assert await after.refusal(entry_pb2, "GetAuthorizedEntries") is None
        known = served.datastore.agents.get(agent_id)
        assert (known.cert_serial, known.cert_not_after) == (str(leaf.serial_number), end)
        assert (known.new_cert_serial, known.new_cert_not_after) == ("", 0)
        refusal = await before.refusal(entry_pb2, "GetAuthorizedEntries")
        assert refusal.reason is DenialReason.AGENT_NOT_ACTIVE
        assert await after.refusal(entry_pb2, "GetAuthorizedEntries") is None


async def test_a_banned_agent_is_refused_on_its_next_call():
    async with serving() as served:
        client = await served.agent()
        assert await client.refusal(entry_pb2, "GetAuthorizedEntries") is None
        await served.local.call(agent_pb2, "BanAgent", id={"trust_domain": TD.name, "path": "/spire/agent/x509pop/one"})
        refusal = await client.refusal(entry_pb2, "GetAuthorizedEntries")
        assert refusal.reason is DenialReason.AGENT_BANNED


async def test_an_agent_that_is_banned_while_it_waits_for_its_turn_is_refused():
    async with serving() as served:
        client, limits = await served.agent(), served.shared.rate_limits
        for _ in range(3):
            limits.reserve(POST_STATUS, "127.0.0.1", POST_STATUS.per_second)
        waiting = asyncio.ensure_future(client.refusal(agent_pb2, "PostStatus", agent_version="1"))
        while limits.reserve(POST_STATUS, "127.0.0.1", 0) < 2.05:  # noqa: ASYNC110  until it is its turn after ours
            await asyncio.sleep(0.01)
        served.datastore.agents.ban(SpiffeId(TD, "/spire/agent/x509pop/one"))
        assert (await waiting).reason is DenialReason.AGENT_BANNED


async def test_with_a_staleness_a_ban_holds_when_it_has_passed():
    async with serving('max_attested_node_info_staleness = "10s"') as served:
        client = await served.agent()
        assert await client.refusal(entry_pb2, "GetAuthorizedEntries") is None
        served.datastore.agents.ban(SpiffeId(TD, "/spire/agent/x509pop/one"))
        served.clock.advance(9)
        assert await client.refusal(entry_pb2, "GetAuthorizedEntries") is None
        served.clock.advance(1)
        refusal = await client.refusal(entry_pb2, "GetAuthorizedEntries")
        assert refusal.reason is DenialReason.AGENT_BANNED


async def test_with_a_staleness_an_agent_that_renewed_is_asked_for_at_once():
    async with serving('max_attested_node_info_staleness = "10s"') as served:
        client = await served.agent()
        assert await client.refusal(entry_pb2, "GetAuthorizedEntries") is None
        newer = await served.remote(served.attested())
        assert await newer.refusal(entry_pb2, "GetAuthorizedEntries") is None
        assert (await client.refusal(entry_pb2, "GetAuthorizedEntries")).reason is DenialReason.AGENT_NOT_ACTIVE


async def test_an_admin_entry_that_is_deleted_makes_nobody_an_admin_any_more():
    async with serving() as served:
        client = await admin_by_entry(served)
        assert await client.refusal(entry_pb2, "CountEntries") is None
        [registered] = served.datastore.entries.list().items
        served.datastore.entries.delete_batch([registered.id])
        await served.refresh()
        assert (await client.refusal(entry_pb2, "CountEntries")).code is StatusCode.PERMISSION_DENIED


async def test_an_agent_that_is_an_admin_too_may_do_both():
    async with serving('admin_ids = ["spiffe://example.org/spire/agent/x509pop/one"]') as served:
        client = await served.agent()
        assert await client.refusal(entry_pb2, "CountEntries") is None
        assert await client.refusal(entry_pb2, "GetAuthorizedEntries") is None


async def test_everybody_may_read_the_bundle_and_sees_the_same():
    async with serving() as served:
        bundles = [
            MessageToDict(await client.call(bundle_pb2, "GetBundle"))
            for client in (served.local, await anonymous(served), await workload(served), await agent(served))
        ]
        assert bundles[0]["trustDomain"] == TD.name
        assert len(bundles[0]["x509Authorities"]) == 1
        assert all(bundle == bundles[0] for bundle in bundles)
