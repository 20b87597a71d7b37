"""Names in certificates in the text that Go gives them: RFC 4514, with more abbreviations."""

from typing import Final

from cryptography.x509 import Name
from cryptography.x509.oid import NameOID

_ATTRIBUTES: Final = {NameOID.SERIAL_NUMBER: "SERIALNUMBER", NameOID.POSTAL_CODE: "POSTALCODE"}


def name_text(name: Name) -> str:
    """A subject or issuer: ``SERIALNUMBER=1,O=SPIFFE,C=US``."""
    return name.rfc4514_string(_ATTRIBUTES)
