"""Many entries: what an agent gets and costs depends on what it is entitled to, not on what there is."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest

from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.types import entry_pb2 as types_pb2
from spiffe_core.api.spire.api.types import selector_pb2
from tests.support.server_processes import ServerProcess, attest, entitled, eventually, server_process
from tests.support.servers import Client, pb_id
from tests.support.softhsm import SoftHsmToken, init_token, library

pytestmark = pytest.mark.softhsm

BATCH = 500


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftHsmToken:
    return init_token(tmp_path_factory.mktemp("softhsm"), "scale", library())


@pytest.fixture(scope="module")
def server(token: SoftHsmToken) -> Iterator[ServerProcess]:
    """Two workers without a limit on attestation."""
    with server_process(token=token, workers=2, server="ratelimit { attestation = false }") as process:
        process.start()
        yield process


def _entries(parent: str, prefix: str, count: int) -> list[types_pb2.Entry]:
    return [
        types_pb2.Entry(
            spiffe_id=pb_id(f"{prefix}/{number}"),
            parent_id=pb_id(parent),
            selectors=[selector_pb2.Selector(type="unix", value=f"uid:{number}")],
        )
        for number in range(count)
    ]


async def _create(admin: Client, entries: list[types_pb2.Entry]) -> set[str]:
    answer = await admin.call(entry_pb2, "BatchCreateEntry", entries=entries)
    assert {result.status.code for result in answer.results} == {0}
    return {result.entry.id for result in answer.results}


async def _sees(client: Client, wanted: set[str]) -> None:
    async def is_complete() -> bool:
        return await entitled(client) == wanted

    await eventually(is_complete)


async def _sync(client: Client) -> int:
    """Bytes of a full sync."""
    answers = await client.exchange(entry_pb2, "SyncAuthorizedEntries", entry_pb2.SyncAuthorizedEntriesRequest())
    return sum(answer.ByteSize() for answer in answers)


async def test_what_a_sync_sends_does_not_grow_with_the_entries_of_other_agents(server):
    async with server.admin() as admin, server.node() as nobody:
        agent = await attest(nobody, admin)
        own = await _create(admin, _entries(agent.id.path, "/own", 10))
        async with server.node(identity=agent.identity) as client:
            await _sees(client, own)
            before = await _sync(client)
            for number in range(8):
                await _create(admin, _entries(f"/spire/agent/other/{number}", f"/other-{number}", BATCH))
            last = await _create(admin, _entries(agent.id.path, "/last", 1))
            await _sees(client, own | last)  # so all that was made before it is known too
            [entry] = last
            await admin.call(entry_pb2, "BatchDeleteEntry", ids=[entry])
            await _sees(client, own)
            assert await _sync(client) == before


async def test_items_of_a_large_batch_that_are_refused_keep_no_other_from_being_created(server):
    entries = _entries("/spire/agent/mixed", "/mixed", BATCH)
    entries[100].ClearField("selectors")
    entries[200].CopyFrom(entries[0])
    async with server.admin() as admin:
        answer = await admin.call(entry_pb2, "BatchCreateEntry", entries=entries)
        codes = {at: result.status.code for at, result in enumerate(answer.results) if result.status.code}
        assert codes == {
            100: grpc.StatusCode.INVALID_ARGUMENT.value[0],
            200: grpc.StatusCode.ALREADY_EXISTS.value[0],
        }
        assert answer.results[200].entry.id == answer.results[0].entry.id
        by_parent = entry_pb2.CountEntriesRequest.Filter(by_parent_id=pb_id("/spire/agent/mixed"))
        assert (await admin.call(entry_pb2, "CountEntries", filter=by_parent)).count == BATCH - 2


async def test_a_burst_of_entries_made_at_both_workers_at_once_is_complete_at_both(server):
    one, other = server.pids
    async with server.admin(one) as here, server.admin(other) as there, server.node() as nobody:
        agent = await attest(nobody, here)
        async with server.node(one, agent.identity) as client, server.node(other, agent.identity) as client_there:
            made = await asyncio.gather(
                *(
                    _create(admin, _entries(agent.id.path, f"/burst-{number}-{name}", BATCH))
                    for number in range(3)
                    for name, admin in (("here", here), ("there", there))
                )
            )
            everything = set().union(*made)
            assert len(everything) == 6 * BATCH
            await asyncio.gather(_sees(client, everything), _sees(client_there, everything))
