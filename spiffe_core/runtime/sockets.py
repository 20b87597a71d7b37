"""Sockets that listen, how their connections are taken, and what every TCP connection of ours is set to.

Several worker processes serve one address: TCP sockets share a port by ``SO_REUSEPORT``, Unix sockets are
made once and inherited.  So a listener is a socket object, made here, and ``Acceptor`` takes connections
from it in whichever process runs it.
"""

import asyncio
import contextlib
import errno
import os
import resource
import secrets
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from spiffe_core.errors import InvalidConfig

log: Final = structlog.get_logger()

BACKLOG: Final = 4096
"""Connections that may wait to be accepted; the kernel cuts it to ``net.core.somaxconn``."""
MAX_SOCKET_PATH: Final = 107
"""Longest path of a Unix socket in bytes (unix(7))."""

_BURST: Final = 32
"""Connections taken in one turn of the loop: few, so that workers that share a socket share its connections."""
_OF_THE_CONNECTION: Final = frozenset(
    {errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN}
    | {errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.ETIMEDOUT}
)
"""What accept(2) says of a connection that failed while it waited; the listener itself is well."""
_PAUSE: Final = 0.5
"""Seconds before accepting again when descriptors or memory have run out."""


def listen_tcp(address: str, port: int, *, shared: bool = False) -> socket.socket:
    """Listen on a literal IP address; ``shared`` lets other processes listen on the same port too.

    Raises:
        InvalidConfig: if the address is none, or cannot be listened on.
    """
    try:
        [(family, kind, _, _, where), *_] = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as exc:
        raise InvalidConfig(f"cannot listen on {address!r} port {port}: {exc}") from exc
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6 and address != "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise InvalidConfig(f"cannot listen on {address!r} port {port}: {exc.strerror}") from exc
    return listener


def listen_unix(path: Path, *, mode: int, folder_mode: int = 0o750) -> socket.socket:
    """Listen on a Unix socket of that mode; its folder is made if it is missing.

    A socket that is there already, left by a process that was killed, is replaced in one step: who connects
    finds the old one or the new one, with its final mode.

    Raises:
        InvalidConfig: if the path is too long, or taken by something that is no socket.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}")
    if max(len(os.fsencode(path)), len(os.fsencode(temporary))) > MAX_SOCKET_PATH:
        raise InvalidConfig(f"socket path {str(path)!r} is too long: {MAX_SOCKET_PATH} bytes are the most")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        path.parent.mkdir(mode=folder_mode, parents=True, exist_ok=True)
        _check_replaceable(path)
        listener.bind(os.fspath(temporary))
        temporary.chmod(mode)
        listener.listen(BACKLOG)
        temporary.replace(path)
    except BaseException as exc:
        listener.close()
        with contextlib.suppress(OSError):  # what was wrong first is what is told
            temporary.unlink()
        if isinstance(exc, OSError):
            raise InvalidConfig(f"cannot listen on {str(path)!r}: {exc.strerror}") from exc
        raise
    return listener


def _check_replaceable(path: Path) -> None:
    """Raise unless there is nothing, or a socket, at ``path``."""
    if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
        raise InvalidConfig(f"cannot listen on {str(path)!r}: there is something else of that name")


def listen_abstract(name: str) -> socket.socket:
    """Listen on a name in Linux's abstract namespace: no file, and so nobody's permission either.

    Any process of the machine may connect: ask each connection who it is.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    listener.bind(f"\0{name}")
    listener.listen(BACKLOG)
    return listener


def tune_tcp(connection: socket.socket) -> None:
    """Send at once, and notice within about two minutes a peer that is gone or has stopped reading."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000)


def raise_descriptor_limit() -> int:
    """Allow this process as many descriptors as the machine lets it, and return how many those are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Acceptor:
    """Takes the connections of one listening socket, on the running loop, and hands each to ``taken``.

    Connections arrive as non-blocking sockets with their address (of the form that its family has in
    ``socket``); ``taken`` owns them from then on.  The listening socket is
    this object's: ``close`` closes it.
    """

    def __init__(self, listener: socket.socket, taken: Callable[[socket.socket, Any], None]) -> None:
        listener.settimeout(0)
        self._listener = listener
        self._taken = taken
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._loop.add_reader(listener.fileno(), self._ready)

    def close(self) -> None:
        """Take no more connections; the kernel refuses those in the queue, unless another process listens too."""
        if self._listener.fileno() < 0:
            return
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def _ready(self) -> None:
        for _ in range(_BURST):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno in _OF_THE_CONNECTION:
                    continue
                self._pause(exc)
                return
            connection.settimeout(0)
            self._taken(connection, address)

    def _pause(self, exc: OSError) -> None:
        log.error("Connections cannot be accepted", error=exc.strerror, retry_seconds=_PAUSE)
        self._loop.remove_reader(self._listener.fileno())
        self._resume = self._loop.call_later(_PAUSE, self._loop.add_reader, self._listener.fileno(), self._ready)
