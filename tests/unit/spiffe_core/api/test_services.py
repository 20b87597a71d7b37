"""RPCs read from descriptors, and used as a server and a client use them."""

from pathlib import Path

import grpc
import pytest
from google.protobuf import empty_pb2

from spiffe_core.api import workload_pb2
from spiffe_core.api.services import Method, methods_of, service_in
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.types import entry_pb2, jointoken_pb2

AGENT = {method.name: method for method in methods_of(service_in(agent_pb2.DESCRIPTOR))}
WORKLOAD = {method.name: method for method in methods_of(service_in(workload_pb2.DESCRIPTOR))}


def test_a_method_knows_its_path_and_the_classes_of_its_messages() -> None:
    assert AGENT["CreateJoinToken"] == Method(
        path="/spire.api.server.agent.v1.Agent/CreateJoinToken",
        name="CreateJoinToken",
        request=agent_pb2.CreateJoinTokenRequest,
        response=jointoken_pb2.JoinToken,
        client_streaming=False,
        server_streaming=False,
    )


def test_a_message_of_another_package_is_the_class_that_everybody_uses() -> None:
    assert AGENT["DeleteAgent"].response is empty_pb2.Empty


def test_a_service_without_a_package_has_a_path_without_one() -> None:
    assert WORKLOAD["FetchX509SVID"].path == "/SpiffeWorkloadAPI/FetchX509SVID"


@pytest.mark.parametrize(
    ("method", "client", "server"),
    [
        (WORKLOAD["FetchJWTSVID"], False, False),
        (WORKLOAD["FetchX509SVID"], False, True),
        (AGENT["AttestAgent"], True, True),
    ],
)
def test_a_method_knows_who_streams(method: Method, client: bool, server: bool) -> None:
    assert (method.client_streaming, method.server_streaming) == (client, server)


def test_methods_come_in_the_order_of_their_definition() -> None:
    assert [*AGENT][:3] == ["CountAgents", "ListAgents", "GetAgent"]


def test_a_file_without_a_service_is_refused() -> None:
    with pytest.raises(LookupError, match=r"^spire/api/types/entry.proto defines 0 services, not one$"):
        service_in(entry_pb2.DESCRIPTOR)


async def test_a_server_and_a_client_made_of_a_method_understand_each_other(tmp_path: Path) -> None:
    method = AGENT["CreateJoinToken"]

    async def answer(request: agent_pb2.CreateJoinTokenRequest, _: object) -> jointoken_pb2.JoinToken:
        return jointoken_pb2.JoinToken(value=request.token, expires_at=request.ttl)

    handler = grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=method.request.FromString, response_serializer=method.response.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("spire.api.server.agent.v1.Agent", {method.name: handler}),)
    )
    address = f"unix:{tmp_path}/sock"
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            assert await call(agent_pb2.CreateJoinTokenRequest(token="a", ttl=7)) == jointoken_pb2.JoinToken(
                value="a", expires_at=7
            )
    finally:
        await server.stop(None)
