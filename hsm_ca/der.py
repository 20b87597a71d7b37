"""The little DER that assembling a certificate takes (X.690).

Names, extensions and keys arrive encoded by ``cryptography``; what is written here is only the frame around
them, because building a certificate object by object costs twice as much as signing it (docs/adr/0005).
"""

from datetime import datetime
from typing import Final

_UTC_TIME_ENDS: Final = 2050


def tagged(tag: int, content: bytes) -> bytes:
    """One tag-length-value with a definite, shortest length."""
    size = len(content)
    if size < 0x80:  # noqa: PLR2004  short form
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def content(encoded: bytes) -> bytes:
    """What one tag-length-value holds."""
    first = encoded[1]
    return encoded[2:] if first < 0x80 else encoded[2 + (first & 0x7F) :]  # noqa: PLR2004  short form


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE of encoded parts."""
    return tagged(0x30, b"".join(parts))


def integer(value: int) -> bytes:
    """INTEGER that is not negative."""
    return tagged(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octet_string(content: bytes) -> bytes:
    """OCTET STRING."""
    return tagged(0x04, content)


def bit_string(content: bytes) -> bytes:
    """BIT STRING of whole octets."""
    return tagged(0x03, b"\x00" + content)


def explicit(number: int, content: bytes) -> bytes:
    """[number] EXPLICIT."""
    return tagged(0xA0 | number, content)


def time(moment: datetime) -> bytes:
    """Time of RFC 5280 §4.1.2.5: UTCTime to 2049, GeneralizedTime after; whole seconds, UTC."""
    if moment.year < _UTC_TIME_ENDS:
        return tagged(0x17, b"%02d%b" % (moment.year % 100, _after_year(moment)))
    return tagged(0x18, b"%04d%b" % (moment.year, _after_year(moment)))


def _after_year(moment: datetime) -> bytes:
    # ``strftime`` takes five times as long, and a certificate has two times.
    return b"%02d%02d%02d%02d%02dZ" % (moment.month, moment.day, moment.hour, moment.minute, moment.second)
