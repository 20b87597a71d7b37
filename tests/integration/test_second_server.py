"""A server that is started while another has its place: it is refused, and the one that runs loses nothing."""

import asyncio
import os
import subprocess

import pytest

from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from tests.support.server_processes import ROOT, STEEPLE_SERVER, server_process


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_second_server_on_one_port_is_refused_and_leaves_the_first_its_socket(tmp_path, workers):
    keys = f'KeyManager "disk" {{ plugin_data {{ keys_path = "{tmp_path}/keys.json" }} }}'
    with server_process(workers=workers, key_manager=keys) as server:
        server.start()
        bundle = await server.bundle()
        command = [*STEEPLE_SERVER, "run", "-config", str(server._file)]
        second = await asyncio.to_thread(
            subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode == os.EX_CONFIG
        assert f"cannot listen on '127.0.0.1' port {server.port}: Address already in use" in second.stdout
        async with server.admin() as admin, server.node() as node:
            for client in (admin, node):
                assert (await client.call(bundle_pb2, "GetBundle")).sequence_number == bundle.sequence_number
