"""A server that signs without a pause while its token goes away and comes back, or hangs.

How often the token goes away is told by STEEPLE_OUTAGES; each recovery is reported, none is held against the clock.
"""

import asyncio
import os
import random
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest

from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.runtime.clock import SystemClock
from spiffe_core.runtime.files import private_folder
from spiffe_core.x509svid import authority_key_id, parse_chain, verify_x509_svid
from tests.support.server_processes import eventually, server_process
from tests.support.servers import Refused, csr
from tests.support.shim import ALWAYS, Shim, shim_environment
from tests.support.troubles import UNAVAILABLE, WORKLOAD, Troubled, troubled

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm

OUTAGES = int(os.environ.get("STEEPLE_OUTAGES", "4"))
CALLERS = 4


class Load:
    """Callers that want signatures and entries all the time, and what was acknowledged to them."""

    def __init__(self, trouble: Troubled) -> None:
        self._trouble = trouble
        self._csr = csr(WORKLOAD)
        self.chains: list[tuple[bytes, ...]] = []
        self.entries: set[str] = set()
        self.refused = 0
        self.signed_at = 0.0

    async def sign(self) -> None:
        while True:
            try:
                answer = await self._trouble.admin.call(svid_pb2, "MintX509SVID", csr=self._csr)
            except Refused as exc:
                if exc.refusal.code is not UNAVAILABLE:
                    raise
                self.refused += 1
                await asyncio.sleep(0.01)
            else:
                self.chains.append(tuple(answer.svid.cert_chain))
                self.signed_at = time.monotonic()

    async def write(self) -> None:
        while True:
            assert await self._trouble.writes() == ""
            listed = await self._trouble.admin.call(entry_pb2, "ListEntries")
            self.entries |= {entry.id for entry in listed.entries}
            await asyncio.sleep(0.05)


async def test_no_acknowledgement_is_lost_while_the_token_goes_away_and_comes_back(own_token, record_property, capsys):
    away = own_token.folder.parent.with_name("away")
    recoveries = []
    with server_process(token=own_token) as server:
        server.start()
        async with troubled(server) as trouble:
            signer = await trouble.signs()
            load = Load(trouble)
            calls = [asyncio.create_task(load.sign()) for _ in range(CALLERS)]
            calls.append(asyncio.create_task(load.write()))
            for _ in range(OUTAGES):
                shutil.move(own_token.folder, away)
                refused = load.refused
                await going_on(calls, lambda before=refused: load.refused > before)
                await asyncio.sleep(random.uniform(0.0, 0.6))
                shutil.move(away, own_token.folder)
                back = time.monotonic()
                await going_on(calls, lambda since=back: load.signed_at > since)
                recoveries.append(load.signed_at - back)
                await asyncio.sleep(random.uniform(0.0, 0.3))
            for call in calls:
                call.cancel()
            for call in calls:
                with suppress(asyncio.CancelledError):
                    await call
            await eventually(lambda: works_again(trouble))
            assert await trouble.signs() == signer
            bundle = await trouble.bundle()
            assert len(bundle.x509_authorities) == 1
            for der in load.chains:
                chain = parse_chain(der)
                verify_x509_svid(chain, bundle, SystemClock().now())
                assert authority_key_id(chain[0]).hex() == signer
            listed = await trouble.admin.call(entry_pb2, "ListEntries")
            assert load.entries <= {entry.id for entry in listed.entries}
        assert server.end() == 0
        assert server.log.count("X509 CA activated") == 1
    assert load.refused >= OUTAGES
    found = sorted(recoveries)
    text = (
        f"{OUTAGES} outages, {len(load.chains)} signatures, {load.refused} refusals; recovery: "
        f"median {found[len(found) // 2]:.3f} s, longest {found[-1]:.3f} s"
    )
    record_property("recovery", text)
    with capsys.disabled():
        print(f"\n{text}")


async def going_on(calls: list[asyncio.Task[None]], condition) -> None:
    """Wait for the condition; what went wrong with the load meanwhile goes wrong here."""

    async def holds() -> bool:
        for call in calls:
            if call.done():
                call.result()
        return bool(condition())

    await eventually(holds, 60.0)


async def works_again(trouble: Troubled) -> bool:
    return await trouble.sign_refusals() == [None, None]


@pytest.fixture
def behind_shim(own_token, compiled_shim: Path, tmp_path: Path):
    """A server whose module is the shim, in front of the library that sees the token, and the shim's folder."""
    path = Path(shutil.copy(compiled_shim, tmp_path / "shim.so"))
    data = own_token.plugin_data().replace(str(own_token.library), str(path)) + 'timeout = "1s"\n'
    keys = f'KeyManager "pkcs11" {{ plugin_data {{\n{data}}} }}'
    with (
        private_folder() as folder,
        shim_environment(folder, own_token.library),
        server_process(token=own_token, key_manager=keys, server='lane_deadline = "1s" max_lanes = 3') as server,
    ):
        server.start()
        yield server, folder


async def test_a_token_that_hangs_is_named_by_the_health_check_and_holds_up_nothing_else(behind_shim):
    server, folder = behind_shim
    async with troubled(server) as trouble:
        signer = await trouble.signs()
        (pid,) = server.pids
        with Shim(folder / "shim.so", folder, pid) as shim:
            shim.hang("C_Sign")
            refusals = await trouble.sign_refusals()
            assert [refusal.code for refusal in refusals] == [UNAVAILABLE, UNAVAILABLE]
            await trouble.reads()
            assert not await trouble.writes()
            await logged(server, "2 operations do not return")
            refusals = await trouble.sign_refusals()  # the last lane, and then there is none
            await logged(server, "calls to the key manager hang")
            await trouble.reads()
            shim.release()
            await trouble.recovers(signer)
            await logged(server, "Health check passed")


async def test_a_token_that_is_mended_while_nobody_signs_is_found_well_by_the_health_check(behind_shim):
    server, folder = behind_shim
    async with troubled(server) as trouble:
        signer = await trouble.signs()
        (pid,) = server.pids
        with Shim(folder / "shim.so", folder, pid) as shim:
            shim.fail("C_SignInit", 0x32, ALWAYS)
            shim.fail("C_FindObjectsInit", 0x32, ALWAYS)
            assert None not in await trouble.sign_refusals()
            await logged(server, "Health check failed")
            shim.heal()
            await logged(server, "Health check passed")
            assert await trouble.signs() == signer


async def logged(server, text: str) -> None:
    """Wait until the text is in the log."""

    async def holds() -> bool:
        return text in server.log

    await eventually(holds, 60.0)
