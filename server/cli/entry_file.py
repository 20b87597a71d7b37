"""Entries in JSON, as ``entry create -data`` reads them: ``{"entries": [{"spiffe_id": "...", ...}]}``.

The keys are those of SPIRE's own record of an entry, in any case; keys that are not known are passed over, as there.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from spiffe_core.api.convert.ids import id_to_pb
from spiffe_core.api.spire.api.types.entry_pb2 import Entry
from spiffe_core.api.spire.api.types.selector_pb2 import Selector
from spiffe_core.errors import InvalidSpiffeId
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.standard_input import read_standard_input
from spiffe_core.runtime.gotext import read_error

MAX_BYTES: Final = 64 * 1024 * 1024
"""Longest file that is read."""

_PLAIN: Final[Mapping[str, tuple[str, type]]] = {
    "entry_id": ("id", str),
    "x509_svid_ttl": ("x509_svid_ttl", int),
    "jwt_svid_ttl": ("jwt_svid_ttl", int),
    "admin": ("admin", bool),
    "downstream": ("downstream", bool),
    "entryexpiry": ("expires_at", int),
    "revision_number": ("revision_number", int),
    "store_svid": ("store_svid", bool),
    "hint": ("hint", str),
    "created_at": ("created_at", int),
}
"""Key in the file, in lower case: field of the message, and its type."""


def read_text(path: str) -> str:
    """The text of a file, or of standard input for ``-``.

    Raises:
        CommandError: if it cannot be read.
    """
    try:
        if path == "-":
            data = read_standard_input(MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise CommandError(f"{path} is longer than {MAX_BYTES} bytes")
        return data.decode()
    except OSError as exc:
        raise CommandError(read_error(path, exc)) from exc
    except ValueError:
        raise CommandError(f"{path} is no UTF-8 text") from None


def read_entries(path: str) -> list[Entry]:
    """The entries in a file, or in standard input for ``-``.

    Raises:
        CommandError: if it cannot be read, or holds something else.
    """
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as exc:
        raise CommandError(f"{path} is no JSON: {exc}") from exc
    entries = _list(_lower(document, "the file").get("entries"), "entries")
    return [_entry(_lower(entry, f"entries[{number}]"), f"entries[{number}]") for number, entry in enumerate(entries)]


def _entry(members: Mapping[str, Any], where: str) -> Entry:
    plain = {
        field: _typed(members[key], kind, f"{where}.{key}")
        for key, (field, kind) in _PLAIN.items()
        if members.get(key) is not None
    }
    more = _lower(_set(members, "additional_attributes", {}), f"{where}.additional_attributes")
    selectors = [_lower(one, f"{where}.selectors") for one in _list(members.get("selectors"), f"{where}.selectors")]
    federated = _list(members.get("federates_with"), f"{where}.federates_with")
    try:
        entry = Entry(
            **plain,
            spiffe_id=id_to_pb(_id(members, "spiffe_id", "SPIFFE ID")),
            parent_id=id_to_pb(_id(members, "parent_id", "parent ID")),
            selectors=[Selector(type=one.get("type", ""), value=one.get("value", "")) for one in selectors],
            federates_with=[_trust_domain(name) for name in federated],
            dns_names=_list(members.get("dns_names"), f"{where}.dns_names"),
        )
        if more:
            entry.additional_attributes.disable_x509_svid_prefetch = more.get("disable_x509_svid_prefetch", False)
            entry.additional_attributes.jwt_svid_include_jti = more.get("jwt_svid_include_jti", False)
    except (TypeError, ValueError) as exc:
        raise CommandError(f"{where}: {exc}") from exc
    return entry


def _id(members: Mapping[str, Any], key: str, name: str) -> SpiffeId:
    try:
        return SpiffeId.parse(_typed(_set(members, key, ""), str, key))
    except InvalidSpiffeId as exc:
        raise CommandError(f"invalid {name}: {exc}") from exc


def _trust_domain(name: object) -> str:
    try:
        return TrustDomain.parse(_typed(name, str, "federates_with")).name
    except InvalidSpiffeId as exc:
        raise CommandError(f"invalid federated trust domain: {exc}") from exc


def _set(members: Mapping[str, Any], key: str, default: Any) -> Any:  # noqa: ANN401  whatever JSON holds
    """The member of that name, or the default if there is none or it is null."""
    found = members.get(key)
    return default if found is None else found


def _list(value: object, where: str) -> Iterable[Any]:
    """A JSON array; a null is an empty one."""
    found: Iterable[Any] = [] if value is None else _typed(value, list, where)
    return found


def _lower(value: object, where: str) -> dict[str, Any]:
    """A JSON object with its keys in lower case."""
    return {key.lower(): one for key, one in _typed(value, dict, where).items()}


def _typed(value: Any, kind: type, where: str) -> Any:  # noqa: ANN401  whatever JSON holds
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise CommandError(f"{where} is no {_NAMES[kind]}")
    return value


_NAMES: Final = {str: "string", int: "whole number", bool: "boolean", list: "array", dict: "object"}
