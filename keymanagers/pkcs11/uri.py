"""PKCS #11 URIs (RFC 7512): ``pkcs11:token=steeple;serial=0123?pin-source=file:/etc/steeple/pin``.

Read strictly, by the grammar of §2.3.  What the RFC leaves to the reader is settled so: an attribute of the path
that is not known would match no token, hence it is an error; one of the query is ignored; ``pin-value`` is
refused, since a URI ends up in process lists, logs and version control.
"""

import re
from dataclasses import dataclass, field, fields
from typing import Final, Self
from urllib.parse import quote, unquote_to_bytes

from spiffe_core.errors import InvalidConfig

SCHEME: Final = "pkcs11:"

_RESERVED: Final = ":[]@!$'()*+,="
_PATH_SAFE: Final = _RESERVED + "&"
_QUERY_SAFE: Final = _RESERVED + "/?|"
_UNRESERVED: Final = r"A-Za-z0-9._~\-"
_PATH_VALUE: Final = re.compile(rf"(?:[{_UNRESERVED}{re.escape(_PATH_SAFE)}]|%[0-9A-Fa-f]{{2}})*")
_QUERY_VALUE: Final = re.compile(rf"(?:[{_UNRESERVED}{re.escape(_QUERY_SAFE)}]|%[0-9A-Fa-f]{{2}})*")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_VERSION: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_SLOT_ID: Final = re.compile(r"[0-9]{1,20}")
_TYPES: Final = frozenset({"public", "private", "cert", "secret-key", "data"})
_IN_QUERY: Final = frozenset({"pin-source", "module-name", "module-path"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pkcs11Uri:
    """What a URI says; None where it is silent.  Attributes have the RFC's names, with underscores."""

    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    library_manufacturer: str | None = None
    library_version: str | None = None
    library_description: str | None = None
    object: str | None = None
    type: str | None = None
    id: bytes | None = None
    slot_manufacturer: str | None = None
    slot_description: str | None = None
    slot_id: int | None = None
    pin_source: str | None = field(default=None, repr=False)
    module_name: str | None = None
    module_path: str | None = None

    def __post_init__(self) -> None:
        if self.type is not None and self.type not in _TYPES:
            raise InvalidConfig(f"type {self.type[:40]!r} is none of {', '.join(sorted(_TYPES))}")
        if self.library_version is not None and not _VERSION.fullmatch(self.library_version):
            raise InvalidConfig(f"library-version {self.library_version[:40]!r} is no version such as 3 or 2.40")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URI.

        Raises:
            InvalidConfig: saying what is wrong, without the value of any PIN.
        """
        if text[: len(SCHEME)].lower() != SCHEME:
            raise InvalidConfig("is no PKCS #11 URI: it must begin with pkcs11:")
        path, question, query = text[len(SCHEME) :].partition("?")
        values = _parse_path(path)
        if question:
            values |= _parse_query(query)
        return cls(**values)  # type: ignore[arg-type]  # by the names of the fields, each of its type

    def __str__(self) -> str:
        said = {name: getattr(self, field) for name, field in _FIELDS.items() if getattr(self, field) is not None}
        path = ";".join(f"{name}={_escaped(said[name], _PATH_SAFE)}" for name in said if name not in _IN_QUERY)
        query = "&".join(f"{name}={_escaped(said[name], _QUERY_SAFE)}" for name in said if name in _IN_QUERY)
        return f"{SCHEME}{path}{'?' if query else ''}{query}"


_FIELDS: Final = {one.name.replace("_", "-"): one.name for one in fields(Pkcs11Uri)}
"""Our field for each attribute of the RFC."""


def _parse_path(path: str) -> dict[str, str | bytes | int]:
    values: dict[str, str | bytes | int] = {}
    for attribute in path.split(";") if path else ():
        name, value = _split(attribute, _PATH_VALUE)
        if name not in _FIELDS or name in _IN_QUERY:
            raise InvalidConfig(f"attribute {name[:40]!r} is not known in the path, so no token would match")
        if _FIELDS[name] in values:
            raise InvalidConfig(f"attribute {name!r} is given twice")
        if name == "slot-id":
            if not _SLOT_ID.fullmatch(value):
                raise InvalidConfig("slot-id is no number")
            values["slot_id"] = int(value)
        elif name == "id":
            values["id"] = unquote_to_bytes(value)
        else:
            values[_FIELDS[name]] = _text(name, value)
    return values


def _parse_query(query: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for attribute in query.split("&") if query else ():
        name, value = _split(attribute, _QUERY_VALUE)
        if name.lower() == "pin-value":
            raise InvalidConfig(
                "pin-value is refused: a URI is seen by others, in process lists and logs; put the PIN into a file "
                "and name it with pin-source"
            )
        if name not in _IN_QUERY:
            continue
        if _FIELDS[name] in values:
            raise InvalidConfig(f"attribute {name!r} is given twice")
        values[_FIELDS[name]] = _text(name, value)
    return values


def _split(attribute: str, grammar: re.Pattern[str]) -> tuple[str, str]:
    name, equals, value = attribute.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise InvalidConfig("has something that is no attribute: each is name=value")
    if not grammar.fullmatch(value):
        raise InvalidConfig(f"the value of {name[:40]!r} has a character that must be percent-encoded")
    return name, value


def _text(name: str, value: str) -> str:
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise InvalidConfig(f"the value of {name!r} is no UTF-8") from None


def _escaped(value: str | bytes | int, safe: str) -> str:
    if isinstance(value, bytes):
        return "".join(f"%{byte:02X}" for byte in value)
    return quote(str(value), safe=safe)
