"""The protos are the wire: held against contract.json, which lists SPIFFE's and SPIRE's messages and RPCs.

The notation is the contract's: fields as "name: type" by number, RPCs as "request -> response".
"""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from spiffe_core.api import generate

CONTRACT = json.loads(Path(__file__).with_name("contract.json").read_text())
Table = dict[str, dict[str, str]]


def file_of(proto: str) -> FileDescriptorProto:
    module = import_module(".".join((generate.PACKAGE, *Path(proto).with_suffix("").parts)) + "_pb2")
    found = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(found)
    return found


def type_of(field: FieldDescriptorProto) -> str:
    return field.type_name.lstrip(".") or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def describe(field: FieldDescriptorProto, message: DescriptorProto, name: str) -> str:
    maps = {f"{name}.{nested.name}": nested for nested in message.nested_type if nested.options.map_entry}
    text = type_of(field)
    if text in maps:
        text = f"map<{', '.join(type_of(part) for part in maps[text].field)}>"
    elif field.label == FieldDescriptorProto.LABEL_REPEATED:
        text = f"repeated {text}"
    if field.proto3_optional:
        text = f"optional {text}"
    elif field.HasField("oneof_index"):
        text += f" oneof:{message.oneof_decl[field.oneof_index].name}"
    return f"{field.name}: {text}"


def tables(file: FileDescriptorProto) -> dict[str, Table]:
    messages: Table = {}
    enums: Table = {}
    prefix = f"{file.package}." if file.package else ""

    def add_enum(enum: EnumDescriptorProto, scope: str) -> None:
        enums[scope + enum.name] = {str(value.number): value.name for value in enum.value}

    def add_message(message: DescriptorProto, scope: str) -> None:
        name = scope + message.name
        messages[name] = {str(field.number): describe(field, message, name) for field in message.field}
        for enum in message.enum_type:
            add_enum(enum, f"{name}.")
        for nested in message.nested_type:
            if not nested.options.map_entry:
                add_message(nested, f"{name}.")

    for message in file.message_type:
        add_message(message, prefix)
    for enum in file.enum_type:
        add_enum(enum, prefix)
    services = {
        prefix + service.name: {
            method.name: f"{'stream ' * method.client_streaming}{method.input_type.lstrip('.')} -> "
            f"{'stream ' * method.server_streaming}{method.output_type.lstrip('.')}"
            for method in service.method
        }
        for service in file.service
    }
    return {"messages": messages, "enums": enums, "services": services}


def test_there_is_a_proto_for_each_file_of_the_contract_and_no_other() -> None:
    assert {path.relative_to(generate.ROOT).as_posix() for path in generate.ROOT.rglob("*.proto")} == set(CONTRACT)


@pytest.mark.parametrize("proto", CONTRACT)
def test_a_file_says_what_the_contract_says(proto: str) -> None:
    file, want = file_of(proto), CONTRACT[proto]
    assert file.name == proto
    assert file.package == want.get("package", "")
    assert tables(file) == {kind: want.get(kind, {}) for kind in ("messages", "enums", "services")}


IMPORT_ALL = """
import sys
from importlib import import_module
import google.rpc.error_details_pb2, google.rpc.status_pb2
import grpc_health.v1.health_pb2_grpc, grpc_reflection.v1alpha.reflection, grpc_status.rpc_status
for name in sys.argv[1:]:
    import_module(name)
print(*sys.modules.keys() & {"spire", "goplugin", "workload_pb2", "broker_pb2"})
"""


def test_all_modules_live_in_one_process_with_those_of_grpc_and_none_at_top_level() -> None:
    names = [
        ".".join((generate.PACKAGE, *path.relative_to(generate.ROOT).with_suffix("").parts))
        for path in sorted(generate.ROOT.rglob("*_pb2*.py"))
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL, *names], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
