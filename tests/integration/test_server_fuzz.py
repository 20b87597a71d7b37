"""Whatever a caller sends, the server answers with a refusal that says what is wrong, or does it: it never stumbles.

A stumble is an exception that nobody expected, which callers see as "internal error".  Messages are made of valid
and odd parts, the same in each run.
"""

import random
from typing import Any, Final

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc import StatusCode

from server.authorization import ALLOWED
from spiffe_core.api.services import methods_of, service_in
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.api.spire.api.server.debug.v1 import debug_pb2
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.server.logger.v1 import logger_pb2
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.bundle import Bundle
from spiffe_core.ids import TrustDomain
from tests.support.registry import entry, jwt_authority, x509_authority
from tests.support.servers import TD, csr, forged, serving

MODULES: Final = (agent_pb2, bundle_pb2, debug_pb2, entry_pb2, logger_pb2, svid_pb2)
METHODS: Final = {
    method.path: (module, method)
    for module in MODULES
    for method in methods_of(service_in(module.DESCRIPTOR))
    if method.path in ALLOWED
}
MESSAGES: Final = 40
"""How many messages each RPC is sent."""

TEXTS: Final = (
    "",
    "a",
    "one",
    TD.name,
    f"spiffe://{TD}/workload",
    "other.test",
    "/workload",
    "/spire/server",
    "/spire/agent/join_token/one",
    "/spire/agent/x509pop/one",
    "join_token",
    "unix",
    "uid:0",
    "a.test",
    "*.test",
    "7",
    "-1",
    "9" * 30,
    "2030-01-01 00:00:00 +0000 +00",
    "99999-01-01 00:00:00 +0000 +00",
    "0000-00-00 00:00:00 +9999 +99",
    "..",
    "a\0b",
    "ä\U0001f511",
    "'; DROP TABLE entries; --",
    "%s %n {x} ${HOME}",
    "x" * 5000,
)
BYTES: Final = (
    b"",
    b"x",
    b"one",
    b"\xff\xfe\0",
    csr(),
    csr(f"spiffe://{TD}/workload", dns_names=["a.test"]),
    forged(csr()),
    x509_authority().der,
    x509_authority().der * 2,
    x509_authority().der + b"x",
    jwt_authority("k").public_key_der,
    b"0" * 70_000,
)
FITTING: Final = {
    "asn1": (x509_authority().der,),
    "audience": ("a", ""),
    "csr": (csr(), csr(f"spiffe://{TD}/workload", dns_names=["a.test"])),
    "dns_names": ("a.test", "b.test", "*.c.test"),
    "entry_id": ("one",),
    "federates_with": ("other.test",),
    "id": ("one", "two", ""),
    "ids": ("one", "two"),
    "key_id": ("kid",),
    "path": ("/workload", "/spire/agent/x509pop/one", "/spire/agent/join_token/one"),
    "payload": (b"one",),
    "public_key": (jwt_authority("k").public_key_der,),
    "trust_domain": (TD.name,),
    "hint": ("h",),
    "trust_domains": ("other.test", "third.test"),
    "type": ("unix", "join_token"),
    "value": ("uid:0", "gid:0"),
}
"""What does fit into fields of these names, so that some messages get further than the first check."""
INTEGERS: Final = (0, 1, 2, 60, 500, 1_900_000_000, 2**31 - 1)
WIDE: Final = (*INTEGERS, 2**31, 2**53, 2**63 - 1)
_SMALL: Final = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32}
_SIGNED: Final = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}


class Scribbler:
    """Fills messages."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def message(self, kind: type[Message]) -> Any:
        """A message of that kind."""
        message = kind()
        self._fill(message, 0.9)
        return message

    def _fill(self, message: Message, often: float) -> None:
        for field in message.DESCRIPTOR.fields:
            if self._random.random() > often:
                continue
            if field.is_repeated:
                self._fill_repeated(getattr(message, field.name), field, often)
            elif field.message_type:
                getattr(message, field.name).SetInParent()
                self._fill(getattr(message, field.name), often)
            else:
                setattr(message, field.name, self._scalar(field))

    def _fill_repeated(self, items: Any, field: FieldDescriptor, often: float) -> None:
        for _ in range(self._random.choice((1, 1, 2, 3))):
            if field.message_type:
                self._fill(items.add(), often)
            else:
                items.append(self._scalar(field))

    def _scalar(self, field: FieldDescriptor) -> Any:
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING and field.name in FITTING and self._random.random() < 0.9:
            return self._random.choice(FITTING[field.name])
        if kind == FieldDescriptor.CPPTYPE_STRING:
            return self._random.choice(BYTES if field.type == FieldDescriptor.TYPE_BYTES else TEXTS)
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self._random.random() < 0.5
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return self._random.choice((*field.enum_type.values_by_number, 99, -1))
        if kind == FieldDescriptor.CPPTYPE_UINT64 and self._random.random() < 0.2:
            return 2**64 - 1
        number = self._random.choice(INTEGERS if kind in _SMALL else WIDE)
        return -number if kind in _SIGNED and self._random.random() < 0.05 else number


@pytest.fixture(scope="module")
def messages():
    """What each RPC is sent."""
    return {
        path: [Scribbler(f"{path} {number}").message(method.request) for number in range(MESSAGES)]
        for path, (_, method) in METHODS.items()
    }


async def stumbles(served, client, messages):
    """The messages at which the server stumbled."""
    found = []
    for path, (module, method) in METHODS.items():
        for message in messages[path]:
            served.clock.advance(0.2)  # so that nobody waits for his turn
            refusal = await client.refusal(module, method.name, message)
            if refusal and (refusal.code is StatusCode.UNKNOWN or refusal.text == "internal error"):
                found.append((path, str(message)[:2000]))
    return found


@pytest.mark.parametrize("caller", ["local", "agent", "admin", "anonymous"])
async def test_no_message_makes_the_server_stumble(caller, messages):
    block = 'admin_ids = ["spiffe://example.org/admin"] ratelimit { attestation = false } audit_log_enabled = true'
    async with serving(block) as served:
        served.datastore.bundles.create(Bundle(TrustDomain("other.test")))
        served.register(entry("/workload", "/spire/agent/x509pop/one", id="one"))
        agent = await served.agent()
        clients = {
            "local": served.local,
            "agent": agent,
            "admin": await served.remote(served.issue("/admin")),
            "anonymous": await served.remote(),
        }
        assert await stumbles(served, clients[caller], messages) == []
        await served.refresh()
        assert (await served.local.call(bundle_pb2, "GetBundle")).trust_domain == TD.name


async def test_bytes_that_are_no_message_are_refused():
    async with serving() as served:
        for path in METHODS:
            call = served.local._channel.unary_unary(path)(b"\x0a\xff\xff\xff\xff\x0f", timeout=20)
            assert await call.code() is not StatusCode.OK
        assert (await served.local.call(bundle_pb2, "GetBundle")).trust_domain == TD.name


def test_the_messages_are_the_same_in_each_run():
    kind = METHODS["/spire.api.server.entry.v1.Entry/BatchCreateEntry"][1].request
    assert Scribbler("x").message(kind) == Scribbler("x").message(kind)
    assert Scribbler("x").message(kind) != Scribbler("y").message(kind)
