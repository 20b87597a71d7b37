"""gRPC server reflection: a socket tells which services it serves, and nothing else.

The library's servicer answers from a pool of descriptors.  The process's own pool knows every message of servers
and plugins too, so each socket has a pool of its own, with the files that its services need.  Old clients ask for
``grpc.reflection.v1alpha``, newer ones for ``grpc.reflection.v1``, which differs in nothing but its package.
"""

from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

_ALPHA: Final = "grpc.reflection.v1alpha"
_STABLE: Final = "grpc.reflection.v1"
_METHOD: Final = "ServerReflectionInfo"


def add_reflection(server: grpc.aio.Server, services: Iterable[ServiceDescriptor]) -> None:
    """Let the server tell that it serves ``services``, reflection and no more."""
    pool = DescriptorPool()
    names = []
    for service in services:
        _add(pool, service.file.name)
        names.append(service.full_name)
    _add(pool, reflection_pb2.DESCRIPTOR.name)
    pool.Add(_stable_file())
    names += [f"{package}.ServerReflection" for package in (_ALPHA, _STABLE)]
    handler = grpc.stream_stream_rpc_method_handler(
        aio.ReflectionServicer(service_names=names, pool=pool).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for package in (_ALPHA, _STABLE):
        server.add_registered_method_handlers(f"{package}.ServerReflection", {_METHOD: handler})


def _add(pool: DescriptorPool, name: str) -> None:
    """Put a file that this process knows, and those that it imports, into the pool."""
    file = Default().FindFileByName(name)
    for imported in file.dependencies:
        _add(pool, imported.name)
    pool.AddSerializedFile(file.serialized_pb)


def _stable_file() -> FileDescriptorProto:
    """The file of the stable package, made of the other's."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name = file.name.replace("v1alpha", "v1")
    file.package = _STABLE
    for message in file.message_type:
        for member in filter(lambda one: one.type_name, message.field):
            member.type_name = member.type_name.replace(_ALPHA, _STABLE)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(_ALPHA, _STABLE)
            method.output_type = method.output_type.replace(_ALPHA, _STABLE)
    return file
