"""A real server in trouble: what works and what is refused meanwhile, asked as an administrator asks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

import grpc

from spiffe_core.api.convert.bundles import bundle_from_pb
from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.api.spire.api.types import entry_pb2 as types_pb2
from spiffe_core.api.spire.api.types import selector_pb2
from spiffe_core.bundle import Bundle
from spiffe_core.runtime.clock import SystemClock
from spiffe_core.x509svid import authority_key_id, parse_chain, verify_x509_svid
from tests.support.server_processes import ServerProcess, eventually
from tests.support.servers import Client, Refusal, Refused, csr, pb_id

UNAVAILABLE: Final = grpc.StatusCode.UNAVAILABLE
WORKLOAD: Final = "spiffe://example.org/workload"


class Troubled:
    """One server and a connection to its private socket."""

    def __init__(self, server: ServerProcess, admin: Client) -> None:
        self.server = server
        self.admin = admin

    async def reads(self) -> None:
        """Bundle and registry are answered."""
        assert (await self.bundle()).x509_authorities
        await self.admin.call(entry_pb2, "ListEntries")
        await self.admin.call(entry_pb2, "CountEntries")

    async def bundle(self) -> Bundle:
        return bundle_from_pb(await self.admin.call(bundle_pb2, "GetBundle"))

    async def signs(self) -> str:
        """Sign an X509-SVID that the bundle vouches for, and return who signed it."""
        answer = await self.admin.call(svid_pb2, "MintX509SVID", csr=csr(WORKLOAD))
        chain = parse_chain(tuple(answer.svid.cert_chain))
        verify_x509_svid(chain, await self.bundle(), SystemClock().now())
        return authority_key_id(chain[0]).hex()

    async def sign_refusals(self) -> list[Refusal | None]:
        """How the signing of an X509-SVID and of a JWT-SVID is refused."""
        return [
            await self.admin.refusal(svid_pb2, "MintX509SVID", csr=csr(WORKLOAD)),
            await self.admin.refusal(svid_pb2, "MintJWTSVID", id=pb_id("/workload"), audience=["a"]),
        ]

    async def writes(self, count: int = 1) -> str:
        """Make entries, and return the text of what refused them, empty if nothing did."""
        entries = [
            types_pb2.Entry(
                spiffe_id=pb_id(f"/{uuid4()}"),
                parent_id=pb_id("/parent"),
                selectors=[selector_pb2.Selector(type="unix", value="uid:1000")],
            )
            for _ in range(count)
        ]
        try:
            answer = await self.admin.call(entry_pb2, "BatchCreateEntry", entries=entries)
        except Refused as exc:
            if exc.refusal.code is not UNAVAILABLE:
                raise
            return exc.refusal.text
        assert [result.status.code for result in answer.results] == [0] * count
        return ""

    async def count(self) -> int:
        return int((await self.admin.call(entry_pb2, "CountEntries")).count)

    async def recovers(self, signer: str) -> None:
        """Everything works again by itself, with the authority of before."""

        async def signs_again() -> bool:
            return await self.sign_refusals() == [None, None]

        async def writes_again() -> bool:
            return not await self.writes()

        await eventually(signs_again, 60.0)
        await eventually(writes_again, 60.0)
        assert await self.signs() == signer
        assert len((await self.bundle()).x509_authorities) == 1


@asynccontextmanager
async def troubled(server: ServerProcess) -> AsyncIterator[Troubled]:
    """The server, running, with a connection."""
    async with server.admin() as admin:
        yield Troubled(server, admin.waiting(60.0))
