"""PEM (RFC 7468): certificates and keys as text."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final

from spiffe_core.bundle import load_certificate
from spiffe_core.errors import InvalidBundle
from spiffe_core.runtime.gotext import quote

_BLOCK: Final = re.compile(rb"-----BEGIN ([^\n]*?)-----\s*?\n(.*?)-----END \1-----", re.DOTALL)


def pem(label: str, ders: Sequence[bytes]) -> str:
    """The DER values, each as a block with that label."""
    return "".join(_block(label, der) for der in ders)


def read_certificates(data: bytes) -> tuple[bytes, ...]:
    """The certificates in a PEM text, DER.

    Raises:
        InvalidBundle: if there is none, or something else.
    """
    found = []
    for label, body in _BLOCK.findall(data):
        if label != b"CERTIFICATE":
            got = quote(label.decode(errors="replace")[:40])
            raise InvalidBundle(f'expected block type "CERTIFICATE"; got {got}')
        try:
            der = base64.b64decode(b"".join(body.split()), validate=True)
        except binascii.Error as exc:
            raise InvalidBundle("PEM block is no base64") from exc
        load_certificate(der)
        found.append(der)
    if not found:
        raise InvalidBundle("no PEM blocks")
    return tuple(found)


def _block(label: str, der: bytes) -> str:
    text = base64.b64encode(der).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])
