"""``bundle show|list|set|delete|count``."""

from pathlib import Path
from typing import Final

import click

from server.cli.client import calls_server
from spiffe_core.api.convert.bundles import bundle_from_pb, bundle_to_pb
from spiffe_core.api.spire.api.server.bundle.v1 import bundle_pb2
from spiffe_core.api.spire.api.types.bundle_pb2 import Bundle, X509Certificate
from spiffe_core.bundle import split_certificates
from spiffe_core.errors import InvalidBundle
from spiffe_core.ids import TrustDomain
from spiffe_core.jwks import MAX_DOCUMENT_BYTES, dump_spiffe_bundle, load_spiffe_bundle
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.local_client import LocalClient, RpcFailure
from spiffe_core.runtime.cli.output import JSON, echo_json, output_flag, plural
from spiffe_core.runtime.cli.pem import pem, read_certificates
from spiffe_core.runtime.cli.standard_input import read_standard_input
from spiffe_core.runtime.gotext import quote, read_error

bundle = Group("bundle")

PEM: Final = "pem"
SPIFFE: Final = "spiffe"

_BUNDLES: Final = bundle_pb2.DESCRIPTOR
_RULE: Final = "*" * 40
_MODES: Final = {
    "": bundle_pb2.BatchDeleteFederatedBundleRequest.RESTRICT,
    "restrict": bundle_pb2.BatchDeleteFederatedBundleRequest.RESTRICT,
    "delete": bundle_pb2.BatchDeleteFederatedBundleRequest.DELETE,
    "dissociate": bundle_pb2.BatchDeleteFederatedBundleRequest.DISSOCIATE,
}
_FORMAT: Final = f'Form of the bundle, "{PEM}" or "{SPIFFE}"'


@bundle.add("show", "Prints the server's own bundle")
@flags.text("format", _FORMAT, PEM)
@output_flag
@calls_server
def show(client: LocalClient, format: str, output: str) -> None:  # noqa: A002  the flag's name
    """Print the server's own bundle."""
    show_bundle(client, format, output)


def show_bundle(client: LocalClient, form: str, output: str) -> None:
    """Print the server's own bundle in that form."""
    found = client.call(_BUNDLES, "GetBundle", bundle_pb2.GetBundleRequest(), Bundle)
    if output == JSON:
        echo_json(found)
    else:
        click.echo(_text(found, _form(form)), nl=False)


@bundle.add("list", "Lists bundles of federated trust domains")
@flags.text("id", "SPIFFE ID of the trust domain, if only one is asked for")
@flags.text("format", _FORMAT, PEM)
@output_flag
@calls_server
def list_bundles(client: LocalClient, id: str, format: str, output: str) -> None:  # noqa: A002  the flags' names
    """List federated bundles."""
    list_federated(client, id, format, output)


def list_federated(client: LocalClient, trust_domain: str, form: str, output: str) -> None:
    """Print the bundle of one federated trust domain, or with an empty name those of all."""
    if trust_domain:
        request = bundle_pb2.GetFederatedBundleRequest(trust_domain=trust_domain)
        found = client.call(_BUNDLES, "GetFederatedBundle", request, Bundle)
        if output == JSON:
            echo_json(found)
        else:
            click.echo(_text(found, _form(form)), nl=False)
        return
    listed = client.call(
        _BUNDLES,
        "ListFederatedBundles",
        bundle_pb2.ListFederatedBundlesRequest(),
        bundle_pb2.ListFederatedBundlesResponse,
    )
    if output == JSON:
        echo_json(listed)
        return
    texts = [f"{_RULE}\n* {one.trust_domain}\n{_RULE}\n{_text(one, _form(form))}" for one in listed.bundles]
    click.echo("\n".join(texts), nl=False)


@bundle.add("set", "Creates or updates the bundle of a federated trust domain")
@flags.text("id", "SPIFFE ID of the trust domain")
@flags.text("path", "File with the bundle; standard input if it is not given")
@flags.text("format", _FORMAT, PEM)
@output_flag
@calls_server
def set_bundle(client: LocalClient, id: str, path: str, format: str, output: str) -> None:  # noqa: A002  the flags'
    """Set a federated bundle."""
    set_federated(client, id, path, format, output)


