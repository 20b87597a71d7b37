"""TLS as the control plane speaks it: contexts, and what a handshake has shown.

TLS 1.2 or newer, ALPN ``h2``, forward secrecy and AEAD only (the suites of Mozilla's intermediate profile),
no compression and no resumption: a session that could be resumed would let a banned agent back in without
showing its certificate.

A handshake proves one thing, that the peer holds the key of the certificate it presents.  Whose certificate
that is, whether it is still valid and whether a bundle vouches for it is decided by ``spiffe_core.x509svid``
alone, before a byte passes:

- A *client* asks the library to verify nothing (``CERT_NONE``) and verifies the chain itself.
- A *server* must name trust anchors, since Python's ``ssl`` cannot ask for a certificate without verifying
  it.  It names every authority that could vouch for anybody who may connect, lets any of them end a chain
  (``VERIFY_X509_PARTIAL_CHAIN``: an authority in a bundle need not be self-signed), and leaves the time to
  us.  So the library refuses strangers early, and accepts a superset of what we accept, with one exception:
  a leaf whose extended key usage lacks clientAuth.

Private keys reach OpenSSL through a memfd.
"""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from spiffe_core.errors import Unavailable
from spiffe_core.runtime.files import secret_path
from spiffe_core.x509svid import Chain

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

ALPN: Final = "h2"
TLS12_CIPHERS: Final = ":".join(
    f"ECDHE-{kind}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for kind in ("ECDSA", "RSA")
)
"""Mozilla's intermediate profile without its finite-field suites, which no gRPC client needs."""

_NO_CHECK_TIME: Final = 0x200000
"""``X509_V_FLAG_NO_CHECK_TIME`` (x509_vfy.h): the time comes from our clock, not from the library's."""
_DER: Final = 2
"""``_ssl.ENCODING_DER``."""


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """A certificate chain, leaf first, and its key, which is in this process's memory."""

    chain: Chain
    private_key: PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class HardwareIdentity:
    """A certificate chain, leaf first, and its key, which lives in a device: only its ``sign`` works."""

    chain: Chain
    private_key: PrivateKey = field(repr=False)


def server_context(identity: TlsIdentity, anchors: Sequence[bytes]) -> ssl.SSLContext:
    """What a server needs for its next handshakes; a client may present a certificate or none.

    ``anchors`` are CA certificates in DER, at least one of which must begin a client's chain.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.num_tickets = 0
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    if anchors:
        # As PEM: reading DER, Python takes whatever error another user of the same OpenSSL (a PKCS#11 module is one)
        # has left in this thread's queue for its own; reading PEM ends with an error that it knows.
        context.load_verify_locations(cadata="".join(map(ssl.DER_cert_to_PEM_cert, anchors)))
    _present(context, identity)
    return context


def client_context(identity: TlsIdentity | None) -> ssl.SSLContext:
    """What a client needs for one connection.  It verifies nothing: see ``spiffe_core.runtime.reach``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if identity is not None:
        _present(context, identity)
    return context


def presented_chain(ssl_object: Any) -> tuple[bytes, ...]:  # noqa: ANN401  asyncio types it so
    """The certificates that the peer sent, DER, leaf first; empty if it sent none."""
    if hasattr(ssl_object, "get_unverified_chain"):  # Python 3.13
        return tuple(ssl_object.get_unverified_chain())
    chain = ssl_object._sslobj.get_unverified_chain() or ()  # noqa: SLF001  the only way before Python 3.13
    return tuple(certificate.public_bytes(_DER) for certificate in chain if certificate is not None)


class ServerContexts:
    """The server context of the moment, built anew when the identity or an anchor has changed."""

    def __init__(self, *, identity: Callable[[], TlsIdentity | None], anchors: Callable[[], tuple[bytes, ...]]) -> None:
        self._identity = identity
        self._anchors = anchors
        self._made_of: tuple[TlsIdentity, tuple[bytes, ...]] | None = None
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        """The context for the next handshake.

        Raises:
            Unavailable: if the server has no identity yet.
        """
        identity, anchors = self._identity(), self._anchors()
        if identity is None:
            raise Unavailable("the server has no X509-SVID yet")
        if (
            self._context is None
            or self._made_of is None
            or self._made_of[0] is not identity
            or self._made_of[1] != anchors
        ):
            self._context = server_context(identity, anchors)
            self._made_of = (identity, anchors)
        return self._context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    context.set_ciphers(TLS12_CIPHERS)
    context.set_alpn_protocols([ALPN])


def _present(context: ssl.SSLContext, identity: TlsIdentity) -> None:
    key = identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in identity.chain)
    with secret_path(key + chain) as path:
        context.load_cert_chain(path)
