from spiffe_core.api.spire.plugin.types import jwtkey_pb2 as _jwtkey_pb2
from spiffe_core.api.spire.plugin.types import x509certificate_pb2 as _x509certificate_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MintX509CARequest(_message.Message):
    __slots__ = ("csr", "preferred_ttl")
    CSR_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_TTL_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    preferred_ttl: int
    def __init__(self, csr: _Optional[bytes] = ..., preferred_ttl: _Optional[int] = ...) -> None: ...

class MintX509CAResponse(_message.Message):
    __slots__ = ("x509_ca_chain", "upstream_x509_roots")
    X509_CA_CHAIN_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_X509_ROOTS_FIELD_NUMBER: _ClassVar[int]
    x509_ca_chain: _containers.RepeatedCompositeFieldContainer[_x509certificate_pb2.X509Certificate]
    upstream_x509_roots: _containers.RepeatedCompositeFieldContainer[_x509certificate_pb2.X509Certificate]
    def __init__(self, x509_ca_chain: _Optional[_Iterable[_Union[_x509certificate_pb2.X509Certificate, _Mapping]]] = ..., upstream_x509_roots: _Optional[_Iterable[_Union[_x509certificate_pb2.X509Certificate, _Mapping]]] = ...) -> None: ...

class PublishJWTKeyRequest(_message.Message):
    __slots__ = ("jwt_key",)
    JWT_KEY_FIELD_NUMBER: _ClassVar[int]
    jwt_key: _jwtkey_pb2.JWTKey
    def __init__(self, jwt_key: _Optional[_Union[_jwtkey_pb2.JWTKey, _Mapping]] = ...) -> None: ...

class PublishJWTKeyResponse(_message.Message):
    __slots__ = ("upstream_jwt_keys",)
    UPSTREAM_JWT_KEYS_FIELD_NUMBER: _ClassVar[int]
    upstream_jwt_keys: _containers.RepeatedCompositeFieldContainer[_jwtkey_pb2.JWTKey]
    def __init__(self, upstream_jwt_keys: _Optional[_Iterable[_Union[_jwtkey_pb2.JWTKey, _Mapping]]] = ...) -> None: ...

class SubscribeToLocalBundleRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SubscribeToLocalBundleResponse(_message.Message):
    __slots__ = ("upstream_x509_roots", "upstream_jwt_keys")
    UPSTREAM_X509_ROOTS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_JWT_KEYS_FIELD_NUMBER: _ClassVar[int]
    upstream_x509_roots: _containers.RepeatedCompositeFieldContainer[_x509certificate_pb2.X509Certificate]
    upstream_jwt_keys: _containers.RepeatedCompositeFieldContainer[_jwtkey_pb2.JWTKey]
    def __init__(self, upstream_x509_roots: _Optional[_Iterable[_Union[_x509certificate_pb2.X509Certificate, _Mapping]]] = ..., upstream_jwt_keys: _Optional[_Iterable[_Union[_jwtkey_pb2.JWTKey, _Mapping]]] = ...) -> None: ...
