"""Dialling with a key that lives in an HSM or a TPM.

Python's ``ssl`` wants the key's bytes, so here grpcio does the TLS and asks us for each signature.  grpcio in
turn insists on a DNS name in the server's certificate, which proves nothing to us; so the exact SPIFFE ID is
checked first, on a connection of our own (``spiffe_core.runtime.reach``), and the very *leaf* that passed is
made the channel's only trust anchor.  A server that shows any other certificate later is refused by grpcio.
"""

import warnings
from collections.abc import Callable
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import experimental

from spiffe_core.dns import SERVER_NAME
from spiffe_core.errors import Unavailable
from spiffe_core.runtime.tls import HardwareIdentity, PrivateKey

_HASHES: Final[dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]]] = {
    "SHA256": hashes.SHA256,
    "SHA384": hashes.SHA384,
    "SHA512": hashes.SHA512,
}


def check_server_name(leaf: x509.Certificate) -> None:
    """Raise unless grpcio could accept this server certificate.

    Raises:
        Unavailable: saying why a key in hardware does not reach this server.
    """
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    if SERVER_NAME not in names.get_values_for_type(x509.DNSName):
        raise Unavailable(
            f"the server's certificate has no DNS name {SERVER_NAME}, as only Steeple's servers have: "
            "an agent whose key is in hardware cannot connect to another server; give it a key in memory or on disk"
        )


def channel_credentials(
    identity: HardwareIdentity, leaf: x509.Certificate, failed: Callable[[str], None]
) -> grpc.ChannelCredentials:
    """Credentials that sign with the hardware key and trust no certificate but ``leaf``.

    ``failed`` is told, on a thread of grpcio's, why a signature could not be made.
    """
    with warnings.catch_warnings():
        # grpcio means to fold this function into ssl_channel_credentials; it has no other way to do this.
        warnings.simplefilter("ignore", experimental.ExperimentalApiWarning)
        credentials: grpc.ChannelCredentials = experimental.ssl_channel_credentials_with_custom_signer(
            private_key_sign_fn=_signer(identity.private_key, failed),
            root_certificates=leaf.public_bytes(Encoding.PEM),
            certificate_chain=b"".join(one.public_bytes(Encoding.PEM) for one in identity.chain),
        )
    return credentials


def _signer(key: PrivateKey, failed: Callable[[str], None]) -> Callable[[bytes, Any, Any], bytes]:
    def sign(data: bytes, algorithm: Any, _on_complete: Any) -> bytes:  # noqa: ANN401  grpcio's types are private
        try:
            # grpcio hands over a member of its enumeration or, depending on what was imported first, its number.
            return _sign(key, data, experimental.PrivateKeySignatureAlgorithm(algorithm).name)
        except Exception as exc:
            # The border to grpcio's handshake, which tells its caller nothing of this.
            failed(f"the key in hardware did not sign: {exc}")
            raise

    return sign


def _sign(key: PrivateKey, data: bytes, algorithm: str) -> bytes:
    """Sign with an algorithm by grpcio's name for it, such as ``RSA_PSS_RSAE_SHA256``."""
    digest = _HASHES[algorithm.rpartition("_")[2]]()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(digest))
    if "PSS" in algorithm:
        return key.sign(data, padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH), digest)
    return key.sign(data, padding.PKCS1v15(), digest)
