"""The agent's sockets: where they are, who may reach them, what is served there, and how they end."""

import asyncio
import contextlib
import os
import resource
import socket
import stat
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import structlog
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spiffe_core.api import workload_pb2
from spiffe_core.api.spire.api.agent.debug.v1 import debug_pb2
from spiffe_core.api.spire.api.agent.logger.v1 import logger_pb2
from spiffe_core.api.spire.api.types import logger_pb2 as types_pb2
from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.files import private_folder
from spiffe_core.runtime.levels import Level
from tests.support.fake_identities import FakeIdentities
from tests.support.houses import PREFACE_AND_SETTINGS, descriptors, until
from tests.support.workloads import HEADER, ME, METHODS, Served, calling, message, refused, serving

REFLECTION: Final = ["grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"]
PUBLIC: Final = ["SpiffeWorkloadAPI", "grpc.health.v1.Health", *REFLECTION]
GET_INFO: Final = "/spire.agent.debug.v1.Debug/GetInfo"
GET_LOGGER: Final = "/spire.api.agent.logger.v1.Logger/GetLogger"


async def test_who_serves_may_have_as_many_descriptors_as_the_machine_lets_it():
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, most), most))
    try:
        async with serving():
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))


def mode_of(path: Path) -> int:
    """The permissions of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


async def reflect(served: Served, service: str, **question: str) -> reflection_pb2.ServerReflectionResponse:
    """Ask for reflection, without the security header."""
    request = reflection_pb2.ServerReflectionRequest(**question)
    async with calling(served.socket) as caller:
        opened: grpc.aio.StreamStreamMultiCallable[Any, Any] = caller.channel.stream_stream(
            f"/{service}/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        return await message(opened([request], timeout=20))


@pytest.mark.conformance("WE-1", "WE-3", "WE-7")
async def test_the_sockets_are_files_with_spires_modes_whatever_the_umask_and_no_port_is_opened():
    before = os.umask(0o077)
    try:
        async with serving() as served:
            assert stat.S_ISSOCK(served.socket.lstat().st_mode)
            assert (mode_of(served.socket), mode_of(served.socket.parent)) == (0o777, 0o755)
            assert mode_of(served.admin_socket) == 0o770
            assert not mode_of(served.admin_socket.parent) & 0o022
            assert not listening_ports()
    finally:
        os.umask(before)


def listening_ports() -> list[str]:
    """TCP sockets of this process that listen."""
    mine = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            mine.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [line[1] for line in lines if line[3] == "0A" and line[9] in mine]


async def test_a_socket_that_a_killed_agent_left_is_replaced():
    with private_folder() as folder:
        (folder / "public").mkdir()
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(folder / "public" / "api.sock"))
        path = folder / "public" / "api.sock"
        refusal = refused(StatusCode.PERMISSION_DENIED, "no identity issued")
        async with serving(socket_path=path), calling(path) as caller, refusal:
            await caller.first("FetchX509SVID")


async def test_something_else_than_a_socket_is_not_replaced():
    with private_folder() as folder:
        (folder / "api.sock").write_text("precious")
        with pytest.raises(InvalidConfig, match="there is something else of that name"):
            async with serving(socket_path=folder / "api.sock"):
                pass
        assert (folder / "api.sock").read_text() == "precious"


@pytest.mark.conformance("WE-16", "WE-18")
@pytest.mark.parametrize("service", REFLECTION)
async def test_reflection_tells_the_services_and_exactly_the_standards_methods(service):
    async with serving() as served:
        listed = await reflect(served, service, list_services="")
        assert sorted(one.name for one in listed.list_services_response.service) == sorted(PUBLIC)
        for name in PUBLIC:
            found = await reflect(served, service, file_containing_symbol=name)
            files = [
                FileDescriptorProto.FromString(file) for file in found.file_descriptor_response.file_descriptor_proto
            ]
            names = {f"{file.package}.{one.name}".lstrip("."): one for file in files for one in file.service}
            assert name in names
            if name == "SpiffeWorkloadAPI":
                assert [method.name for method in names[name].method] == list(METHODS)


@pytest.mark.parametrize(
    "symbol", ["spire.api.server.agent.v1.Agent", "spire.agent.debug.v1.Debug", "spire.api.types.Entry"]
)
@pytest.mark.parametrize("service", REFLECTION)
async def test_reflection_tells_nothing_of_what_is_not_served(service, symbol):
    async with serving() as served:
        found = await reflect(served, service, file_containing_symbol=symbol)
        assert found.error_response.error_code == StatusCode.NOT_FOUND.value[0]


async def test_health_needs_no_header():
    async with serving() as served, calling(served.socket) as caller:
        answer = await caller.raw("/grpc.health.v1.Health/Check", metadata=())
        assert health_pb2.HealthCheckResponse.FromString(answer).status == health_pb2.HealthCheckResponse.SERVING
        stream = caller.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)
        assert await message(stream) == answer
        stream.cancel()


@pytest.mark.parametrize("path", [GET_INFO, GET_LOGGER, "/spire.api.agent.logger.v1.Logger/SetLogLevel"])
async def test_what_is_for_administrators_is_not_there_on_the_public_socket(path):
    async with serving() as served, calling(served.socket) as caller:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.raw(path)
        assert caught.value.code() is StatusCode.UNIMPLEMENTED


async def test_what_is_for_workloads_is_not_there_on_the_admin_socket():
    async with serving() as served, calling(served.admin_socket) as caller:
        served.identities.add("/workload", ME)
        for path in ("/SpiffeWorkloadAPI/FetchX509SVID", "/grpc.health.v1.Health/Check"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await caller.raw(path)
            assert caught.value.code() is StatusCode.UNIMPLEMENTED


async def test_debug_tells_what_the_agent_holds():
    async with serving() as served, calling(served.admin_socket) as caller:
        served.identities.add("/one", ME)
        served.identities.add("/two", ME)
        info = debug_pb2.GetInfoResponse.FromString(await caller.raw(GET_INFO))
    assert [cert.id.path for cert in info.svid_chain] == ["/spire/agent/join_token/1", ""]
    assert {cert.id.trust_domain for cert in info.svid_chain} == {"example.org"}
    assert (info.uptime, info.svids_count, info.cached_x509_svids_count, info.cached_jwt_svids_count) == (61, 2, 2, 3)
    assert info.last_sync_success == 1893456000


async def test_debug_says_zero_before_the_first_synchronisation():
    async with serving() as served, calling(served.admin_socket) as caller:
        served.status.synced = None
        assert debug_pb2.GetInfoResponse.FromString(await caller.raw(GET_INFO)).last_sync_success == 0


async def test_the_log_level_is_changed_over_the_admin_socket():
    async with serving() as served, calling(served.admin_socket) as caller:
        request = logger_pb2.SetLogLevelRequest(new_level=types_pb2.DEBUG).SerializeToString()
        answer = types_pb2.Logger.FromString(await caller.raw("/spire.api.agent.logger.v1.Logger/SetLogLevel", request))
        assert (answer.current_level, answer.launch_level) == (types_pb2.DEBUG, types_pb2.INFO)
        assert served.level.current is Level.DEBUG
        await caller.raw("/spire.api.agent.logger.v1.Logger/ResetLogLevel")
        assert types_pb2.Logger.FromString(await caller.raw(GET_LOGGER)).current_level == types_pb2.INFO


async def test_without_the_workload_api_only_health_and_reflection_are_served():
    async with serving(disable_workload_api=True) as served, calling(served.socket) as caller:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.raw("/SpiffeWorkloadAPI/FetchX509SVID")
        assert caught.value.code() is StatusCode.UNIMPLEMENTED
        assert await caller.raw("/grpc.health.v1.Health/Check", metadata=())
        listed = await reflect(served, REFLECTION[0], list_services="")
        assert "SpiffeWorkloadAPI" not in [one.name for one in listed.list_services_response.service]


async def test_no_socket_is_opened_that_nothing_is_served_on():
    async with serving(disable_workload_api=True, disable_sds_api=True, admin_socket_path=None) as served:
        assert not list(served.folder.iterdir())


@pytest.mark.parametrize("name", ["FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"])
async def test_streams_end_as_unavailable_when_the_agent_stops(name):
    identities = FakeIdentities()
    identities.add("/workload", ME)
    async with serving(identities) as served, calling(served.socket) as caller:
        stream = caller.stream(name)
        await message(stream)
        with structlog.testing.capture_logs() as logs:
            async with refused(StatusCode.UNAVAILABLE, "the agent is stopping"):
                await asyncio.gather(message(stream), served.endpoints.stop(5))
        assert not [line for line in logs if line["log_level"] in ("warning", "error")]
        assert not identities.subscriptions


async def test_calls_are_counted():
    async with serving() as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME)
        await caller.first("FetchX509Bundles")
        await caller.call("FetchJWTSVID", workload_pb2.JWTSVIDRequest(audience=["reports"]))
        async with refused(StatusCode.INVALID_ARGUMENT, "audience must be specified"):
            await caller.call("FetchJWTSVID")
        await until(lambda: value(served, "workload_api_connections") == 0)
    assert value(served, "workload_api_connection_total") == 3
    assert value(served, "rpc_total", method="/SpiffeWorkloadAPI/FetchJWTSVID", status="OK") == 1
    assert value(served, "rpc_total", method="/SpiffeWorkloadAPI/FetchJWTSVID", status="InvalidArgument") == 1
    assert value(served, "workload_api_workload_attestor_total", attestor="unix", status="OK") == 2


def value(served: Served, name: str, **labels: str) -> float | None:
    """A metric of the agent."""
    return served.metrics._registry.get_sample_value(f"spire_agent_{name}", labels)


async def send(served: Served, data: bytes) -> None:
    """Connect, send the bytes and hang up, whatever comes."""
    reader, writer = await asyncio.open_unix_connection(served.socket)
    try:
        with contextlib.suppress(OSError):
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(0.02):
                await reader.read()
    except TimeoutError:
        pass
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """An HTTP/2 frame that may lie about its length."""
    size = len(payload) if length is None else length
    return size.to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


FRAMES: Final = st.builds(
    frame,
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 2**31 - 1),
    st.binary(max_size=300),
    st.none() | st.integers(0, 2**24 - 1),
)
INPUTS: Final = st.one_of(
    st.binary(max_size=500),
    st.builds(lambda frames: PREFACE_AND_SETTINGS + b"".join(frames), st.lists(FRAMES, max_size=6)),
    st.builds(lambda kept: PREFACE_AND_SETTINGS[:kept], st.integers(0, len(PREFACE_AND_SETTINGS))),
    st.just(PREFACE_AND_SETTINGS + frame(0, 0, 1, bytes(1 << 20), 2**24 - 1)),
)


def test_the_socket_survives_whatever_bytes_come():
    async def attack(inputs: list[list[bytes]]) -> None:
        async with serving() as served:
            served.identities.add("/workload", ME)
            async with calling(served.socket) as caller:
                stream = caller.stream("FetchX509SVID")
                await message(stream)
                before = descriptors()
                for burst in inputs:
                    await asyncio.gather(*(send(served, data) for data in burst))
                assert (await caller.first("FetchX509SVID")).svids
                await served.identities.change()
                await message(stream)
            await until(lambda: descriptors() <= before)
            await until(lambda: not served.identities.subscriptions)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.lists(INPUTS, min_size=1, max_size=8), min_size=1, max_size=4))
    def survives(inputs: list[list[bytes]]) -> None:
        asyncio.run(attack(inputs))

    survives()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(list(METHODS)), st.binary(max_size=2000))
def test_whatever_message_comes_is_answered_or_refused(name, data):
    async def call() -> None:
        async with serving() as served, calling(served.socket) as caller:
            served.identities.add("/workload", ME)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await caller.raw(f"/SpiffeWorkloadAPI/{name}", data)
            assert (await caller.first("FetchX509SVID")).svids

    asyncio.run(call())


async def test_a_request_that_is_too_large_is_refused_and_harms_nobody():
    async with serving() as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME)
        huge = workload_pb2.ValidateJWTSVIDRequest(audience="reports", svid="x" * (5 << 20)).SerializeToString()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.raw("/SpiffeWorkloadAPI/ValidateJWTSVID", huge)
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        large = workload_pb2.ValidateJWTSVIDRequest(audience="reports", svid="x" * (1 << 20))
        async with refused(StatusCode.INVALID_ARGUMENT, "token is longer than 65536 bytes"):
            await caller.call("ValidateJWTSVID", large)
        assert (await caller.first("FetchX509SVID")).svids


async def test_a_workload_that_does_not_read_delays_nobody():
    async with serving() as served, calling(served.socket) as caller:
        entry = served.identities.add("/workload", ME)
        silent = caller.stream("FetchX509SVID", metadata=HEADER)
        await message(silent)
        async with calling(served.socket) as other:
            stream = other.stream("FetchX509SVID")
            await message(stream)
            for _ in range(20):
                await served.identities.rotate(entry)
                await message(stream)
