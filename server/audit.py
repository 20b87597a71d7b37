"""The audit log: one line for each call, or for each item of a batch, when the operator asked for it.

The event and its fields are SPIRE's (``API accessed``, ``type=audit``).  As there, probes of health leave no line.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from server.caller import Call
from spiffe_core.errors import SpiffeError
from spiffe_core.runtime.calls import code_name
from spiffe_core.runtime.rpc import code_of

_HEALTH: Final = "/grpc.health.v1.Health/"

log: Final = structlog.get_logger()


class AuditLog:
    """Writes the lines, or nothing."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled

    def item(self, call: Call, facts: Mapping[str, Any], error: SpiffeError | None = None) -> None:
        """Note one item of a batch; the call itself then gets no line of its own."""
        if self.enabled:
            call.audited = True
            self._write(call, facts, error)

    def call(self, call: Call, error: SpiffeError | None) -> None:
        """Note a call that has ended."""
        if self.enabled and not (call.audited and error is None) and not call.method.path.startswith(_HEALTH):
            self._write(call, call.facts, error)

    def _write(self, call: Call, facts: Mapping[str, Any], error: SpiffeError | None) -> None:
        fields: dict[str, Any] = {"type": "audit", "status": "success", **_caller(call), **call.log_fields(), **facts}
        if error is not None:
            fields.update(status="error", status_code=go_name(error), status_message=str(error))
        log.info("API accessed", **fields)


def go_name(error: SpiffeError) -> str:
    """The status code of an error as Go writes it: ``InvalidArgument``."""
    return code_name(code_of(error))


def _caller(call: Call) -> dict[str, Any]:
    """Which process called, for a local caller."""
    process = call.peer.process
    if process is None:
        return {}
    fields: dict[str, Any] = {"caller_uid": process.uid, "caller_gid": process.gid}
    try:
        fields["caller_path"] = str(Path(f"/proc/{process.pid}/exe").readlink())
    except OSError:  # it has ended, or belongs to another user: the IDs say enough
        return fields
    return fields
