"""What the machine gives without us: a signature of the token, and an echo of grpcio."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import grpc
import uvloop
from pkcs11 import Mechanism

from benchmarks.load import Sample
from keymanagers.base import KeyId, KeyType
from keymanagers.pkcs11.cryptoki import MechanismCall
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from keymanagers.pkcs11.objects import private_handles
from tests.support.softhsm import SoftHsmToken

ECHO: Final = "/echo.Echo/Echo"
RAW_SIGN: Final = "raw C_SignInit and C_Sign through ctypes, one thread"
_DIGEST: Final = bytes(32)


def raw_signatures(token: SoftHsmToken, seconds: float) -> Sample:
    """P-256 signatures that the token makes for one thread that does nothing else."""
    manager = Pkcs11KeyManager(token.config(authority_group="floor"))
    key_id = KeyId(f"floor-{uuid4().hex}")
    try:
        key = manager.generate(key_id, KeyType.EC_P256)
        signer: Any = key.private._signer  # type: ignore[union-attr]  # noqa: SLF001  below what signs for the server
        count = signer._tokens.sign(signer.key.key_id, "measure", lambda session: _sign(session, signer, seconds))  # noqa: SLF001
    finally:
        manager.retire(key_id)
        manager.close()
    return Sample(RAW_SIGN, count / seconds)


def _sign(session: Any, signer: Any, seconds: float) -> int:  # noqa: ANN401  inner parts
    handle = private_handles(session, signer.key)[0]
    mechanism = MechanismCall(Mechanism.ECDSA)
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        session.signer.sign(mechanism, handle, _DIGEST)
        count += 1
    return count


@contextmanager
def echo_server(path: Path) -> Iterator[None]:
    """A grpcio server in a process of its own, on a Unix socket, that answers each message with itself."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.floor", str(path)])  # noqa: S603  ourselves
    try:
        while not path.exists():
            time.sleep(0.05)
            assert process.poll() is None
        yield
    finally:
        process.terminate()
        process.wait()


async def _serve(path: str) -> None:
    async def echo(request: bytes, _context: object) -> bytes:
        return request

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", {"Echo": handler}),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
