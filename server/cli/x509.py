"""``x509 mint``: an X509-SVID whose key is made here, where the command runs."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click
from cryptography import x509 as certificates
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from server.cli.client import calls_server
from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.api.spire.api.server.svid.v1 import svid_pb2
from spiffe_core.api.spire.api.types.bundle_pb2 import Bundle
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.local_client import LocalClient, RpcFailure
from spiffe_core.runtime.cli.numbers import seconds
from spiffe_core.runtime.cli.output import JSON, echo_json, output_flag
from spiffe_core.runtime.cli.pem import pem
from spiffe_core.runtime.cli.written import PRIVATE, PUBLIC, write
from spiffe_core.runtime.gotext import quote, time_rfc3339

x509 = Group("x509")


@x509.add("mint", "Mints an X509-SVID")
@flags.text("spiffeID", "SPIFFE ID of the SVID")
@flags.duration("ttl", "Lifetime of the SVID, 0 for the server's default")
@flags.repeated("dns", "A DNS name of the SVID. Can be used more than once")
@flags.text("write", "Folder to write svid.pem, key.pem and bundle.pem to, instead of standard output")
@output_flag
@calls_server
def mint(client: LocalClient, spiffe_id: str, ttl: timedelta, dns: Sequence[str], write: str, output: str) -> None:
    """Make a key, have it certified, and print both with the bundle."""
    if not spiffe_id:
        raise CommandError("spiffeID must be specified")
    key = ec.generate_private_key(ec.SECP256R1())
    request = svid_pb2.MintX509SVIDRequest(csr=_csr(SpiffeId.parse(spiffe_id), dns, key), ttl=seconds(ttl))
    try:
        svid = client.call(svid_pb2.DESCRIPTOR, "MintX509SVID", request, svid_pb2.MintX509SVIDResponse).svid
    except RpcFailure as exc:
        raise CommandError(f"unable to mint SVID: {exc}") from exc
    if not svid.cert_chain:
        raise CommandError("server response missing SVID chain")
    try:
        bundle = client.call(bundle_pb2.DESCRIPTOR, "GetBundle", bundle_pb2.GetBundleRequest(), Bundle)
    except RpcFailure as exc:
        raise CommandError(f"unable to get bundle: {exc}") from exc
    if not bundle.x509_authorities:
        raise CommandError("server response missing X509 Authorities")
    warn_if_capped("X509-SVID", datetime.fromtimestamp(svid.expires_at, UTC), ttl)
    key_der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    roots = [authority.asn1 for authority in bundle.x509_authorities]
    if write:
        _write(Path(write), svid.cert_chain, key_der, roots)
    elif output == JSON:
        chain = [*map(_base64, svid.cert_chain)]
        echo_json({"x509_svid": chain, "private_key": _base64(key_der), "root_cas": [*map(_base64, roots)]})
    else:
        click.echo(f"X509-SVID:\n{pem('CERTIFICATE', svid.cert_chain)}")
        click.echo(f"Private key:\n{pem('PRIVATE KEY', [key_der])}")
        click.echo(f"Root CAs:\n{pem('CERTIFICATE', roots)}")


def warn_if_capped(what: str, expires_at: datetime, ttl: timedelta) -> None:
    """Say so on standard error if an SVID lives shorter than was asked for."""
    if expires_at - datetime.now(UTC) < ttl:
        when = quote(time_rfc3339(expires_at))
        click.echo(f"{what} lifetime was capped shorter than specified ttl; expires {when}", err=True)


_SVID_FILE: Final = "svid.pem"
_KEY_FILE: Final = "key.pem"
_BUNDLE_FILE: Final = "bundle.pem"


def _write(folder: Path, chain: Sequence[bytes], key: bytes, roots: Sequence[bytes]) -> None:
    write(folder / _SVID_FILE, pem("CERTIFICATE", chain).encode(), PUBLIC, "unable to write SVID: ")
    click.echo(f"X509-SVID written to {folder / _SVID_FILE}")
    write(folder / _KEY_FILE, pem("PRIVATE KEY", [key]).encode(), PRIVATE, "unable to write key: ")
    click.echo(f"Private key written to {folder / _KEY_FILE}")
    write(folder / _BUNDLE_FILE, pem("CERTIFICATE", roots).encode(), PUBLIC, "unable to write bundle: ")
    click.echo(f"Root CAs written to {folder / _BUNDLE_FILE}")


def _csr(spiffe_id: SpiffeId, dns: Sequence[str], key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request with the ID and the DNS names, and an empty subject."""
    try:
        names: list[certificates.GeneralName] = [certificates.DNSName(name) for name in dns]
        names.append(certificates.UniformResourceIdentifier(str(spiffe_id)))
    except ValueError as exc:
        raise CommandError(f"unable to generate CSR: {exc}") from exc
    builder = certificates.CertificateSigningRequestBuilder(certificates.Name([]))
    builder = builder.add_extension(certificates.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