def set_federated(client: LocalClient, trust_domain: str, path: str, form: str, output: str) -> None:
    """Set the bundle of a federated trust domain from a file, or with an empty path from standard input."""
    if not trust_domain:
        raise CommandError("id flag is required")
    form = _form(form)
    sent = _bundle(trust_domain, _read(path), form)
    request = bundle_pb2.BatchSetFederatedBundleRequest(bundle=[sent])
    try:
        answer = client.call(_BUNDLES, "BatchSetFederatedBundle", request, bundle_pb2.BatchSetFederatedBundleResponse)
    except RpcFailure as exc:
        raise CommandError(f"failed to set federated bundle: {exc}") from exc
    if output == JSON:
        echo_json(answer)
        return
    for result in answer.results:
        if result.status.code:
            raise CommandError(f"failed to set federated bundle: {result.status.message}")
    click.echo("bundle set.")


@bundle.add("delete", "Deletes the bundle of a federated trust domain")
@flags.text("id", "SPIFFE ID of the trust domain")
@flags.text("mode", "What becomes of entries that federate with it: restrict, delete or dissociate", "restrict")
@output_flag
@calls_server
def delete(client: LocalClient, id: str, mode: str, output: str) -> None:  # noqa: A002  the flag's name
    """Delete a federated bundle."""
    delete_federated(client, id, mode, output)


def delete_federated(client: LocalClient, trust_domain: str, mode: str, output: str) -> None:
    """Delete the bundle of a federated trust domain."""
    if not trust_domain:
        raise CommandError("id is required")
    if mode not in _MODES:
        raise CommandError(f"unsupported mode {quote(mode)}")
    request = bundle_pb2.BatchDeleteFederatedBundleRequest(mode=_MODES[mode], trust_domains=[trust_domain])
    try:
        answer = client.call(
            _BUNDLES, "BatchDeleteFederatedBundle", request, bundle_pb2.BatchDeleteFederatedBundleResponse
        )
    except RpcFailure as exc:
        raise CommandError(f"failed to delete federated bundle: {exc}") from exc
    if output == JSON:
        echo_json(answer)
        return
    for result in answer.results:
        if result.status.code:
            raise CommandError(
                f"failed to delete federated bundle {quote(result.trust_domain)}: {result.status.message}"
            )
    click.echo("bundle deleted.")


@bundle.add("count", "Counts bundles, the server's own included")
@output_flag
@calls_server
def count(client: LocalClient, output: str) -> None:
    """Count bundles."""
    answer = client.call(_BUNDLES, "CountBundles", bundle_pb2.CountBundlesRequest(), bundle_pb2.CountBundlesResponse)
    if output == JSON:
        echo_json(answer)
    else:
        click.echo(plural(answer.count, "bundle", "bundles"))


def _form(form: str) -> str:
    found = form.lower() or PEM
    if found not in {PEM, SPIFFE}:
        raise CommandError(f"invalid format: {quote(found)}")
    return found


def _text(pb: Bundle, form: str) -> str:
    if form == SPIFFE:
        return f"{dump_spiffe_bundle(bundle_from_pb(pb))}\n"
    try:
        return pem("CERTIFICATE", [der for one in pb.x509_authorities for der in split_certificates(one.asn1)])
    except InvalidBundle as exc:
        raise CommandError(f"unable to parse certificates ASN.1 DER data: {exc}") from exc


def _read(path: str) -> bytes:
    try:
        if not path:
            return read_standard_input(MAX_DOCUMENT_BYTES + 1)
        with Path(path).open("rb") as file:
            return file.read(MAX_DOCUMENT_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = read_error(path, exc) if isinstance(exc, OSError) else str(exc)
        raise CommandError(f"unable to load bundle data: {reason}") from exc


def _bundle(trust_domain: str, data: bytes, form: str) -> Bundle:
    """The message for what a file says; the server judges the trust domain of certificates."""
    if form == SPIFFE:
        try:
            return bundle_to_pb(load_spiffe_bundle(TrustDomain.parse(trust_domain), data))
        except InvalidBundle as exc:
            raise CommandError(f"unable to parse to spiffe bundle: {exc}") from exc
    try:
        certificates = read_certificates(data)
    except InvalidBundle as exc:
        raise CommandError(f"unable to parse bundle data: {exc}") from exc
    return Bundle(trust_domain=trust_domain, x509_authorities=[X509Certificate(asn1=der) for der in certificates])
