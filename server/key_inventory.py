"""The keys of a server's authorities, looked at from beside it: by its configuration, in a process of its own.

The database and the key manager are opened as the server opens them, and left as they are: nothing is migrated, no
group begins, no key is made or destroyed, and nothing is written to the journal.  A PIN is tried once.
"""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Final

from hsm_ca.journal import Journal
from keymanagers.base import Key, KeyId, KeyManager, KeyProver
from keymanagers.disk import DiskConfig
from keymanagers.possession import NONCE_BYTES, prove_possession
from server.authority_group import authority_group
from server.config import ServerConfig
from server.datastore.config import SqlConfig
from server.datastore.store import Datastore
from server.key_report import KeyReport, compare
from server.plugins import ServerPlugins
from spiffe_core.errors import KeyNotFound, SpiffeError, Unsupported
from spiffe_core.runtime.clock import SystemClock
from spiffe_core.runtime.metrics import Metrics

_LOOKS: Final = 5
"""How often journal and key manager are looked at again because the journal moved meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInventory:
    """The keys of one authority group."""

    trust_domain: str
    group: str
    key_manager: str
    """What the configuration calls it: ``KeyManager "pkcs11"``."""
    unprotected: str
    """What does not keep the keys of such a key manager from being read; empty if that is for its devices to show."""
    journal: Journal
    keys: KeyManager

    def look(self, only: str = "", *, attempt: bool = False) -> list[KeyReport]:
        """Every key, or the one of that id; with ``attempt`` each signs a nonce, and its devices are put to the test.

        Raises:
            KeyNotFound: if there is none of that id.
            KeyManagerUnavailable: if the key manager does not answer.
            DatastoreUnavailable: if the database does not answer.
        """
        found = [report for report in self._compared() if not only or report.key_id == only]
        if only and not found:
            raise KeyNotFound(f'there is no key "{only}" in authority group "{self.group}"')
        return [self._examined(report, report.key, attempt=attempt) if report.key else report for report in found]

    def _compared(self) -> list[KeyReport]:
        """Journal against key manager, of one moment: a server that rotates moves both."""
        records = self.journal.records()
        for _ in range(_LOOKS):
            shown = self.keys.keys()
            before, records = records, self.journal.records()
            if records == before:
                break
        return compare(records, shown)

    def _examined(self, report: KeyReport, key: Key, *, attempt: bool) -> KeyReport:
        if isinstance(self.keys, KeyProver):
            try:
                report = replace(report, examinations=tuple(self.keys.examine(KeyId(key.id), attempt=attempt)))
            except SpiffeError as exc:
                report = replace(report, troubles=(*report.troubles, str(exc)))
        if attempt:
            try:
                report = replace(report, possession=prove_possession(key, secrets.token_bytes(NONCE_BYTES)))
            except SpiffeError as exc:
                report = replace(report, troubles=(*report.troubles, str(exc)))
        return report


@contextmanager
def open_inventory(config: ServerConfig) -> Iterator[KeyInventory]:
    """The keys of the server that has this configuration.

    Raises:
        Unsupported: if its keys are in the memory of the server.
        FailedPrecondition: if no server has run with this configuration yet.
        SpiffeError: if database or key manager cannot be used.
    """
    plugin = config.key_manager
    if not plugin.cmd and plugin.name == "memory":
        raise Unsupported(
            f"the keys of {plugin.title} are in the memory of the server's process, where no other process finds "
            "them: whoever can read that memory has them, and they are gone when it ends"
        )
    with ExitStack() as undo:
        datastore = Datastore.open_beside(config.datastore.load_data().read(SqlConfig), SystemClock())
        undo.callback(datastore.close)
        plugins = ServerPlugins(config, Metrics(config.telemetry.metric_prefix or "spire_server"))
        undo.callback(plugins.close)
        keys = plugins.key_manager()
        undo.callback(keys.close)
        group = authority_group(plugin, keys, config.data_dir, begin=False)
        yield KeyInventory(
            trust_domain=config.trust_domain.name,
            group=group,
            key_manager=plugin.title,
            unprotected=_unprotected(config, keys),
            journal=datastore.journal(group),
            keys=keys,
        )


def _unprotected(config: ServerConfig, keys: KeyManager) -> str:
    plugin = config.key_manager
    if plugin.cmd:
        return f"unknown: {plugin.title} is a program of its own, and its interface has no way to ask"
    if isinstance(keys, KeyProver):
        return ""
    file = plugin.load_data().read(DiskConfig).file
    return f"none: the keys are in {file}, unencrypted, and in the server's memory: whoever can read either has them"
