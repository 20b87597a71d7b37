from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PutX509SVIDRequest(_message.Message):
    __slots__ = ("svid", "metadata", "federated_bundles")
    class FederatedBundlesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    SVID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    FEDERATED_BUNDLES_FIELD_NUMBER: _ClassVar[int]
    svid: X509SVID
    metadata: _containers.RepeatedScalarFieldContainer[str]
    federated_bundles: _containers.ScalarMap[str, bytes]
    def __init__(self, svid: _Optional[_Union[X509SVID, _Mapping]] = ..., metadata: _Optional[_Iterable[str]] = ..., federated_bundles: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class PutX509SVIDResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeleteX509SVIDRequest(_message.Message):
    __slots__ = ("metadata",)
    METADATA_FIELD_NUMBER: _ClassVar[int]
    metadata: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, metadata: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteX509SVIDResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class X509SVID(_message.Message):
    __slots__ = ("spiffeID", "cert_chain", "private_key", "bundle", "expires_at")
    SPIFFEID_FIELD_NUMBER: _ClassVar[int]
    CERT_CHAIN_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_KEY_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    spiffeID: str
    cert_chain: _containers.RepeatedScalarFieldContainer[bytes]
    private_key: bytes
    bundle: _containers.RepeatedScalarFieldContainer[bytes]
    expires_at: int
    def __init__(self, spiffeID: _Optional[str] = ..., cert_chain: _Optional[_Iterable[bytes]] = ..., private_key: _Optional[bytes] = ..., bundle: _Optional[_Iterable[bytes]] = ..., expires_at: _Optional[int] = ...) -> None: ...
