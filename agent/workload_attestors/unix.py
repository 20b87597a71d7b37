"""WorkloadAttestor ``unix``: what the kernel says of a process.

Users and groups are the effective ones of the moment of the call, read from /proc, as SPIRE has them.  User and
group must still be those that opened the connection: a process that starts a set-user-ID program becomes that
program's user for a moment, and another one, which holds the same connection, would get that user's identities.

The path and the digest of the program are told only if the configuration asks for them, since the agent needs the
right to look at other users' processes for that.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.workload_attestors.digests import Digests
from agent.workload_attestors.names import Names, group_name, user_name
from spiffe_core.errors import Internal, Unauthenticated
from spiffe_core.runtime.peers import PeerProcess


@dataclass(frozen=True, kw_only=True)
class UnixConfig:
    """``plugin_data`` of WorkloadAttestor "unix"."""

    discover_workload_path: bool = False
    """Also tell the path and the SHA-256 digest of the workload's program."""
    workload_size_limit: int = 0
    """Longest program, in bytes, that is digested; 0 digests any, a negative number none."""


@dataclass(frozen=True, slots=True)
class _Ids:
    """Whose a process is: its effective user and group, and its supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...]


class UnixAttestor:
    """``agent.workload_attestors.base.WorkloadAttestor``."""

    name = "unix"

    def __init__(
        self,
        config: UnixConfig = UnixConfig(),
        *,
        proc: Path = Path("/proc"),
        look_up_user: Callable[[int], str | None] = user_name,
        look_up_group: Callable[[int], str | None] = group_name,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._proc = proc
        self._users = Names(look_up_user, monotonic)
        self._groups = Names(look_up_group, monotonic)
        self._digests = Digests()

    async def attest(self, process: PeerProcess) -> Sequence[str]:
        """Read who runs the process, and what it runs if that is asked for."""
        folder = f"{self._proc}/{process.pid}"
        ids = _ids(f"{folder}/status")
        if (ids.uid, ids.gid) != (process.uid, process.gid):
            raise Unauthenticated(
                f"the caller's process {process.pid} is no longer of the user and group that opened the connection: "
                "connect again"
            )
        values = [f"uid:{ids.uid}"]
        if user := await self._users.of(ids.uid):
            values.append(f"user:{user}")
        values.append(f"gid:{ids.gid}")
        if group := await self._groups.of(ids.gid):
            values.append(f"group:{group}")
        for gid in ids.groups:
            values.append(f"supplementary_gid:{gid}")
            if group := await self._groups.of(gid):
                values.append(f"supplementary_group:{group}")
        if self._config.discover_workload_path:
            program = f"{folder}/exe"
            values.append(f"path:{_target(program)}")
            if self._config.workload_size_limit >= 0:
                values.append(f"sha256:{await self._digests.of(program, self._config.workload_size_limit)}")
        return values

    def close(self) -> None:
        """Begin to look up and read nothing more."""
        for one in (self._users, self._groups, self._digests):
            one.close()


def _ids(path: str) -> _Ids:
    """Read a process's ``status`` (proc_pid_status(5)): a few lines that the kernel makes up, never a disk's."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  a third of the time of Path's, at every call
            text = file.read(1 << 20)
    except OSError as exc:
        raise Internal(f"UIDs lookup: open {path}: {exc.strerror}") from exc
    try:
        return _Ids(
            uid=_numbers(text, b"Uid")[1],  # real, effective, saved, of the file system
            gid=_numbers(text, b"Gid")[1],
            groups=_numbers(text, b"Groups"),
        )
    except (IndexError, ValueError) as exc:
        raise Internal(f"UIDs lookup: {path} does not say whose the process is") from exc


def _numbers(text: bytes, name: bytes) -> tuple[int, ...]:
    """The numbers in the line of that name; what a process chose itself, its own name, is escaped in one line."""
    begin = text.index(b"\n%b:" % name) + len(name) + 2
    return tuple(map(int, text[begin : text.index(b"\n", begin)].split()))


def _target(link: str) -> str:
    try:
        return str(Path(link).readlink())
    except OSError as exc:
        raise Internal(f"path lookup: readlink {link}: {exc.strerror}") from exc
