"""Which servers sign with the same keys: the name under which they share journal, lease and keys.

Keys in a token may serve many servers: the key manager names the group, the trust domain if the operator named
none.  Keys in a file belong to the file, beside which its name is kept; keys of an external key manager to the server,
in whose data folder it is kept; keys in memory to one process.
"""

from pathlib import Path
from typing import Final
from uuid import uuid4

from keymanagers.base import KeyManager, SharedKeyManager
from keymanagers.disk import DiskConfig
from spiffe_core.errors import FailedPrecondition, InvalidConfig
from spiffe_core.runtime.files import create_private
from spiffe_core.runtime.plugins import Plugin

MANY_PROCESSES: Final = frozenset({"disk", "pkcs11"})
"""Key managers whose keys several processes of one machine can use."""


def authority_group(plugin: Plugin, keys: KeyManager, data_dir: Path, *, begin: bool = True) -> str:
    """The authority group of a server with this key manager, whose data folder is ``data_dir``.

    ``begin`` says whether a group may begin here: a name that is not there yet is made.

    Raises:
        InvalidConfig: if the name that belongs to a key file cannot be read or kept.
        FailedPrecondition: if there is none and none may be made.
    """
    if isinstance(keys, SharedKeyManager):
        return keys.authority_group
    if plugin.cmd:
        return _kept(data_dir / f"keymanager-{plugin.file_name}.group", "external", begin=begin)
    if plugin.name == "disk":
        file = plugin.load_data().read(DiskConfig).file
        return _kept(file.with_name(f"{file.name}.group"), "disk", begin=begin)
    return f"memory-{uuid4()}"


def _kept(path: Path, kind: str, *, begin: bool) -> str:
    """The name in a file, which is made if it is missing; of several processes that make it, one does."""
    if not path.exists():
        if not begin:
            raise FailedPrecondition(f"there is no {path}: no server has made keys here yet")
        try:
            create_private(path, f"{kind}-{uuid4()}".encode())
        except FileExistsError:
            pass  # another process was first
        except OSError as exc:
            raise InvalidConfig(f"cannot write {path}: {exc.strerror}") from exc
    try:
        name = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidConfig(f"cannot read {path}") from exc
    if not name:
        raise InvalidConfig(f"{path} is empty: remove it if the key file beside it is new, else restore it")
    return name
