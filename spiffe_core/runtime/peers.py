"""Who is at the other end of a connection, and by which name gRPC asks for them.

A connection that came through the front door reaches the gRPC server from a socket with a fresh,
unguessable name, and that name is what ``context.peer()`` tells a handler.  ``Peers`` maps it to the
``Peer`` that was identified before the first byte passed, for as long as the connection lives.  A
connection that did not come through the front door has no such name and so no peer.
"""

import errno
import os
import re
import secrets
import select
import socket
import struct
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from spiffe_core.errors import Unauthenticated
from spiffe_core.x509svid import Chain, X509Svid

_CREDENTIALS: Final = struct.Struct("iII")
"""``struct ucred``: pid, uid, gid (unix(7))."""
_SO_PEERPIDFD: Final = 77
"""``SO_PEERPIDFD`` of Linux 6.5: a pidfd of the peer without a race (asm-generic/socket.h)."""
_EFFECTIVE: Final = re.compile(rb"^(Uid|Gid):\t[0-9]+\t([0-9]+)\t", re.MULTILINE)
"""Effective user and group in a process's ``status`` (proc_pid_status(5))."""
_PREFIX: Final = "unix-abstract:"
"""How gRPC writes the abstract name of a peer."""


class PeerKind(StrEnum):
    """How a peer came in."""

    TCP = "tcp"
    UNIX = "unix"


class PeerProcess:
    """The process that opened a Unix socket, watched: its number means nothing once it has ended.

    The numbers are of the moment of the connection.  ``pid`` is 0 if the process is in a PID namespace that
    this one cannot see.
    """

    def __init__(self, pid: int, uid: int, gid: int, descriptor: int | None) -> None:
        self.pid = pid
        self.uid = uid
        self.gid = gid
        self._descriptor = descriptor

    @classmethod
    def of(cls, connection: socket.socket) -> "PeerProcess":
        """The process at the other end of a connected Unix socket."""
        pid, uid, gid = cls.credentials(connection)
        return cls(pid, uid, gid, _pidfd(connection, pid))

    @staticmethod
    def credentials(connection: socket.socket) -> tuple[int, int, int]:
        """The pid, uid and gid that connected (``SO_PEERCRED``)."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(raw)
        return pid, uid, gid

    def check_alive(self) -> None:
        """Raise unless the very process that opened the connection still runs.

        Call it after reading anything about the process by its number: what was read is then its own.

        Raises:
            Unauthenticated: if it has ended, or the connection has, or it could never be seen.
        """
        if self._descriptor is None:
            raise Unauthenticated(
                "the caller's process cannot be watched: it is gone, or in a PID namespace out of sight"
            )
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if poll.poll(0):
            raise Unauthenticated(f"the caller's process {self.pid} has ended")

    def check_same_user(self) -> None:
        """Raise unless the process still runs as the user and group that opened the connection.

        A process that starts a set-user-ID program is still the same, but whoever started it may hold the connection
        too, and is not that program's user.

        Raises:
            Unauthenticated: if it does not, or cannot be asked.
        """
        try:
            with open(f"/proc/{self.pid}/status", "rb", buffering=0) as file:  # noqa: PTH123  for each call
                found = dict(_EFFECTIVE.findall(file.read(1 << 16)))
        except OSError as exc:
            self.check_alive()  # if it has ended, that is the reason
            raise Unauthenticated(f"the caller's process {self.pid} cannot be looked at: {exc.strerror}") from exc
        if (int(found.get(b"Uid", -1)), int(found.get(b"Gid", -1))) != (self.uid, self.gid):
            raise Unauthenticated(
                f"the caller's process {self.pid} is no longer of the user and group that opened the connection: "
                "connect again"
            )

    def close(self) -> None:
        """Stop watching; the connection has ended."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __repr__(self) -> str:
        return f"PeerProcess(pid={self.pid}, uid={self.uid}, gid={self.gid})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """An identified connection."""

    kind: PeerKind
    address: str
    """``host:port`` of a TCP peer; ``@`` for a Unix one."""
    since: datetime
    """When it was identified, UTC."""
    svid: X509Svid | None = None
    """What it proved to be; None on a Unix socket, and over TLS without a client certificate."""
    process: PeerProcess | None = None
    """Who it is on this machine; None over TCP."""

    @property
    def chain(self) -> Chain | tuple[()]:
        """The chain it presented, leaf first; empty if none."""
        return self.svid.chain if self.svid else ()

    @property
    def host(self) -> str:
        """The IP address of a TCP peer, without brackets; empty for a Unix one."""
        return self.address.rpartition(":")[0].strip("[]")


class Peers:
    """The peers of the open connections of one front door, by socket name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Peer] = {}

    def add(self, peer: Peer) -> str:
        """Remember a peer under a fresh abstract socket name, which is returned without its leading NUL."""
        name = secrets.token_hex(16)  # 32 characters that gRPC prints as they are
        self._by_name[name] = peer
        return name

    def remove(self, name: str) -> None:
        """Forget the peer of that name: its connection has ended."""
        peer = self._by_name.pop(name)
        if peer.process is not None:
            peer.process.close()

    def get(self, grpc_peer: str) -> Peer | None:
        """The peer that ``context.peer()`` names, or None if it did not come through this front door."""
        if not grpc_peer.startswith(_PREFIX):
            return None
        return self._by_name.get(grpc_peer.removeprefix(_PREFIX))

    def __len__(self) -> int:
        return len(self._by_name)


def _pidfd(connection: socket.socket, pid: int) -> int | None:
    """A descriptor of the peer's process, or None if there is no such process to be seen."""
    if pid <= 0:
        return None
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as exc:
        if exc.errno != errno.ENOPROTOOPT:
            return None  # the process has ended already
    # A kernel before 6.5 offers nothing better: between connecting and this line the number may have passed
    # to another process.
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
