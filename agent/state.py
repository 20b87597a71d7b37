"""What an agent keeps on disk: its SVID, the bundle, and how its bootstrap goes; ``<data_dir>/agent-data.json``.

The format is SPIRE's, so that either agent goes on where the other stopped: certificates are PEM in base64, the
bundle has X.509 authorities only, and the key of the SVID is not named: it is found by its public half.  One
member is ours, ``key_ids``: the keys that this agent has made and not destroyed yet.  An id is written there
*before* its key is made, so that no key is ever forgotten in a token; SPIRE's agent passes over it.

The file is replaced in one step at each change, in a thread: workloads do not wait for a slow disk.  A file that
cannot be read is an error and stays as it is: an agent that began anew instead would spend a join token, or lose the
one identity that it has.
"""

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from keymanagers.base import KeyId
from spiffe_core.errors import InvalidConfig, Unavailable
from spiffe_core.runtime.files import remove_unfinished, write_private
from spiffe_core.runtime.gotext import os_error
from spiffe_core.x509svid import Chain

NAME: Final = "agent-data.json"
MAX_BYTES: Final = 128 * 1024 * 1024
"""Longest file that is read: what is longer than any bundle that a server can send."""
_NEVER: Final = "0001-01-01T00:00:00Z"
"""Go's zero time."""


class BootstrapUse(IntEnum):
    """What the bundle of the configuration is used for (SPIRE's numbers)."""

    UNSPECIFIED = 0
    BOOTSTRAP = 1
    REBOOTSTRAP = 2


@dataclass(frozen=True, slots=True)
class AgentState:
    """The content of the file."""

    svid: Chain | tuple[()] = ()
    """The agent's SVID, leaf first; empty if it has none."""
    bundle: tuple[bytes, ...] = ()
    """X.509 authorities of the trust domain, DER; empty if none is known yet."""
    reattestable: bool = False
    bootstrap_use: BootstrapUse = BootstrapUse.UNSPECIFIED
    bootstrap_started_at: datetime | None = None
    """Since when the server and the bundle do not agree, or the agent tries to attest."""
    connection_attempts: int = 0
    key_ids: tuple[KeyId, ...] = field(default=())
    """Keys that this agent has made, or is about to make, and that were not destroyed yet."""


class StateFile:
    """The file of one agent."""

    def __init__(self, data_dir: Path) -> None:
        """Read it, if it is there.

        Raises:
            InvalidConfig: if it is no file of an agent's.
        """
        self._path = data_dir / NAME
        self._changing = asyncio.Lock()
        remove_unfinished(self._path)
        self._state = _read(self._path)

    @property
    def state(self) -> AgentState:
        """What the file says."""
        return self._state

    async def change(self, **changes: Any) -> None:  # noqa: ANN401  fields of AgentState
        """Replace the fields of these names, on disk first.  Whoever gives up waiting does not undo it.

        Raises:
            Unavailable: if the file cannot be written; everything is then as it was.
        """
        await asyncio.shield(self._change(changes))

    async def _change(self, changes: Mapping[str, Any]) -> None:
        async with self._changing:
            state = replace(self._state, **changes)
            if state == self._state and self._path.exists():
                return
            try:
                await asyncio.to_thread(lambda: write_private(self._path, _render(state)))
            except OSError as exc:
                raise Unavailable(f"cannot store the agent's state: {os_error('open', self._path, exc)}") from exc
            self._state = state


def _read(path: Path) -> AgentState:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return AgentState()
    except OSError as exc:
        raise InvalidConfig(f"cannot read the agent's state: {os_error('open', path, exc)}") from exc
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"longer than {MAX_BYTES} bytes")  # noqa: TRY301  the same answer as for what is in it
        return _parse(json.loads(content))
    except (ValueError, TypeError, RecursionError, x509.InvalidVersion) as exc:
        raise InvalidConfig(
            f"{path} is no state of an agent ({exc}): restore it, or remove it to have the agent attest again"
        ) from None


def _parse(document: object) -> AgentState:
    if not isinstance(document, dict):
        raise TypeError("no object")
    started = _member(document, "bootstrap_start_time", str, _NEVER)
    return AgentState(
        svid=tuple(map(_certificate, _member(document, "svid", list, []))),
        bundle=tuple(_certificate(one).public_bytes(Encoding.DER) for one in _member(document, "bundle", list, [])),
        reattestable=_member(document, "reattestable", bool, default=False),
        bootstrap_use=BootstrapUse(_member(document, "bootstrap_use", int, 0)),
        bootstrap_started_at=None if started == _NEVER else datetime.fromisoformat(started).astimezone(UTC),
        connection_attempts=_member(document, "connection_attempts", int, 0),
        key_ids=tuple(KeyId(_text(one)) for one in _member(document, "key_ids", list, [])),
    )


def _member(document: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:  # noqa: ANN401  JSON
    value = document.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{name} is no {kind.__name__}")
    return value


def _certificate(encoded: object) -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(_text(encoded), validate=True))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a member of a list is no text")
    return value


def _render(state: AgentState) -> bytes:
    started = state.bootstrap_started_at
    document = {
        "svid": _encoded(state.svid),
        "bundle": _encoded([x509.load_der_x509_certificate(der) for der in state.bundle]),
        "reattestable": state.reattestable,
        "bootstrap_use": int(state.bootstrap_use),
        "bootstrap_start_time": _NEVER if started is None else started.isoformat().replace("+00:00", "Z"),
        "connection_attempts": state.connection_attempts,
        "key_ids": list(state.key_ids),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _encoded(certificates: Sequence[x509.Certificate]) -> list[str] | None:
    """As Go writes a list of byte strings: null if there is none."""
    return [base64.b64encode(one.public_bytes(Encoding.PEM)).decode() for one in certificates] or None
