"""DNS names in registration entries and certificates: which ones are accepted.

An ASCII name of letters, digits, hyphens and underscores, with ``*`` as its whole first label if it is a
wildcard.  A-labels (``xn--``) must decode to valid IDNA 2008 labels.  Two names of which one is covered by
the other, a wildcard, are refused together, as SPIRE does.
"""

import re
from collections.abc import Iterable
from typing import Final

import idna

from spiffe_core.errors import InvalidEntry

RESERVED_SUFFIX: Final = "steeple.internal"
"""No entry, CSR or mint request may obtain a name in this domain: the server's own certificate carries one,
by which an agent whose key is in hardware names the server it dials (grpcio needs a DNS name there)."""
SERVER_NAME: Final = f"server.{RESERVED_SUFFIX}"
"""The one reserved name in use."""

_MAX_NAME: Final = 253
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def check_dns_names(names: Iterable[str]) -> None:
    """Raise unless each name is acceptable and none covers another.

    Raises:
        InvalidEntry: naming the name and the rule.
    """
    names = tuple(names)
    for name in names:
        check_dns_name(name)
    lower = {name.lower() for name in names}
    for name in lower:
        _, dot, parent = name.partition(".")
        if dot and not name.startswith("*.") and f"*.{parent}" in lower:
            raise InvalidEntry(f'name "{name}" overlaps with an existing wildcard name in the list')


def check_dns_name(name: str) -> None:
    """Raise unless ``name`` is an acceptable DNS name.

    Raises:
        InvalidEntry: naming the rule.
    """
    bare = name.removeprefix("*.")
    if "*" in bare:
        raise InvalidEntry(f"invalid DNS name {name[:80]!r}: a wildcard must be the whole first label, and only that")
    if not bare or len(bare) > _MAX_NAME:
        raise InvalidEntry(f"invalid DNS name {name[:80]!r}: it is empty or longer than {_MAX_NAME} characters")
    for label in bare.split("."):
        _check_label(label, name)
    if bare.lower() == RESERVED_SUFFIX or bare.lower().endswith(f".{RESERVED_SUFFIX}"):
        raise InvalidEntry(f"invalid DNS name {name!r}: {RESERVED_SUFFIX} is reserved for the server's own certificate")


def _check_label(label: str, name: str) -> None:
    if not _LABEL.fullmatch(label):
        raise InvalidEntry(f"invalid DNS name {name[:80]!r}: label {label[:63]!r} is not allowed")
    if label[2:4] == "--":
        if not label.startswith("xn--"):
            raise InvalidEntry(f"invalid DNS name {name[:80]!r}: label {label!r} has hyphens where only an A-label may")
        try:
            idna.ulabel(label)
        except idna.IDNAError as exc:
            raise InvalidEntry(f"invalid DNS name {name[:80]!r}: label {label!r} is no valid IDNA label") from exc
