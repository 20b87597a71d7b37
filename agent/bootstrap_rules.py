"""From where an agent may take its first trust in a server: exactly one source, and a sound one."""

import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

from spiffe_core.errors import InvalidConfig

if TYPE_CHECKING:
    from agent.config import AgentBlock


_SOURCES: Final = ("insecure_bootstrap", "trust_bundle_path", "trust_bundle_url", "trust_bundle_spiffe_workload_api")


def check_bootstrap(keys: "AgentBlock") -> None:
    """Raise unless the keys name one source of trust, and at most one of a token.

    Raises:
        InvalidConfig: naming the keys that do not go together.
    """
    if keys.join_token and keys.join_token_file:
        raise InvalidConfig("only one of join_token or join_token_file can be specified, not both")
    given = [name for name in _SOURCES if getattr(keys, name)]
    if not given:
        names = "trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api"
        raise InvalidConfig(f"{names} must be configured unless insecure_bootstrap is set")
    if len(given) > 1:
        raise InvalidConfig(f"only one of {' or '.join(given)} can be specified")
    if keys.trust_bundle_unix_socket and not keys.trust_bundle_url:
        raise InvalidConfig("if trust_bundle_unix_socket is specified, so must be trust_bundle_url")
    if keys.trust_bundle_url:
        _check_url(keys.trust_bundle_url, at_socket=keys.trust_bundle_unix_socket is not None)
    if keys.trust_bundle_spiffe_workload_api:
        _check_address(keys.trust_bundle_spiffe_workload_api)


def _check_url(url: str, *, at_socket: bool) -> None:
    """Raise unless a bundle may be fetched from there: by HTTPS, or by HTTP at a Unix socket."""
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise InvalidConfig(f"trust_bundle_url: unable to parse trust bundle URL: {exc}") from exc
    if not at_socket:
        if parts.scheme != "https":
            raise InvalidConfig("trust_bundle_url: trust bundle URL must start with https://")
        return
    if parts.scheme != "http":
        raise InvalidConfig(
            "trust_bundle_url: trust bundle URL must start with http:// when used with trust bundle unix socket"
        )
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        for prefix in ("spiffe-", "spire-"):
            if name.startswith(prefix):
                raise InvalidConfig(f"trust_bundle_url: query params can not start with {prefix}")


def _check_address(address: str) -> None:
    """Raise unless it is an address of a Workload API (SPIFFE_Workload_Endpoint.md §4)."""
    key = "trust_bundle_spiffe_workload_api"
    try:
        parts = urlsplit(address)
        if parts.scheme == "tcp":
            ipaddress.ip_address(parts.hostname or "")
            if parts.port is None or parts.path:
                raise ValueError(address)  # noqa: TRY301  the same answer as for a malformed address
            return
    except ValueError:
        raise InvalidConfig(f"{key}: not tcp://IP:PORT") from None
    if parts.scheme != "unix" or not (parts.netloc or parts.path) or parts.query or parts.fragment or parts.username:
        raise InvalidConfig(f"{key}: not a SPIFFE Workload API endpoint address, such as unix:///run/spire/agent.sock")
