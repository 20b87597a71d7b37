"""What the workers of one server have in common, made once and inherited: sockets, rate limits, the log level."""

import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from server.config import ServerConfig
from server.rate_limits import RateLimits
from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.levels import SharedLevelSwitch
from spiffe_core.runtime.sockets import listen_tcp, listen_unix

SOCKET_MODE: Final = 0o770
"""Mode of the server's private socket (SPIRE's): who may connect is an administrator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The common things of one server, as one process holds them."""

    local: tuple[socket.socket, ...]
    """Listening Unix sockets of the private API."""
    rate_limits: RateLimits
    level: SharedLevelSwitch
    workers: int = 1
    began: float = field(default_factory=time.monotonic)
    """When the server began, on the clock that all processes of a machine share."""

    alive: int | None = None
    """Reading end of a pipe that ends with the supervisor; None where there is none."""

    def uptime(self) -> float:
        """Seconds since the server began, whatever process of it is asked."""
        return time.monotonic() - self.began

    def listen(self, config: ServerConfig) -> list[socket.socket]:
        """The TCP sockets of this process; several processes listen on one port.

        Raises:
            InvalidConfig: if the address cannot be listened on.
        """
        return [
            listen_tcp(address, config.bind_port, shared=self.workers > 1) for address in addresses(config.bind_address)
        ]


def addresses(host: str) -> list[str]:
    """The IP addresses of a bind address, which may be a host name.

    Raises:
        InvalidConfig: if the name has none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise InvalidConfig(f"server.bind_address: {host!r} is no IP address and cannot be looked up") from exc
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def local_paths(config: ServerConfig) -> tuple[Path, ...]:
    """Where the private API is served: at its socket, and at the one by the name that it had before SPIRE 1.0."""
    paths = (config.socket_path, config.registration_uds_path)
    return tuple(dict.fromkeys(path for path in paths if path is not None))


def check_alone(config: ServerConfig) -> None:
    """Make sure that no other server listens on the TCP address, before this one takes anything from it.

    Workers would share the port with those of another server, and a private socket is replaced, whoever listens.

    Raises:
        InvalidConfig: if somebody does.
    """
    for address in addresses(config.bind_address):
        listen_tcp(address, config.bind_port).close()


def listen_locally(config: ServerConfig) -> tuple[socket.socket, ...]:
    """Listen on the private sockets.

    Raises:
        InvalidConfig: if a path cannot be listened on.
    """
    return tuple(listen_unix(path, mode=SOCKET_MODE) for path in local_paths(config))
