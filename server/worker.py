"""One worker of a server of several processes: ``python -m server.worker FD``, started by ``server.workers``.

The descriptor is of memory that holds an ``Inheritance``: the configuration, as the supervisor read it, and the
descriptors of what the workers share.
"""

import os
import pickle
import socket
import sys

import structlog

from server.app import serve
from server.rate_limits import RateLimits
from server.shared import Shared
from server.worker_protocol import Inheritance
from spiffe_core.errors import InvalidConfig, SpiffeError
from spiffe_core.runtime import log as logging
from spiffe_core.runtime.levels import SharedLevelSwitch


def work(inherited: Inheritance) -> int:
    """Serve until told to stop; the process's exit code."""
    config = inherited.config
    level = SharedLevelSwitch(config.log_level, inherited.level)
    logging.configure(
        level=level, format=config.log_format, file=config.log_file, source_location=config.log_source_location
    )
    shared = Shared(
        local=tuple(socket.socket(fileno=descriptor) for descriptor in inherited.local),
        rate_limits=RateLimits(inherited.rate_limits),
        level=level,
        workers=config.workers,
        began=inherited.began,
        alive=inherited.alive,
    )
    try:
        serve(config, shared, ready=lambda: _say(inherited.ready))
    except (SpiffeError, OSError) as exc:
        structlog.get_logger().error("Worker failed", error=str(exc))
        return os.EX_CONFIG if isinstance(exc, InvalidConfig) else 1
    return 0


def _say(ready: int) -> None:
    os.write(ready, b"1")
    os.close(ready)


def main() -> int:
    """Read the inheritance from the descriptor that the only argument names, and work."""
    with os.fdopen(int(sys.argv[1]), "rb") as memory:
        inherited = pickle.load(memory)  # noqa: S301  written by our own supervisor, into memory that only we hold
    assert isinstance(inherited, Inheritance)
    return work(inherited)


if __name__ == "__main__":
    sys.exit(main())
