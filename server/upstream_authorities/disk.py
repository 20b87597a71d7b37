"""UpstreamAuthority "disk": a CA key and certificate in files sign this server's CA certificates.

The files are read again at each mint, so that they can be replaced while the server runs; when the new ones
are unusable the last good ones go on serving.  The upstream's private key is in this process's memory while it
signs: use it to join an existing PKI, and a token for what must not leave hardware.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from hsm_ca.lifetimes import certificate_validity
from hsm_ca.templates import key_identifier, new_serial
from hsm_ca.upstream import MintedCa
from keymanagers.base import PrivateKey
from spiffe_core.bundle import PublicKey, load_certificate
from spiffe_core.errors import InvalidBundle, InvalidConfig, UpstreamUnavailable
from spiffe_core.ids import TrustDomain
from spiffe_core.x509svid import has_issued, subject_key_id

DEFAULT_TTL: Final = timedelta(hours=1)
"""Lifetime of a CA certificate when none is asked for."""

log: Final = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class DiskUpstreamConfig:
    """``plugin_data`` of UpstreamAuthority "disk"."""

    cert_file_path: Path
    """PEM file: the upstream CA certificate and, if it is not a root, the intermediates above it."""
    key_file_path: Path
    """PEM file: its private key, EC or RSA, PKCS#8 or traditional, not encrypted."""
    bundle_file_path: Path | None = None
    """PEM file: the upstream's root certificates; needed unless the CA certificate is self-signed."""


@dataclass(frozen=True, slots=True)
class _Files:
    key: PrivateKey
    certificate: x509.Certificate
    chain: tuple[bytes, ...]
    roots: tuple[bytes, ...]


class DiskUpstream:
    """The upstream authority whose files a configuration names."""

    def __init__(self, config: DiskUpstreamConfig, trust_domain: TrustDomain) -> None:
        """Read the files.

        Raises:
            InvalidConfig: if they are missing, malformed, or do not belong together.
        """
        self._config = config
        self._trust_domain = trust_domain
        self._files = _load(config)

    def mint_x509_ca(self, request: bytes, ttl: timedelta, now: datetime) -> MintedCa:
        """Sign the CA certificate that a CSR asks for.

        Raises:
            UpstreamUnavailable: if the upstream certificate has expired, or the CSR is not for this trust domain.
        """
        try:
            self._files = _load(self._config)
        except InvalidConfig as exc:
            log.warning("Upstream CA files were not reloaded", error=str(exc))
        upstream = self._files
        if now >= upstream.certificate.not_valid_after_utc:
            raise UpstreamUnavailable(f"upstream CA certificate in {self._config.cert_file_path} has expired")
        csr = x509.load_der_x509_csr(request)
        san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if san.get_values_for_type(x509.UniformResourceIdentifier) != [str(self._trust_domain.id)]:
            raise UpstreamUnavailable(f'CSR is not for trust domain "{self._trust_domain}"')
        certificate = _builder(csr, upstream.certificate, ttl or DEFAULT_TTL, now).sign(
            upstream.key, _hash(upstream.key)
        )
        return MintedCa((certificate.public_bytes(Encoding.DER), *upstream.chain), upstream.roots)


def _builder(
    csr: x509.CertificateSigningRequest, issuer: x509.Certificate, ttl: timedelta, now: datetime
) -> x509.CertificateBuilder:
    key = csr.public_key()
    assert isinstance(key, PublicKey)
    not_before, not_after = certificate_validity(now, ttl, issuer.not_valid_after_utc)
    usage = x509.KeyUsage(
        digital_signature=False,
        key_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        data_encipherment=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(csr.subject)
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(new_serial())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(usage, critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(key_identifier(key)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(subject_key_id(issuer), None, None), critical=False)
    )
    for extension in csr.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder


def _load(config: DiskUpstreamConfig) -> _Files:
    key = _load_key(config.key_file_path)
    certificates = _load_certificates(config.cert_file_path, "cert")
    certificate = certificates[0]
    if certificate.public_key() != key.public_key():
        raise InvalidConfig("unable to load upstream CA: certificate and private key do not match")
    if config.bundle_file_path is None:
        if len(certificates) != 1:
            raise InvalidConfig("with no bundle_file_path configured only self-signed CAs are supported")
        roots, chain = certificates, []
    else:
        roots, chain = _load_certificates(config.bundle_file_path, "bundle"), certificates
    if not any(has_issued(root, certificates[-1]) for root in roots):
        raise InvalidConfig(
            "unable to load upstream CA: certificate cannot be validated with the provided bundle or is not self-signed"
        )
    for lower, upper in pairwise(certificates):
        if not has_issued(upper, lower):
            raise InvalidConfig(f"unable to load upstream CA: {config.cert_file_path} is not in order, leaf first")
    return _Files(key, certificate, _ders(chain), _ders(roots))


def _load_key(path: Path) -> PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise InvalidConfig(f"unable to load upstream CA key: {path}: {_reason(exc)}") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InvalidConfig(f"unable to load upstream CA key: {path}: it is neither EC nor RSA")
    return key


def _load_certificates(path: Path, what: str) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise InvalidConfig(f"unable to load upstream CA {what}: {path}: {_reason(exc)}") from exc
    try:
        return [load_certificate(der) for der in _ders(found)]
    except InvalidBundle as exc:
        raise InvalidConfig(f"unable to load upstream CA {what}: {path}: {exc}") from exc


def _reason(exc: Exception) -> str:
    return exc.strerror or "cannot be read" if isinstance(exc, OSError) else "it is no usable PEM"


def _ders(certificates: list[x509.Certificate]) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def _hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
    """The hash that Go takes with a key: SHA-384 for P-384, SHA-512 for P-521, else SHA-256."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if key.key_size == ec.SECP384R1.key_size:
            return hashes.SHA384()
        if key.key_size == ec.SECP521R1.key_size:
            return hashes.SHA512()
    return hashes.SHA256()
