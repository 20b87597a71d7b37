"""``entry create|update|show|count|delete``."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import click

from server.cli.client import calls_server
from server.cli.entry_file import read_entries, read_text
from server.cli.entry_filter import filter_flags, filter_of
from server.cli.entry_text import entry_text
from server.cli.selectors import selectors_of
from spiffe_core.api.convert.ids import id_to_pb
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.types.entry_pb2 import Entry
from spiffe_core.ids import SpiffeId, server_id
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.local_client import LocalClient, RpcFailure, code_name
from spiffe_core.runtime.cli.numbers import int32
from spiffe_core.runtime.cli.output import JSON, echo_json, output_flag, plural
from spiffe_core.runtime.gotext import quote

entry = Group("entry")

_ENTRIES: Final = entry_pb2.DESCRIPTOR
_PAGE: Final = 500
_ADDITIONAL: Final = ("disable_x509_svid_prefetch", "jwt_svid_include_jti")


def _entry_flags(function: flags.Function) -> flags.Function:
    """The flags that describe an entry."""
    for declare in (
        flags.text("data", "File with entries in JSON, - for standard input; all other flags are passed over"),
        flags.text("parentID", "SPIFFE ID of the entry's parent"),
        flags.text("spiffeID", "SPIFFE ID that the entry gives"),
        flags.whole("x509SVIDTTL", "Lifetime of X509-SVIDs in seconds, 0 for the server's default"),
        flags.whole("jwtSVIDTTL", "Lifetime of JWT-SVIDs in seconds, 0 for the server's default"),
        flags.repeated("selector", "A type:value selector. Can be used more than once"),
        flags.repeated("federatesWith", "A trust domain whose bundle is handed out too. Can be used more than once"),
        flags.switch("admin", "Let the holder use the server's API"),
        flags.switch("downstream", "The entry is of a downstream server"),
        flags.switch("storeSVID", "SVIDs are stored by an SVIDStore plugin"),
        flags.whole("entryExpiry", "Unix time in seconds at which the entry is deleted"),
        flags.repeated("dns", "A DNS name of X509-SVIDs. Can be used more than once"),
        flags.text("hint", "What tells this entry from others with its SPIFFE ID"),
        flags.switch("disableX509SVIDPrefetch", "Agents fetch no X509-SVID before a workload asks for it"),
        flags.switch("jwtSVIDIncludeJTI", "JWT-SVIDs have a unique jti claim and are not cached"),
    ):
        function = declare(function)
    return function


@entry.add("create", "Creates registration entries")
@flags.text("entryID", "ID of the new entry (optional)")
@flags.switch("node", "The entry applies to nodes, its parent is the server")
@_entry_flags
@output_flag
@calls_server
def create(client: LocalClient, output: str, data: str, **given: Any) -> None:  # noqa: ANN401  flags
    """Create entries."""
    if not data:
        _check(given, parent_needed=not given["node"])
    entries = read_entries(data) if data else [_entry(given)]
    request = entry_pb2.BatchCreateEntryRequest(entries=entries)
    response = client.call(_ENTRIES, "BatchCreateEntry", request, entry_pb2.BatchCreateEntryResponse)
    _report(response, entries, output, "create")


@entry.add("update", "Updates registration entries")
@flags.text("entryID", "ID of the entry")
@_entry_flags
@output_flag
@calls_server
def update(client: LocalClient, output: str, data: str, **given: Any) -> None:  # noqa: ANN401  flags
    """Replace entries by others of the same IDs."""
    if not data:
        if not given["entry_id"]:
            raise CommandError("entry ID is required")
        _check(given, parent_needed=True)
    entries = read_entries(data) if data else [_entry(given)]
    if not data and any(given[name] for name in _ADDITIONAL):
        _keep_additional(client, entries[0])
    request = entry_pb2.BatchUpdateEntryRequest(entries=entries)
    response = client.call(_ENTRIES, "BatchUpdateEntry", request, entry_pb2.BatchUpdateEntryResponse)
    _report(response, entries, output, "update")


@entry.add("show", "Displays configured registration entries")
@flags.text("entryID", "ID of the entry")
@filter_flags
@output_flag
@calls_server
def show(client: LocalClient, output: str, entry_id: str, **given: Any) -> None:  # noqa: ANN401  flags
    """Show entries, sorted."""
    if entry_id and (given["parent_id"] or given["spiffe_id"] or given["selector"]):
        raise CommandError("the -entryID flag can't be combined with others")
    if entry_id:
        try:
            found = [client.call(_ENTRIES, "GetEntry", entry_pb2.GetEntryRequest(id=entry_id), Entry)]
        except RpcFailure as exc:
            raise CommandError(f"error fetching entry ID {entry_id}: {exc}") from exc
    else:
        found = _list(client, entry_pb2.ListEntriesRequest.Filter(**filter_of(given)))
    for one in found:
        one.selectors.sort(key=lambda selector: (selector.type, selector.value))
    found.sort(key=_order)
    if output == JSON:
        echo_json(entry_pb2.ListEntriesResponse(entries=found))
        return
    click.echo(f"Found {plural(len(found), 'entry', 'entries')}")
    click.echo("".join(map(entry_text, found)), nl=False)


@entry.add("count", "Counts registration entries")
@filter_flags
@output_flag
@calls_server
def count(client: LocalClient, output: str, **given: Any) -> None:  # noqa: ANN401  flags
    """Count entries."""
    request = entry_pb2.CountEntriesRequest(filter=entry_pb2.CountEntriesRequest.Filter(**filter_of(given)))
    response = client.call(_ENTRIES, "CountEntries", request, entry_pb2.CountEntriesResponse)
    if output == JSON:
        echo_json(response)
    else:
        click.echo(plural(response.count, "registration entry", "registration entries"))


@entry.add("delete", "Deletes registration entries")
@flags.text("entryID", "ID of the entry")
@flags.text("file", 'File with {"ids": [...]}, - for standard input')
@output_flag
@calls_server
def delete(client: LocalClient, output: str, entry_id: str, file: str) -> None:
    """Delete entries."""
    if not file and not entry_id:
        raise CommandError("an entry ID is required")
    ids = _ids(read_text(file)) if file else [entry_id]
    request = entry_pb2.BatchDeleteEntryRequest(ids=ids)
    response = client.call(_ENTRIES, "BatchDeleteEntry", request, entry_pb2.BatchDeleteEntryResponse)
    if output == JSON:
        echo_json(response)
        return
    succeeded = [result for result in response.results if not result.status.code]
    failed = [result for result in response.results if result.status.code]
    for result in succeeded:
        click.echo(f"Deleted entry with ID: {result.id}")
    if succeeded:
        click.echo("\n\n", nl=False)
    for result in failed:
        reason = f"(code: {code_name(result.status.code)}, msg: {quote(result.status.message)})"
        click.echo(f"Failed to delete entry with ID {result.id} {reason}", err=True)
    if not failed:
        click.echo(f"Deleted {len(succeeded)} entries successfully", nl=False)
        return
    if succeeded:
        summary = f"Deleted {len(succeeded)} entries successfully, but failed to delete {len(failed)} entries"
    else:
        summary = f"Failed to delete {len(failed)} entries"
    click.echo(f"\n\n{summary}", nl=False)
    raise CommandError("failed to delete one or more entries")


def _check(given: dict[str, Any], *, parent_needed: bool) -> None:
    """Raise for what can be seen to be wrong without asking the server."""
    if not given["selector"]:
        raise CommandError("at least one selector is required")
    if given.get("node") and given["federates_with"]:
        raise CommandError("node entries can not federate")
    if parent_needed and not given["parent_id"]:
        raise CommandError(
            "a parent ID is required if the node flag is not set" if "node" in given else "a parent ID is required"
        )
    if not given["spiffe_id"]:
        raise CommandError("a SPIFFE ID is required")
    if given["x509_svid_ttl"] < 0:
        raise CommandError("a positive x509-SVID TTL is required")
    if given["jwt_svid_ttl"] < 0:
        raise CommandError("a positive JWT-SVID TTL is required")


def _entry(given: dict[str, Any]) -> Entry:
    """The entry that the flags describe."""
    spiffe_id = SpiffeId.parse(given["spiffe_id"])
    parent_id = server_id(spiffe_id.trust_domain) if given.get("node") else SpiffeId.parse(given["parent_id"])
    additional = {name: given[name] for name in _ADDITIONAL}
    return Entry(
        id=given["entry_id"],
        parent_id=id_to_pb(parent_id),
        spiffe_id=id_to_pb(spiffe_id),
        downstream=given["downstream"],
        expires_at=given["entry_expiry"],
        dns_names=given["dns"],
        store_svid=given["store_svid"],
        x509_svid_ttl=int32(given["x509_svid_ttl"], "X509 SVID TTL"),
        jwt_svid_ttl=int32(given["jwt_svid_ttl"], "JWT SVID TTL"),
        hint=given["hint"],
        selectors=selectors_of(given["selector"]),
        additional_attributes=Entry.AdditionalAttributes(**additional) if any(additional.values()) else None,
        federates_with=given["federates_with"],
        admin=given["admin"],
    )


def _keep_additional(client: LocalClient, new: Entry) -> None:
    """Keep the additional attributes that the flags do not mention as they are: no mask tells them apart."""
    try:
        old = client.call(_ENTRIES, "GetEntry", entry_pb2.GetEntryRequest(id=new.id), Entry)
    except RpcFailure as exc:
        raise CommandError(f"failed to fetch existing entry to merge additional attributes: {exc}") from exc
    kept = Entry.AdditionalAttributes()
    kept.CopyFrom(old.additional_attributes)
    kept.MergeFrom(new.additional_attributes)
    new.additional_attributes.CopyFrom(kept)


def _report(response: Any, entries: Sequence[Entry], output: str, verb: str) -> None:  # noqa: ANN401  one of two messages
    """Print the entries that were written, then those that were not."""
    for result, sent in zip(response.results, entries, strict=False):
        if result.status.code:
            result.entry.CopyFrom(sent)
    if output == JSON:
        echo_json(response)
        return
    click.echo("".join(entry_text(r.entry) for r in response.results if not r.status.code), nl=False)
    failed = [result for result in response.results if result.status.code]
    for result in failed:
        reason = f"(code: {code_name(result.status.code)}, msg: {quote(result.status.message)})"
        click.echo(f"Failed to {verb} the following entry {reason}:\n{entry_text(result.entry)}", err=True, nl=False)
    if failed:
        raise CommandError(f"failed to {verb} one or more entries")


def _list(client: LocalClient, chosen: entry_pb2.ListEntriesRequest.Filter) -> list[Entry]:
    found: list[Entry] = []
    page = ""
    while True:
        request = entry_pb2.ListEntriesRequest(page_size=_PAGE, page_token=page, filter=chosen)
        try:
            response = client.call(_ENTRIES, "ListEntries", request, entry_pb2.ListEntriesResponse)
        except RpcFailure as exc:
            raise CommandError(f"error fetching entries: {exc}") from exc
        found.extend(response.entries)
        page = response.next_page_token
        if not page:
            return found


def _order(one: Entry) -> tuple[object, ...]:
    """Where an entry stands among others: by its IDs, lifetimes and selectors."""
    selectors = [(selector.type, selector.value) for selector in one.selectors]
    return (
        (one.spiffe_id.trust_domain, one.spiffe_id.path, one.parent_id.trust_domain, one.parent_id.path),
        (one.x509_svid_ttl, one.jwt_svid_ttl),
        (len(selectors), selectors),
    )


def _ids(text: str) -> Iterable[str]:
    """The IDs in ``{"ids": [...]}``."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise CommandError(f"file is no JSON: {exc}") from exc
    ids = document.get("ids", []) if isinstance(document, dict) else None
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise CommandError('file is not of the form {"ids": ["..."]}')
    return ids
