from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Challenge(_message.Message):
    __slots__ = ("challenge",)
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    challenge: bytes
    def __init__(self, challenge: _Optional[bytes] = ...) -> None: ...

class PayloadOrChallengeResponse(_message.Message):
    __slots__ = ("payload", "challenge_response")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    challenge_response: bytes
    def __init__(self, payload: _Optional[bytes] = ..., challenge_response: _Optional[bytes] = ...) -> None: ...
