"""What is known of one key of the authorities: by the journal, by the key manager, and by trying it.

A key that the journal names and the key manager does not show is *missing*; one that it shows and the journal does not
name is an *orphan*.  Neither is ever mended by us: the first may be in a token that is away, the second may be another
server's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from hsm_ca.journal import AuthorityRecord, State
from hsm_ca.keyring import MUST_EXIST, encoded
from keymanagers.base import Examination, Key, KeyId, KeyType
from keymanagers.possession import Possession
from spiffe_core.bundle import load_certificate

ORPHAN: Final = "orphan"
"""The state of a key that the journal does not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReport:
    """One key."""

    key_id: KeyId
    key_type: KeyType
    record: AuthorityRecord | None = None
    """What the journal says; None for an orphan."""
    key: Key | None = field(default=None, repr=False)
    """What the key manager shows; None if nothing."""
    examinations: tuple[Examination, ...] = ()
    """What the devices say that hold it, where there are devices."""
    possession: Possession | None = None
    """Its signature over a nonce, if it was asked for one."""
    troubles: tuple[str, ...] = ()
    """What could not be found out, and why."""

    @property
    def state(self) -> str:
        """The state of its authority, or ``orphan``."""
        return self.record.state.value if self.record else ORPHAN

    @property
    def missing(self) -> bool:
        """Whether the journal names it and the key manager does not show it."""
        return self.key is None and self.record is not None and self.record.state is not State.RESERVED

    @property
    def public_key(self) -> bytes:
        """PKIX DER of its public half, as the key manager shows it, else as the journal has it; empty if neither."""
        if self.key is not None:
            return encoded(self.key.public)
        return self.record.public_key if self.record else b""

    @property
    def serial_number(self) -> int | None:
        """The serial number of its authority's certificate; None if it has none."""
        return load_certificate(self.record.chain[0]).serial_number if self.record and self.record.chain else None

    @property
    def problems(self) -> tuple[str, ...]:
        """All that is not as it should be."""
        return (*self._of_the_journal(), *self.troubles, *(text for one in self.examinations for text in _told(one)))

    def _of_the_journal(self) -> Iterable[str]:
        if self.record is None:
            yield "the journal does not name it, and it signs nothing: find out who made it; no server destroys it"
        elif self.missing and self.record.state in MUST_EXIST:
            yield f"the key manager does not show it, and its authority, which is {self.state}, cannot do without it"
        elif self.key is not None and self.record.public_key not in {b"", self.public_key}:
            yield "the key manager shows another key in its place: the journal knows another public key"


def compare(records: Iterable[AuthorityRecord], keys: Iterable[Key]) -> list[KeyReport]:
    """Every key that is journalled or shown: in the journal's order, and then the orphans."""
    shown: Mapping[KeyId, Key] = {key.id: key for key in keys}
    reports = [
        KeyReport(key_id=record.key_id, key_type=record.key_type, record=record, key=shown.get(record.key_id))
        for record in records
    ]
    named = {report.key_id for report in reports}
    orphans = [KeyReport(key_id=key.id, key_type=key.type, key=key) for key in shown.values() if key.id not in named]
    return [*reports, *sorted(orphans, key=lambda report: report.key_id)]


def _told(examination: Examination) -> Iterable[str]:
    return (f"{examination.device}: {problem}" for problem in examination.problems)
