"""Dialling with a key in a PKCS#11 token: grpcio's TLS signs there, and reaches the probed server and no other."""

from collections.abc import Iterator
from contextlib import closing

import grpc
import pytest
from cryptography import x509

from keymanagers.base import KeyId, KeyType
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from spiffe_core.dns import SERVER_NAME
from spiffe_core.errors import Unavailable
from spiffe_core.runtime.hardware import channel_credentials
from spiffe_core.runtime.tls import HardwareIdentity
from tests.support.certificates import sans
from tests.support.houses import House, ask, dialer, nothing_left, until
from tests.support.loops import on_both_loops
from tests.support.softhsm import SoftHsmToken

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm


@pytest.fixture
def manager(softhsm_token: SoftHsmToken) -> Iterator[Pkcs11KeyManager]:
    with closing(Pkcs11KeyManager(softhsm_token.config())) as opened:
        yield opened


def in_token(house: House, manager: Pkcs11KeyManager, kind: KeyType = KeyType.EC_P256) -> HardwareIdentity:
    key = manager.generate(KeyId("agent"), kind).private
    return HardwareIdentity(house.realm.issue("/agent", key=key).chain, key)


@pytest.mark.parametrize("kind", [KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048], ids=str)
@on_both_loops
async def test_a_key_in_a_token_proves_who_calls(kind, manager):
    house = House()
    async with house.open():
        dialling = dialer(house, in_token(house, manager, kind))
        assert await ask(await dialling.channel()) == "spiffe://example.org/agent"
        assert house.door.stats.accepted == 2  # the probe, which shows no certificate, and the channel
        assert await dialling.channel() is await dialling.channel()
        assert house.door.stats.accepted == 2
        await dialling.close()
        await until(lambda: house.door.stats.open == 0)


@on_both_loops
async def test_a_server_without_the_reserved_name_is_refused_with_the_reason(manager):
    house = House()
    house.identity = house.realm.server(dns_name=False)  # as SPIRE's servers have it
    async with house.open(), nothing_left(house):
        dialling = dialer(house, in_token(house, manager))
        with pytest.raises(Unavailable, match=f"has no DNS name {SERVER_NAME}.*give it a key in memory or on disk"):
            await dialling.channel()
        assert SERVER_NAME in (dialling.last_error or "")
        await dialling.close()


@on_both_loops
async def test_the_reserved_name_is_no_proof(manager):
    house = House()
    house.identity = house.realm.issue(
        "/workload", extensions=[(sans(str(house.realm.id("/workload")), others=[x509.DNSName(SERVER_NAME)]), False)]
    )
    async with house.open(), nothing_left(house):
        dialling = dialer(house, in_token(house, manager))
        with pytest.raises(Unavailable, match="unexpected server ID"):
            await dialling.channel()
        await dialling.close()


@on_both_loops
async def test_the_probed_leaf_is_the_only_certificate_that_the_channel_accepts(manager):
    """Another server SVID of the same authority with the same ID and names: not the one that was found right."""
    house = House()
    async with house.open():
        identity = in_token(house, manager)
        options = [("grpc.ssl_target_name_override", SERVER_NAME)]
        for leaf, accepted in ((house.identity.chain[0], True), (house.realm.server().chain[0], False)):
            credentials = channel_credentials(identity, leaf, lambda _text: None)
            async with grpc.aio.secure_channel(house.target, credentials, options) as channel:
                if accepted:
                    assert await ask(channel) == "spiffe://example.org/agent"
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await ask(channel)
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
                assert "CERTIFICATE_VERIFY_FAILED" in (refused.value.details() or "")


@on_both_loops
async def test_a_server_that_rotated_its_svid_is_probed_again(manager):
    house = House()
    async with house.open():
        dialling = dialer(house, in_token(house, manager))
        assert await ask(await dialling.channel()) == "spiffe://example.org/agent"
        house.identity = house.realm.server()
        assert await ask(await dialling.channel()) == "spiffe://example.org/agent"  # on the open connection
        await dialling.refresh()
        assert await ask(await dialling.channel()) == "spiffe://example.org/agent"
        assert house.door.stats.accepted == 4
        assert dialling.presented is not None
        assert dialling.presented[0] == house.identity.chain[0]
        await dialling.close()


@on_both_loops
async def test_a_key_that_does_not_sign_any_more_is_why_there_is_no_connection(manager):
    house = House()
    async with house.open():
        dialling = dialer(house, in_token(house, manager))
        manager.retire(KeyId("agent"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(await dialling.channel(), seconds=5)
        assert refused.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        assert (dialling.last_error or "").startswith("the key in hardware did not sign: ")
        await dialling.close()


@on_both_loops
async def test_a_dialler_goes_from_memory_to_hardware_and_back(manager):
    house = House()
    async with house.open():
        hardware, memory = in_token(house, manager), house.realm.issue("/in-memory")
        dialling = dialer(house)
        for identity, path in ((memory, "/in-memory"), (hardware, "/agent"), (memory, "/in-memory")):
            dialling._identity = lambda identity=identity: identity
            assert await ask(await dialling.channel()) == f"spiffe://example.org{path}"
            await dialling.refresh()
        await dialling.close()
