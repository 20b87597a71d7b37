"""The RPCs of a service, read from its descriptor.

A server registers its handlers by these, a client makes its callables of them: a path, the two message types
and which sides stream are all that gRPC needs.  So neither depends on the generated ``_pb2_grpc`` classes, which
know no types.
"""

from dataclasses import dataclass

from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC.  ``request.FromString`` and ``response.SerializeToString`` are its server's codec."""

    path: str
    """Full method name, ``/package.Service/Name``, as requests carry it."""
    name: str
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool


def service_in(file: FileDescriptor) -> ServiceDescriptor:
    """The only service that a file defines; ``service_in(entry_pb2.DESCRIPTOR).full_name`` is its name.

    Raises:
        LookupError: if the file defines none, or several.
    """
    services = list(file.services_by_name.values())
    if len(services) != 1:
        raise LookupError(f"{file.name} defines {len(services)} services, not one")
    return services[0]


def methods_of(service: ServiceDescriptor) -> tuple[Method, ...]:
    """Every RPC of the service, in the order of its definition."""
    return tuple(
        Method(
            path=f"/{service.full_name}/{method.name}",
            name=method.name,
            request=GetMessageClass(method.input_type),
            response=GetMessageClass(method.output_type),
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
        )
        for method in service.methods
    )
