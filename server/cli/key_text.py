"""How a key is printed: as lines with labels, and a blank line after them, or as JSON."""

import base64
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, Final

from keymanagers.base import Examination
from server.cli.agent_text import local_time_text
from server.key_report import KeyReport
from spiffe_core.runtime.gotext import quote

_FACT: Final = 16
_ATTRIBUTE: Final = 25
_WAY: Final = 45
"""Widths of the labels."""


def key_text(report: KeyReport, *, attributes: bool) -> str:
    """The lines of one key, each with its end; with ``attributes``, those that were read back."""
    facts = (_line(label, value) for label, value in _facts(report))
    problems = (_line("Problem", problem) for problem in report.problems)
    return "".join([*facts, *_proofs(report, attributes=attributes), *problems, "\n"])


def key_json(report: KeyReport) -> dict[str, Any]:
    """All that is known of one key."""
    record, possession = report.record, report.possession
    return {
        "key_id": report.key_id,
        "key_type": report.key_type.value,
        "public_key": _base64(report.public_key),
        "public_key_sha256": _fingerprint(report),
        "state": report.state,
        "missing": report.missing,
        "shown": report.key is not None,
        "use": record.use.value if record else "",
        "authority_id": record.authority_id if record else "",
        "tainted": record.tainted if record else False,
        "certificate_serial_number": str(report.serial_number) if report.serial_number is not None else "",
        "reserved_at": record.reserved_at if record else 0,
        "issued_at": record.issued_at if record else 0,
        "expires_at": record.not_after if record else 0,
        "tokens": [_examination_json(one) for one in report.examinations],
        "signature": {
            "algorithm": possession.algorithm,
            "message": _base64(possession.message),
            "signature": _base64(possession.signature),
        }
        if possession
        else None,
        "problems": list(report.problems),
    }


def summary(reports: Iterable[KeyReport]) -> str:
    """Which keys are not as they should be; empty if there are none."""
    bad = [quote(report.key_id) for report in reports if report.problems]
    return f"not as it should be: {', '.join(bad)}" if bad else ""


def _facts(report: KeyReport) -> Iterator[tuple[str, str]]:
    record = report.record
    yield "Key ID", report.key_id
    yield "Key type", report.key_type.value
    yield "Public key", f"SHA-256 {_fingerprint(report)}" if report.public_key else "not made yet"
    tainted = ", tainted" if record and record.tainted else ""
    yield "State", f"{report.state}{tainted}{', missing' if report.missing else ''}"
    if record:
        yield "Signs", {"x509": "X509-SVIDs", "jwt": "JWT-SVIDs"}[record.use.value]
        yield "Authority ID", record.authority_id or "none yet"
        if report.serial_number is not None:
            yield "Serial number", str(report.serial_number)
        yield "Made", local_time_text(record.reserved_at)
        if record.not_after:
            yield "Expiration time", local_time_text(record.not_after)


def _proofs(report: KeyReport, *, attributes: bool) -> Iterator[str]:
    if report.possession:
        yield _line("Signature", f"over a nonce, {report.possession.algorithm}, verified with the public key")
    for one in report.examinations:
        yield _line("Token", f"{quote(one.device)}, serial number {one.serial or 'unknown'}")
        if "CKA_LABEL" in one.attributes:
            yield _line("Label", str(one.attributes["CKA_LABEL"]))
        for name, value in one.attributes.items():
            if attributes:
                yield _line(f"  {name}", value if isinstance(value, str) else str(value).lower(), _ATTRIBUTE)
        for tried in one.attempts:
            yield _line(f"  {tried.way}", f"{tried.outcome}: {tried.answer}", _WAY)


def _line(label: str, value: str, width: int = _FACT) -> str:
    """One line; what a device or a file says of itself is made fit for a terminal."""
    shown = value if value.isprintable() else quote(value)
    return f"{label:<{width}} : {shown}".rstrip() + "\n"


def _examination_json(one: Examination) -> dict[str, Any]:
    return {
        "token": one.device,
        "serial_number": one.serial,
        "attributes": dict(one.attributes),
        "attempts": [{"way": a.way, "outcome": a.outcome.value, "answer": a.answer} for a in one.attempts],
        "problems": list(one.problems),
    }


def _fingerprint(report: KeyReport) -> str:
    return sha256(report.public_key).hexdigest() if report.public_key else ""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
