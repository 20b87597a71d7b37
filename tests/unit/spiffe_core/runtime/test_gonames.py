"""Go's texts of names in certificates."""

from cryptography.x509 import Name, NameAttribute
from cryptography.x509.oid import NameOID

from spiffe_core.runtime.gonames import name_text


def test_a_name_is_told_as_go_tells_it():
    parts = {
        NameOID.COUNTRY_NAME: "US",
        NameOID.ORGANIZATION_NAME: "a,b",
        NameOID.POSTAL_CODE: "1",
        NameOID.SERIAL_NUMBER: "2",
    }
    name = Name([NameAttribute(oid, value) for oid, value in parts.items()])
    assert name_text(name) == "SERIALNUMBER=2,POSTALCODE=1,O=a\\,b,C=US"
