"""Certificate signing requests: what is read of them, and that their sender holds the key.

Of a CSR the server trusts the public key alone; names in it are a wish.
"""

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa

from spiffe_core.bundle import CURVES, MIN_RSA_BITS, PublicKey
from spiffe_core.errors import InvalidCsr

MAX_CSR_BYTES: Final = 64 * 1024
"""Longest CSR that is read."""


def load_csr(der: bytes) -> x509.CertificateSigningRequest:
    """Parse a DER CSR and check that it is signed by its own key, of a kind that SVIDs may have.

    Raises:
        InvalidCsr: if not.
    """
    return _load(der)[0]


def key_of_csr(der: bytes) -> PublicKey:
    """The key of a CSR that ``load_csr`` accepts.

    Raises:
        InvalidCsr: if it does not.
    """
    return _load(der)[1]


def _load(der: bytes) -> tuple[x509.CertificateSigningRequest, PublicKey]:
    if not der:
        raise InvalidCsr("missing CSR")
    if len(der) > MAX_CSR_BYTES:
        raise InvalidCsr(f"malformed CSR: longer than {MAX_CSR_BYTES} bytes")
    try:
        csr = x509.load_der_x509_csr(der)
        found = csr.public_key()
        genuine = csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise InvalidCsr(f"malformed CSR: {exc}") from exc
    key = check_public_key(found)
    if not genuine:
        raise InvalidCsr("invalid CSR signature: the CSR is not signed by the key that it is for")
    return csr, key


def check_public_key(key: object) -> PublicKey:
    """The key, if an SVID may have it.

    Raises:
        InvalidCsr: if not.
    """
    if not isinstance(key, PublicKey):
        raise InvalidCsr("CSR's key is neither EC nor RSA")
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise InvalidCsr(f"CSR's RSA key has {key.key_size} bits, fewer than {MIN_RSA_BITS}")
    elif key.curve.name not in CURVES:
        raise InvalidCsr(f"CSR's key is on curve {key.curve.name}, not P-256, P-384 or P-521")
    return key


def names_of(csr: x509.CertificateSigningRequest) -> tuple[list[str], list[str]]:
    """The URI and the DNS names that a CSR asks for.

    Raises:
        InvalidCsr: if its extensions are malformed.
    """
    try:
        san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as exc:
        raise InvalidCsr(f"malformed CSR: {exc}") from exc
    return san.get_values_for_type(x509.UniformResourceIdentifier), san.get_values_for_type(x509.DNSName)


def subject_of(csr: x509.CertificateSigningRequest) -> x509.Name | None:
    """The subject that a CSR asks for, None if it is empty.

    Raises:
        InvalidCsr: if it is malformed.
    """
    try:
        return csr.subject if len(csr.subject) else None
    except (ValueError, TypeError) as exc:
        raise InvalidCsr(f"malformed CSR: its subject cannot be read: {exc}") from exc
