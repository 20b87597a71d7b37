"""Certificate signing requests of agents and of workloads.  The server looks at nothing in them but the key."""

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from keymanagers.base import PrivateKey
from spiffe_core.ids import SpiffeId

_SUBJECT: Final = x509.Name(
    [x509.NameAttribute(NameOID.COUNTRY_NAME, "US"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIRE")]
)


def make_csr(key: PrivateKey, spiffe_id: SpiffeId | None = None) -> bytes:
    """A CSR of this key, DER, with the ID of a workload; an agent learns its own from the server."""
    builder = x509.CertificateSigningRequestBuilder(_SUBJECT)
    if spiffe_id is not None:
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
        builder = builder.add_extension(san, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
