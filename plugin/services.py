"""What the plugin serves: SPIRE's KeyManager for servers and for agents, and how it is configured."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keymanagers.base import Key, KeyType, fingerprint
from plugin.holder import KeyHolder
from plugin.signing import sign_data
from plugin.slots import KeySlots
from spiffe_core.api.spire.service.common.config.v1 import config_pb2
from spiffe_core.errors import InvalidConfig, InvalidInput, NotFound

_TYPES: Final[Mapping[str, KeyType]] = {
    "EC_P256": KeyType.EC_P256,
    "EC_P384": KeyType.EC_P384,
    "RSA_2048": KeyType.RSA_2048,
    "RSA_4096": KeyType.RSA_4096,
}
"""By their names in SPIRE's ``KeyType``."""
_TYPE_NAMES: Final = {kind: name for name, kind in _TYPES.items()}

log: Final = structlog.get_logger()


class KeyManagerService:
    """``spire.plugin.server.keymanager.v1.KeyManager``, or the agent's, which has the same messages."""

    def __init__(self, holder: KeyHolder, pb: ModuleType) -> None:
        self._holder = holder
        self._pb: Any = pb

    async def GenerateKey(self, request: Any, _call: object) -> Any:  # noqa: ANN401  of either package
        """Make a key, in place of the one of its id."""
        key_type = self._key_type(request.key_type)
        key = await self._holder.run(lambda slots: slots.generate(request.key_id, key_type))
        log.info("Key generated", key_id=request.key_id, key_type=str(key_type), fingerprint=fingerprint(key.public))
        return self._pb.GenerateKeyResponse(public_key=self._public_key(request.key_id, key))

    async def GetPublicKey(self, request: Any, _call: object) -> Any:  # noqa: ANN401  of either package
        """The public half of a key, or nothing."""
        if not request.key_id:
            raise InvalidInput("key id is required")
        shown = await self._holder.run(KeySlots.all)
        key = shown.get(request.key_id)
        return self._pb.GetPublicKeyResponse(public_key=key and self._public_key(request.key_id, key))

    async def GetPublicKeys(self, _request: Any, _call: object) -> Any:  # noqa: ANN401  of either package
        """The public halves of all keys, by id."""
        shown = await self._holder.run(KeySlots.all)
        keys = [self._public_key(key_id, shown[key_id]) for key_id in sorted(shown)]
        return self._pb.GetPublicKeysResponse(public_keys=keys)

    async def SignData(self, request: Any, _call: object) -> Any:  # noqa: ANN401  of either package
        """Sign a digest."""
        if not request.key_id:
            raise InvalidInput("key id is required")

        def work(slots: KeySlots) -> tuple[bytes, str]:
            key = slots.find(request.key_id)
            if key is None:
                raise NotFound(f'no such key "{request.key_id}"')
            return sign_data(key, request, self._pb), fingerprint(key.public)

        signature, of = await self._holder.run(work)
        return self._pb.SignDataResponse(signature=signature, key_fingerprint=of)

    def _key_type(self, number: int) -> KeyType:
        if not number:
            raise InvalidInput("key type is required")
        try:
            return _TYPES[self._pb.KeyType.Name(number)]
        except (ValueError, KeyError):
            raise InvalidInput(f"key type {number} is none that is known") from None

    def _public_key(self, key_id: str, key: Key) -> Any:  # noqa: ANN401  of either package
        return self._pb.PublicKey(
            id=key_id,
            type=self._pb.KeyType.Value(_TYPE_NAMES[key.type]),
            pkix_data=key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            fingerprint=fingerprint(key.public),
        )


class ConfigService:
    """``spire.service.common.config.v1.Config``."""

    def __init__(self, holder: KeyHolder) -> None:
        self._holder = holder

    async def Configure(self, request: config_pb2.ConfigureRequest, _call: object) -> config_pb2.ConfigureResponse:
        """Use the key manager that the data describe from now on."""
        await self._holder.configure(request.core_configuration.trust_domain, request.hcl_configuration)
        return config_pb2.ConfigureResponse()

    async def Validate(self, request: config_pb2.ValidateRequest, _call: object) -> config_pb2.ValidateResponse:
        """Check the data."""
        try:
            await self._holder.validate(request.core_configuration.trust_domain, request.hcl_configuration)
        except InvalidConfig as exc:
            return config_pb2.ValidateResponse(valid=False, notes=[str(exc)])
        return config_pb2.ValidateResponse(valid=True)
