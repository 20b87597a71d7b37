"""How ``debug getinfo`` prints the certificates of a process's own SVID."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from spiffe_core.api.spire.api.types.spiffeid_pb2 import SPIFFEID
from spiffe_core.runtime.gotext import time_rfc3339


class Certificate(Protocol):
    """The message of one certificate, which servers and agents have each."""

    id: SPIFFEID
    expires_at: int
    subject: str

    def HasField(self, field_name: str) -> bool:  # noqa: N802  protobuf's name
        """Whether a message field was set."""


def chain_text(chain: Sequence[Certificate]) -> str:
    """The lines of the chain, or nothing for an empty one."""
    if not chain:
        return ""
    lines = ["  SVID Chain:"]
    for number, one in enumerate(chain):
        name = f"spiffe://{one.id.trust_domain}{one.id.path}" if one.HasField("id") else "(none)"
        lines += [
            f"    [{number}] SPIFFE ID:  {name}",
            f"        Subject:    {one.subject}",
            f"        Expires At: {time_rfc3339(datetime.fromtimestamp(one.expires_at, UTC))}",
        ]
    return "\n".join([*lines, ""])
