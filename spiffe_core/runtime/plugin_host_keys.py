"""An external plugin of type KeyManager, by SPIRE's interface of it: the server's, or the agent's, which is the same.

A call that the plugin does not answer in time means that it, or the module that it loads, hangs: it is killed and
started again, and this process goes on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import grpc
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from spiffe_core.api.services import service_in
from spiffe_core.bundle import PublicKey
from spiffe_core.errors import InvalidInput, KeyManagerUnavailable, SpiffeError, Unsupported
from spiffe_core.runtime.calls import error_class, rpc_in
from spiffe_core.runtime.plugin_host import ExternalPlugin
from spiffe_core.runtime.plugin_host_process import PluginProcess

TIMEOUT: Final = 30.0
"""Seconds that a call may take (SPIRE's)."""


@dataclass(frozen=True, slots=True)
class PluginKey:
    """A key that the plugin shows, and by what it calls it."""

    public: PublicKey
    fingerprint: str


class PluginKeys:
    """The keys of a plugin, by their ids there.  Thread-safe."""

    def __init__(self, plugin: ExternalPlugin, pb: ModuleType, timeout: float = TIMEOUT) -> None:
        self._plugin = plugin
        self._pb: Any = pb
        self._timeout = timeout

    def generate(self, place: str, key_type: str) -> PluginKey:
        """Make a key of a type, such as ``ec-p256``; the one of that id is gone.

        Raises:
            Unsupported: if the plugin makes no keys of that type.
            KeyManagerUnavailable: if it does not answer, or not as it should.
        """
        number = self._pb.KeyType.Value(key_type.upper().replace("-", "_"))
        request = self._pb.GenerateKeyRequest(key_id=place, key_type=number)
        return self._key(place, self._ask("GenerateKey", request).public_key)

    def shown(self) -> Mapping[str, PluginKey]:
        """Every key by its id."""
        answer = self._ask("GetPublicKeys", self._pb.GetPublicKeysRequest())
        return {one.id: self._key(one.id, one) for one in answer.public_keys if _is_ours(one.pkix_data)}

    def sign(self, place: str, digest: bytes, hash_name: str, pss_salt: int | None) -> tuple[bytes, str]:
        """A signature of a digest, and the fingerprint of the key that made it."""
        number = self._pb.HashAlgorithm.Value(hash_name.upper())
        request = self._pb.SignDataRequest(key_id=place, data=digest)
        if pss_salt is None:
            request.hash_algorithm = number
        else:
            request.pss_options.hash_algorithm, request.pss_options.salt_length = number, pss_salt
        answer = self._ask("SignData", request)
        return answer.signature, answer.key_fingerprint

    def close(self) -> None:
        """End the plugin."""
        self._plugin.close()

    def on_restart(self, compare: Callable[[Mapping[str, PluginKey]], None]) -> None:
        """Let ``compare`` look at the keys of a plugin that was started again, before it is used."""

        def check(process: PluginProcess) -> None:
            method = self._method("GetPublicKeys")
            answer = process.call(
                method, self._pb.GetPublicKeysRequest(), self._pb.GetPublicKeysResponse, self._timeout
            )
            compare({one.id: self._key(one.id, one) for one in answer.public_keys if _is_ours(one.pkix_data)})

        self._plugin.check = check

    def _ask(self, name: str, request: Any) -> Any:  # noqa: ANN401  messages of either package
        method = self._method(name)
        try:
            return self._plugin.running.call(method, request, method.response, self._timeout)
        except grpc.RpcError as exc:
            if exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._plugin.restart(f"{name} took longer than {self._timeout:g} s")
            text = str(self._plugin.error(exc))
            kind = error_class(exc.code())
            raise (kind(text) if kind in {Unsupported, InvalidInput} else KeyManagerUnavailable(text)) from None
        except SpiffeError as exc:
            raise KeyManagerUnavailable(str(exc)) from exc

    def _method(self, name: str) -> Any:  # noqa: ANN401  a Method, whose messages are of either package
        return rpc_in(self._pb.DESCRIPTOR, name)

    def _key(self, key_id: str, said: Any) -> PluginKey:  # noqa: ANN401  a PublicKey of either package
        if said.id != key_id:
            raise KeyManagerUnavailable(f'plugin response has unexpected key id "{said.id}" for key "{key_id}"')
        public = _public_key(said.pkix_data)
        if public is None:
            raise KeyManagerUnavailable(f'plugin response has no EC or RSA public key for key "{key_id}"')
        return PluginKey(public, said.fingerprint)


def service_name(pb: ModuleType) -> str:
    """The full name of the service that such a plugin must have."""
    return str(service_in(pb.DESCRIPTOR).full_name)


def _is_ours(pkix: bytes) -> bool:
    return _public_key(pkix) is not None


def _public_key(pkix: bytes) -> PublicKey | None:
    try:
        key = load_der_public_key(pkix)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) else None
