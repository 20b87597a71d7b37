"""How a go-plugin host and its plugin find each other.

The host starts the program with a magic cookie in the environment, so that nobody takes it for a command by
mistake; SPIRE's cookie has the plugin's type for its name and its value.  The plugin listens on a Unix socket and says
where in one line on standard output, in which fields are divided by ``|``: the version of the handshake, that of
the plugin protocol, network, address, ``grpc``, and a certificate that is empty here, since SPIRE's hosts use none.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from spiffe_core.errors import InvalidInput, Unsupported

PLUGIN_TYPE: Final = "KeyManager"
"""What a plugin of this package is to SPIRE."""
_HANDSHAKE_VERSION: Final = 1
_PROTOCOL_VERSION: Final = "1"
_SOCKET_FOLDER: Final = "PLUGIN_UNIX_SOCKET_DIR"
_PROTOCOL_VERSIONS: Final = "PLUGIN_PROTOCOL_VERSIONS"
_MULTIPLEXING: Final = "PLUGIN_MULTIPLEX_GRPC"
_CLIENT_CERTIFICATE: Final = "PLUGIN_CLIENT_CERT"


def check_host(environment: Mapping[str, str]) -> None:
    """Raise unless a host that we can serve has started this process.

    Raises:
        InvalidInput: if none has.
        Unsupported: if it wants another protocol.
    """
    if environment.get(PLUGIN_TYPE) != PLUGIN_TYPE:
        raise InvalidInput(
            "this program is a plugin and is started by a SPIRE server or agent: name it as plugin_cmd of "
            f'{PLUGIN_TYPE} "pkcs11" in their configuration'
        )
    offered = environment.get(_PROTOCOL_VERSIONS, _PROTOCOL_VERSION).split(",")
    if _PROTOCOL_VERSION not in offered:
        raise Unsupported(f"the host speaks versions {', '.join(offered)} of the plugin protocol, we speak 1")
    if environment.get(_CLIENT_CERTIFICATE):
        raise Unsupported("the host wants TLS on the plugin's socket (AutoMTLS), which SPIRE's hosts do not")


@contextmanager
def socket_path(environment: Mapping[str, str]) -> Iterator[Path]:
    """Where to listen: in a folder that only this user can enter, which is gone after the block."""
    folder = Path(tempfile.mkdtemp(prefix="plugin-", dir=environment.get(_SOCKET_FOLDER) or None))
    try:
        yield folder / "socket"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def announce(path: Path, environment: Mapping[str, str]) -> None:
    """Tell the host; whatever is written to standard output later, by a library say, goes to standard error."""
    line = f"{_HANDSHAKE_VERSION}|{_PROTOCOL_VERSION}|unix|{path}|grpc|"
    if environment.get(_MULTIPLEXING):
        line += "|false"  # a host that asks so reads a seventh field: brokered connections are not multiplexed
    os.write(1, f"{line}\n".encode())
    os.dup2(2, 1)
