"""How a server process names itself as the holder of a lease, and how it knows of another that it has ended."""

import os
import socket
from pathlib import Path
from uuid import uuid4


def holder_name() -> str:
    """This process's name: machine, boot, process number and when it began, so that it is never used again."""
    return "/".join((socket.gethostname(), _boot_id(), str(os.getpid()), _began(os.getpid()) or uuid4().hex))


def has_ended(holder: str) -> bool:
    """Whether the process of that name surely runs no more; one of another machine may."""
    try:
        host, boot, pid, began = holder.split("/")
        number = int(pid)
    except ValueError:
        return False
    if host != socket.gethostname() or boot != _boot_id():
        return False
    return _began(number) != began


def _boot_id() -> str:
    """Differs after each start of the machine, and between containers' PID namespaces."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}.{Path('/proc/self/ns/pid').readlink().name.strip('pid:[]')}"


def _began(pid: int) -> str:
    """When the process began, in ticks since boot (proc(5), field 22 of stat); empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
