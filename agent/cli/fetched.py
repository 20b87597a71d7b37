"""X509-SVIDs as a workload gets them: read, verified, printed, and written to files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import click
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key

from spiffe_core.api.workload_pb2 import X509SVID, X509SVIDResponse
from spiffe_core.bundle import Bundle, X509Authority, load_certificate, split_certificates
from spiffe_core.errors import InvalidBundle, InvalidInput, InvalidX509Svid
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.pem import pem
from spiffe_core.runtime.cli.written import PRIVATE, PUBLIC, write
from spiffe_core.runtime.durations import format_duration
from spiffe_core.runtime.gotext import quote, time_text
from spiffe_core.x509svid import Chain, parse_chain, verify_x509_svid

Ders = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Fetched:
    """One SVID that was verified against the bundle that came with it."""

    id: SpiffeId
    hint: str
    chain: Chain
    ders: Ders
    key: bytes
    bundle: Ders
    federated: Mapping[str, Ders]


def fetched_of(answer: X509SVIDResponse, now: datetime) -> Sequence[Fetched]:
    """The SVIDs of an answer.

    Raises:
        CommandError: if one is malformed or does not verify.
    """
    if not answer.svids:
        raise CommandError("workload response contains no svids")
    federated = {name: _federated(name, der) for name, der in sorted(answer.federated_bundles.items())}
    found = []
    for number, svid in enumerate(answer.svids):
        try:
            found.append(_parsed(svid, federated))
        except (InvalidInput, ValueError, TypeError, UnsupportedAlgorithm) as exc:
            text = f"failed to parse svid entry {number} for spiffe id {quote(svid.spiffe_id)}: {exc}"
            raise CommandError(text) from exc
    for one in found:
        _verify(one, now)
    return found


def fetched_text(svids: Sequence[Fetched], took: timedelta) -> str:
    """What ``api fetch x509`` prints."""
    count = f"{len(svids)} svid{'' if len(svids) == 1 else 's'}"
    lines = [f"Received {count} after {format_duration(took)}"]
    for svid in svids:
        lines += ["", f"SPIFFE ID:\t\t{svid.id}"]
        if svid.hint:
            lines.append(f"Hint:\t\t\t{svid.hint}")
        lines += _validity("SVID", svid.chain[0])
        for number, certificate in enumerate(svid.chain[1:], 1):
            lines += _validity(f"Intermediate #{number}", certificate)
        for number, der in enumerate(svid.bundle, 1):
            lines += _validity(f"CA #{number}", load_certificate(der))
        for name, ders in svid.federated.items():
            for number, der in enumerate(ders, 1):
                lines += _validity(f"[{name}] CA #{number}", load_certificate(der))
    return "\n".join([*lines, "", ""])


def write_fetched(svids: Sequence[Fetched], folder: Path) -> None:
    """Write each SVID, its key and its bundles to files, and say so.

    Raises:
        CommandError: if a file cannot be written.
    """
    for number, svid in enumerate(svids):
        path = folder / f"svid.{number}.pem"
        click.echo(f"Writing SVID #{number} to file {path}.")
        write(path, pem("CERTIFICATE", svid.ders).encode(), PUBLIC)
        path = folder / f"svid.{number}.key"
        click.echo(f"Writing key #{number} to file {path}.")
        write(path, pem("PRIVATE KEY", [svid.key]).encode(), PRIVATE)
        path = folder / f"bundle.{number}.pem"
        click.echo(f"Writing bundle #{number} to file {path}.")
        write(path, pem("CERTIFICATE", svid.bundle).encode(), PUBLIC)
        for other, (name, ders) in enumerate(svid.federated.items()):
            path = folder / f"federated_bundle.{number}.{other}.pem"
            click.echo(f"Writing federated bundle #{other} for trust domain {name} to file {path}.")
            write(path, pem("CERTIFICATE", ders).encode(), PUBLIC)


def _federated(name: str, der: bytes) -> Ders:
    try:
        found = _certificates(der)
    except InvalidBundle as exc:
        raise CommandError(f"failed to parse bundle for federated domain {quote(name)}: {exc}") from exc
    if not found:
        raise CommandError(f"no certificates in bundle for federated domain {quote(name)}")
    return found


def _certificates(der: bytes) -> Ders:
    found = split_certificates(der)
    for one in found:
        load_certificate(one)
    return found


def _parsed(svid: X509SVID, federated: Mapping[str, Ders]) -> Fetched:
    ders = split_certificates(svid.x509_svid)
    if not ders:
        raise InvalidX509Svid("no certificates found")
    chain = parse_chain(ders)
    try:
        key = load_der_private_key(svid.x509_svid_key, password=None)
    except ValueError as exc:
        raise InvalidX509Svid(f"failed to parse private key: {exc}") from exc
    if key.public_key() != chain[0].public_key():
        raise InvalidX509Svid("private key is not the certificate's")
    try:
        bundle = _certificates(svid.bundle)
    except InvalidBundle as exc:
        raise InvalidBundle(f"failed to parse trust bundle: {exc}") from exc
    if not bundle:
        raise InvalidBundle("no certificates in trust bundle")
    return Fetched(SpiffeId.parse(svid.spiffe_id), svid.hint, chain, ders, svid.x509_svid_key, bundle, federated)


def _verify(svid: Fetched, now: datetime) -> None:
    bundle = Bundle(svid.id.trust_domain, tuple(map(X509Authority, svid.bundle)))
    complaint = f"{quote(str(svid.id))} SVID failed verification against bundle"
    try:
        verified = verify_x509_svid(svid.chain, bundle, now)
    except InvalidX509Svid as exc:
        raise CommandError(f"{complaint}: {exc}") from exc
    if verified.id != svid.id:
        raise CommandError(f"{complaint}: it is of {quote(str(verified.id))}")


def _validity(label: str, certificate: x509.Certificate) -> list[str]:
    return [
        f"{label} Valid After:\t{time_text(certificate.not_valid_before_utc)}",
        f"{label} Valid Until:\t{time_text(certificate.not_valid_after_utc)}",
    ]
