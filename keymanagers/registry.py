"""The key managers that are built in, by the name that configuration files give them.

Nothing of a backend is imported before it is asked for, so a host without its libraries can run the others.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from keymanagers.base import KeyManager
from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.block import Block

Factory = Callable[[Block], KeyManager]
"""Opens a key manager by its ``plugin_data``; raises InvalidConfig or KeyManagerUnavailable."""
_SETTING: Final = re.compile(r"[a-z_]+(?::| must be configured)")


def _memory(data: Block) -> KeyManager:
    from keymanagers.memory import MemoryConfig, MemoryKeyManager  # noqa: PLC0415  lazy

    return MemoryKeyManager(data.read(MemoryConfig))


def _disk(data: Block) -> KeyManager:
    from keymanagers.disk import DiskConfig, DiskKeyManager  # noqa: PLC0415  lazy

    return DiskKeyManager(data.read(DiskConfig))


def _pkcs11(data: Block) -> KeyManager:
    from keymanagers.pkcs11.config import Pkcs11Config  # noqa: PLC0415  lazy
    from keymanagers.pkcs11.manager import Pkcs11KeyManager  # noqa: PLC0415  lazy

    return Pkcs11KeyManager(data.read(Pkcs11Config))


BUILT_IN: Final[Mapping[str, Factory]] = {"memory": _memory, "disk": _disk, "pkcs11": _pkcs11}
SHARED: Final = frozenset({"pkcs11"})
"""Those whose keys several servers use: they take an ``authority_group``."""


def open_key_manager(name: str, data: Block, *, authority_group: str) -> KeyManager:
    """Open the key manager of that name; ``authority_group`` counts where its data do not name one.

    Raises:
        InvalidConfig: if there is none of that name, or its data are wrong; the text starts with their path.
        KeyManagerUnavailable: if the place where its keys live does not answer.
    """
    factory = BUILT_IN.get(name)
    if factory is None:
        where, known = data.path or "plugins.KeyManager", ", ".join(sorted(BUILT_IN))
        raise InvalidConfig(f'{where}: there is no key manager "{name}"; there are {known}')
    if name in SHARED and not any(item.key.lower() == "authority_group" for item in data.items):
        data = data.with_values({"authority_group": authority_group})
    try:
        return factory(data)
    except InvalidConfig as exc:
        if not data.path or str(exc).startswith(data.path):
            raise
        # What was found beyond the data themselves starts with the name of a setting, or with none.
        text = data.path_of(str(exc)) if _SETTING.match(str(exc)) else f"{data.path}: {exc}"
        raise InvalidConfig(text) from exc
