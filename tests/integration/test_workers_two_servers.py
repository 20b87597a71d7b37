"""Two servers on one database server and one token: an authority group, and to agents one server with two addresses."""

import signal
from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
import pytest

from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.errors import DenialReason
from spiffe_core.jwtsvid import parse_jwt_svid, verify_jwt_svid
from tests.support.server_processes import (
    NodeAgent,
    ServerProcess,
    attest,
    entitled,
    eventually,
    jwt_svid,
    register,
    server_process,
)
from tests.support.servers import Client, pb_id
from tests.support.softhsm import SoftHsmToken, init_token, library

pytest_plugins = ["tests.support.database_fixtures"]
pytestmark = pytest.mark.softhsm

Two = tuple[ServerProcess, ServerProcess]


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftHsmToken:
    return init_token(tmp_path_factory.mktemp("softhsm"), "shared", library())


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("postgres", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
def two(request: pytest.FixtureRequest, token: SoftHsmToken) -> Iterator[Two]:
    """Two servers, of which the first leads."""
    database = request.getfixturevalue(f"{request.param}_server").new_config()
    with server_process(token=token, database=database) as one, server_process(token=token, database=database) as other:
        one.start()
        other.start()
        yield one, other


async def _attested(server: ServerProcess) -> NodeAgent:
    async with server.admin() as admin, server.node() as nobody:
        return await attest(nobody, admin)


async def _served(client: Client, entry: str) -> None:
    async def is_served() -> bool:
        return entry in await entitled(client)

    await eventually(is_served)


async def test_an_agent_attested_at_one_server_goes_on_at_the_other(two):
    agent = await _attested(two[0])
    for server in two[::-1]:
        async with server.node(identity=agent.identity) as client:
            assert await entitled(client) == set()


async def test_an_entry_made_at_one_server_is_served_and_taken_away_by_the_other(two):
    agent = await _attested(two[0])
    async with two[0].admin() as admin, two[1].node(identity=agent.identity) as client:
        entry = await register(admin, agent.id, "/made")
        await _served(client, entry)
        await admin.call(entry_pb2, "BatchDeleteEntry", ids=[entry])

        async def is_gone() -> bool:
            return not await entitled(client)

        await eventually(is_gone)


async def test_a_ban_at_one_server_holds_at_the_other_on_the_next_call(two):
    agent = await _attested(two[0])
    async with two[0].admin() as admin, two[1].node(identity=agent.identity) as there:
        assert await entitled(there) == set()
        await admin.call(agent_pb2, "BanAgent", id=pb_id(agent.id.path))
        refusal = await there.refusal(agent_pb2, "PostStatus", current_bundle_serial=1)
        assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
        assert refusal.reason is DenialReason.AGENT_BANNED


async def test_both_servers_sign_with_the_one_key_of_each_kind_that_both_have_in_their_bundle(two):
    agent = await _attested(two[0])
    bundle = await two[0].bundle()
    assert await two[1].bundle() == bundle
    assert len(bundle.jwt_authorities) == len(bundle.x509_authorities) == 1
    async with two[1].admin() as admin:
        entry = await register(admin, agent.id, "/workload")
    tokens = []
    for server in two:
        async with server.node(identity=agent.identity) as client:
            await _served(client, entry)
            tokens.append(await jwt_svid(client, entry))
            verify_jwt_svid(tokens[-1], lambda _: bundle, ["audience"], datetime.now(UTC))
    assert {parse_jwt_svid(token).key_id for token in tokens} == {bundle.jwt_authorities[0].id}


async def test_the_server_that_is_left_goes_on_with_the_same_keys_and_the_other_comes_back_to_them(two):
    gone, left = two
    bundle = await left.bundle()
    agent = await _attested(gone)
    gone.end(signal.SIGKILL)
    async with left.admin() as admin, left.node(identity=agent.identity) as client:
        entry = await register(admin, agent.id, "/after")
        await _served(client, entry)
        verify_jwt_svid(await jwt_svid(client, entry), lambda _: bundle, ["audience"], datetime.now(UTC))
    gone.start()
    assert await gone.bundle() == await left.bundle() == bundle
    async with gone.node(identity=agent.identity) as client:
        await _served(client, entry)
