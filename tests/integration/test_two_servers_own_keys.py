"""Two servers on one database, each with keys of its own: two authorities of each kind, in one bundle."""

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.bundle import Bundle
from spiffe_core.jwtsvid import parse_jwt_svid, verify_jwt_svid
from spiffe_core.x509svid import parse_chain, verify_x509_svid
from tests.support.databases import sqlite_config
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
from tests.support.servers import csr

Two = tuple[ServerProcess, ServerProcess]


def keys(folder: Path, name: str) -> str:
    return f'KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/{name}.json" }} }}'


@pytest.fixture
def two(tmp_path) -> Iterator[Two]:
    database = sqlite_config(tmp_path / "db.sqlite3")
    before = os.umask(0)
    try:
        with (
            server_process(database=database, key_manager=keys(tmp_path, "one")) as one,
            server_process(database=database, key_manager=keys(tmp_path, "other")) as other,
        ):
            one.start()
            other.start()
            yield one, other
    finally:
        os.umask(before)


async def _agreed(two: Two) -> Bundle:
    """The bundle with the authorities of both, as both serve it."""

    async def is_whole() -> bool:
        bundles = [await server.bundle() for server in two]
        return bundles[0] == bundles[1] and len(bundles[0].jwt_authorities) == len(bundles[0].x509_authorities) == 2

    await eventually(is_whole)
    return await two[0].bundle()


async def test_each_signs_with_its_own_keys_and_both_vouch_for_all_of_them(two, tmp_path):
    bundle = await _agreed(two)
    async with two[0].admin() as admin, two[0].node() as nobody:
        agent: NodeAgent = await attest(nobody, admin)
        entry = await register(admin, agent.id, "/workload")
    now, key_ids, authorities = datetime.now(UTC), set(), set()
    for server in two:
        # The SVID of the agent comes from the first server alone, and lets it in at both.
        async with server.node(identity=agent.identity) as client:

            async def is_served(client=client) -> bool:
                return entry in await entitled(client)

            await eventually(is_served)
            token = await jwt_svid(client, entry)
            assert verify_jwt_svid(token, lambda _: bundle, ["audience"], now)
            key_ids.add(parse_jwt_svid(token).key_id)
            params = [svid_pb2.NewX509SVIDParams(entry_id=entry, csr=csr())]
            [result] = (await client.call(svid_pb2, "BatchNewX509SVID", params=params)).results
            chain = parse_chain(tuple(result.svid.cert_chain))
            assert verify_x509_svid(chain, bundle, now)
            authorities.add(chain[0].issuer.rfc4514_string())
    assert key_ids == {authority.id for authority in bundle.jwt_authorities}
    assert len(authorities) == 2
    for server in two:
        assert server.end() == 0
    for server in two:
        server.start()
    assert await _agreed(two) == bundle, "with kept keys nothing is added"
    # The umask was 0: what is closed to others was closed by the servers themselves.
    made = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {path.name for path in made} >= {"db.sqlite3", "db.sqlite3-queue", "one.json", "other.json"}
    assert not [path for path in made if path.stat().st_mode & stat.S_IRWXO]
    assert not [path for path in made if path.suffix == ".json" and path.stat().st_mode & stat.S_IRWXG]
    assert {stat.S_IMODE(server.socket_path.lstat().st_mode) for server in two} == {0o770}
