"""How an agent is printed: SPIRE's labels, and a blank line after it."""

from datetime import UTC, datetime

from server.cli.entry_text import id_text
from spiffe_core.api.spire.api.types.agent_pb2 import Agent
from spiffe_core.runtime.gotext import time_text


def agent_text(agent: Agent) -> str:
    """The lines of one agent, each with its end."""
    serial = ("Banned", "true") if agent.banned else ("Serial number", agent.x509svid_serial_number)
    lines = [
        ("SPIFFE ID", agent_id_text(agent)),
        ("Attestation type", agent.attestation_type),
        ("Expiration time", local_time_text(agent.x509svid_expires_at)),
        serial,
        ("Can re-attest", "true" if agent.can_reattest else "false"),
        *([("Agent version", agent.agent_version)] if agent.agent_version else []),
    ]
    return "".join(f"{label:<17} : {value}\n" for label, value in lines) + "\n"


def agent_id_text(agent: Agent) -> str:
    """The agent's SPIFFE ID."""
    return id_text(agent.id)


def local_time_text(seconds: int) -> str:
    """A Unix time in this machine's time zone."""
    try:
        return time_text(datetime.fromtimestamp(seconds, UTC).astimezone())
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s after 1970"
