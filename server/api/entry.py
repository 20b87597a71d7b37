"""The Entry service: the register of entries for administrators, and what an agent is entitled to."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from server.api.filters import set_match
from server.audit import AuditLog
from server.caller import Call
from server.datastore.entries import ALL_FIELDS, Entries, EntryField, EntryOutcome
from server.datastore.entry_filter import EntryFilter
from spiffe_core.api.convert.entries import entry_fields, entry_from_pb, entry_to_pb
from spiffe_core.api.convert.ids import member_id_from_pb, trust_domain_from_pb
from spiffe_core.api.convert.selectors import selectors_from_pb
from spiffe_core.api.convert.status import status_to_pb
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.types import entry_pb2 as types_pb2
from spiffe_core.api.spire.api.types import spiffeid_pb2, status_pb2
from spiffe_core.entries import Entry, EntryId, check_entry
from spiffe_core.errors import AlreadyExists, InvalidInput, NotFound, SpiffeError
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.lanes import Lanes
from spiffe_core.runtime.rpc import Send, code_of

PAGE_SIZE: Final = 500
"""Most entries that one message of SyncAuthorizedEntries carries (SPIRE's)."""

KEPT_ANSWERS: Final = 1000
"""How many agents' answers are kept serialized."""

Filter = entry_pb2.ListEntriesRequest.Filter | entry_pb2.CountEntriesRequest.Filter


class _Answer(NamedTuple):
    """A serialized answer and what it was made of."""

    entries: Sequence[Entry]
    mask: bytes
    message: bytes


class AuthorizedEntries(Protocol):
    """Which entries an agent is entitled to."""

    def authorized_for(self, agent_id: SpiffeId) -> Sequence[Entry]:
        """The entries, the oldest first; the same object as long as none of them has changed."""


class EntryService:
    """``spire.api.server.entry.v1.Entry``."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        entries: Entries,
        authorized: AuthorizedEntries,
        database: Lanes,
        audit: AuditLog,
    ) -> None:
        self._trust_domain = trust_domain
        self._entries = entries
        self._authorized = authorized
        self._database = database
        self._audit = audit
        self._answers: dict[SpiffeId, _Answer] = {}

    # -- for administrators --------------------------------------------------------------------------------

    async def CountEntries(self, request: entry_pb2.CountEntriesRequest, call: Call) -> entry_pb2.CountEntriesResponse:
        """Count the entries that a filter chooses."""
        wanted = self._filter(request.filter, call)
        count = await self._database.run(lambda: self._entries.count(wanted))
        return entry_pb2.CountEntriesResponse(count=count)

    async def ListEntries(self, request: entry_pb2.ListEntriesRequest, call: Call) -> entry_pb2.ListEntriesResponse:
        """List the entries that a filter chooses, in pages."""
        wanted = self._filter(request.filter, call)
        mask = _mask(request)

        def work() -> entry_pb2.ListEntriesResponse:
            page = self._entries.list(wanted, page_size=request.page_size, page_token=request.page_token)
            return entry_pb2.ListEntriesResponse(
                entries=[entry_to_pb(entry, mask) for entry in page.items], next_page_token=page.next_token
            )

        return await self._database.run(work)

    async def GetEntry(self, request: entry_pb2.GetEntryRequest, call: Call) -> types_pb2.Entry:
        """Show one entry."""
        if not request.id:
            raise InvalidInput("missing ID")
        call.facts.update(registration_id=request.id)
        entry = await self._database.run(lambda: self._entries.get(EntryId(request.id)))
        if entry is None:
            raise NotFound("entry not found")
        return entry_to_pb(entry, _mask(request))

    async def BatchCreateEntry(
        self, request: entry_pb2.BatchCreateEntryRequest, call: Call
    ) -> entry_pb2.BatchCreateEntryResponse:
        """Register entries; each has its own outcome."""
        return await self._database.run(lambda: self._create(request, call), units=max(len(request.entries), 1))

    async def BatchUpdateEntry(
        self, request: entry_pb2.BatchUpdateEntryRequest, call: Call
    ) -> entry_pb2.BatchUpdateEntryResponse:
        """Change the fields of entries that the input mask names; each has its own outcome."""
        return await self._database.run(lambda: self._update(request, call), units=max(len(request.entries), 1))

    async def BatchDeleteEntry(
        self, request: entry_pb2.BatchDeleteEntryRequest, call: Call
    ) -> entry_pb2.BatchDeleteEntryResponse:
        """Delete entries; each has its own outcome."""
        return await self._database.run(lambda: self._delete(request, call), units=max(len(request.ids), 1))

    # A batch is worked on in a lane from its first item to its last audit line: it may be large, and what was done
    # is noted even if the caller gives up meanwhile.

    def _create(self, request: entry_pb2.BatchCreateEntryRequest, call: Call) -> entry_pb2.BatchCreateEntryResponse:
        read = [self._read_new(pb) for pb in request.entries]
        made = self._entries.create_batch([entry for entry in read if isinstance(entry, Entry)])
        response, mask = entry_pb2.BatchCreateEntryResponse(), _mask(request)
        for outcome in _in_order(read, made):
            result = response.results.add(status=_status("failed to create entry", outcome.error))
            if outcome.entry is not None:
                result.entry.CopyFrom(entry_to_pb(outcome.entry, mask))
            self._note(call, outcome)
        return response

    def _update(self, request: entry_pb2.BatchUpdateEntryRequest, call: Call) -> entry_pb2.BatchUpdateEntryResponse:
        input_mask = request.input_mask if request.HasField("input_mask") else None
        fields = None if input_mask is None else _fields_of(input_mask)
        read = [self._read(pb, input_mask) for pb in request.entries]
        made = self._entries.update_batch([(entry, fields) for entry in read if isinstance(entry, Entry)])
        response, mask = entry_pb2.BatchUpdateEntryResponse(), _mask(request)
        for outcome in _in_order(read, made):
            result = response.results.add(status=_status("failed to update entry", outcome.error))
            if outcome.entry is not None:
                result.entry.CopyFrom(entry_to_pb(outcome.entry, mask))
            self._note(call, outcome)
        return response

    def _delete(self, request: entry_pb2.BatchDeleteEntryRequest, call: Call) -> entry_pb2.BatchDeleteEntryResponse:
        ids = [EntryId(entry_id) for entry_id in request.ids]
        outcomes = iter(self._entries.delete_batch([entry_id for entry_id in ids if entry_id]))
        response = entry_pb2.BatchDeleteEntryResponse()
        for entry_id in ids:
            outcome = next(outcomes) if entry_id else EntryOutcome(error=InvalidInput("missing entry ID"))
            response.results.add(status=_status("", outcome.error), id=entry_id)
            self._note(call, outcome, entry_id)
        return response

    # -- for agents ----------------------------------------------------------------------------------------

    async def GetAuthorizedEntries(
        self, request: entry_pb2.GetAuthorizedEntriesRequest, call: Call
    ) -> entry_pb2.GetAuthorizedEntriesResponse:
        """All that the calling agent is entitled to, at once."""
        mask = _mask(request)
        entries = self._authorized.authorized_for(call.id)
        return entry_pb2.GetAuthorizedEntriesResponse(entries=[entry_to_pb(entry, mask) for entry in entries])

    async def SyncAuthorizedEntries(
        self, requests: AsyncIterator[entry_pb2.SyncAuthorizedEntriesRequest], call: Call, send: Send
    ) -> None:
        """What the calling agent is entitled to; if it is much, revisions first and then what it asks for."""
        request = await anext(requests, None)
        if request is None:
            return
        if request.ids:
            raise InvalidInput("specifying IDs on initial request is not supported")
        mask = _mask(request)
        if mask is not None and not mask.revision_number:
            raise InvalidInput("revision number cannot be masked")
        entries = self._authorized.authorized_for(call.id)
        if len(entries) <= PAGE_SIZE:
            await send(self._answer(call.id, entries, mask))
            return
        await _send_revisions(entries, send)
        by_id = {entry.id: entry for entry in entries}
        async for asked in requests:
            found = [by_id[EntryId(i)] for i in asked.ids if i in by_id]
            await _send_pages(found, mask, send)

    def _answer(self, agent_id: SpiffeId, entries: Sequence[Entry], mask: types_pb2.EntryMask | None) -> bytes:
        """The one message of a short sync, serialized; agents ask every few seconds, and seldom has it changed."""
        wanted = b"" if mask is None else mask.SerializeToString()
        known = self._answers.pop(agent_id, None)
        if known is None or known.entries is not entries or known.mask != wanted:
            message = entry_pb2.SyncAuthorizedEntriesResponse(entries=[entry_to_pb(entry, mask) for entry in entries])
            known = _Answer(entries, wanted, message.SerializeToString())
        self._answers[agent_id] = known  # the last in order is the last used
        if len(self._answers) > KEPT_ANSWERS:
            self._answers.pop(next(iter(self._answers)))
        return known.message

    # ------------------------------------------------------------------------------------------------------

    def _read_new(self, pb: types_pb2.Entry) -> Entry | SpiffeError:
        entry = self._read(pb)
        if isinstance(entry, Entry):
            try:
                check_entry(entry, self._trust_domain)
            except InvalidInput as exc:
                return exc
        return entry

    def _read(self, pb: types_pb2.Entry, mask: types_pb2.EntryMask | None = None) -> Entry | SpiffeError:
        try:
            return entry_from_pb(pb, self._trust_domain, mask)
        except InvalidInput as exc:
            return type(exc)(f"failed to convert entry: {exc}")

    def _filter(self, pb: Filter, call: Call) -> EntryFilter:
        selectors = federates_with = None
        if pb.HasField("by_selectors"):
            match = pb.by_selectors
            selectors = set_match("selectors", match.selectors, match.match, selectors_from_pb, "empty selector set")
        if pb.HasField("by_federates_with"):
            federation = pb.by_federates_with
            federates_with = set_match(
                "federates with",
                federation.trust_domains,
                federation.match,
                lambda names: map(trust_domain_from_pb, names),
                "empty trust domain set",
            )
        wanted = EntryFilter(
            spiffe_id=self._id("SPIFFE ID", pb.by_spiffe_id) if pb.HasField("by_spiffe_id") else None,
            parent_id=self._id("parent ID", pb.by_parent_id) if pb.HasField("by_parent_id") else None,
            selectors=selectors,
            federates_with=federates_with,
            hint=pb.by_hint.value,
            downstream=pb.by_downstream.value,
        )
        call.facts.update(_facts_of(wanted))
        return wanted

    def _id(self, what: str, pb: spiffeid_pb2.SPIFFEID) -> SpiffeId:
        try:
            return member_id_from_pb(pb, self._trust_domain)
        except InvalidInput as exc:
            raise InvalidInput(f"malformed {what} filter: {exc}") from exc

    def _note(self, call: Call, outcome: EntryOutcome, entry_id: EntryId | None = None) -> None:
        if self._audit.enabled:
            entry = outcome.entry
            facts: dict[str, object] = {"registration_id": entry_id} if entry_id else {}
            if entry is not None:
                facts = {
                    "registration_id": entry.id,
                    "spiffe_id": str(entry.spiffe_id),
                    "parent_id": str(entry.parent_id),
                    "selectors": ",".join(str(selector) for selector in entry.selectors),
                    "revision_number": entry.revision_number,
                }
            self._audit.item(call, facts, outcome.error)


def _in_order(read: Sequence[Entry | SpiffeError], made: Iterable[EntryOutcome]) -> Iterator[EntryOutcome]:
    """The outcome of each item: of those that could be read what was made of them, of the others why not."""
    outcomes = iter(made)
    for entry in read:
        yield next(outcomes) if isinstance(entry, Entry) else EntryOutcome(error=entry)


async def _send_revisions(entries: Sequence[Entry], send: Send) -> None:
    for start in range(0, len(entries), PAGE_SIZE):
        page = entries[start : start + PAGE_SIZE]
        revisions = [
            entry_pb2.EntryRevision(id=e.id, revision_number=e.revision_number, created_at=e.created_at) for e in page
        ]
        more = start + PAGE_SIZE < len(entries)
        await send(entry_pb2.SyncAuthorizedEntriesResponse(entry_revisions=revisions, more=more))


async def _send_pages(entries: Sequence[Entry], mask: types_pb2.EntryMask | None, send: Send) -> None:
    """The entries in full, at least one message, which says that no more follow."""
    for start in range(0, max(len(entries), 1), PAGE_SIZE):
        page = [entry_to_pb(entry, mask) for entry in entries[start : start + PAGE_SIZE]]
        await send(entry_pb2.SyncAuthorizedEntriesResponse(entries=page, more=start + PAGE_SIZE < len(entries)))


def _mask(request: object) -> types_pb2.EntryMask | None:
    """The output mask of a request, or None if it has none."""
    return request.output_mask if request.HasField("output_mask") else None  # type: ignore[attr-defined]


def _fields_of(mask: types_pb2.EntryMask) -> tuple[EntryField, ...]:
    chosen = entry_fields(mask)
    return tuple(name for name in ALL_FIELDS if name in chosen)


def _status(what: str, error: SpiffeError | None) -> status_pb2.Status:
    """The outcome of an item; SPIRE's text for an entry that is there already stands by itself."""
    if error is None:
        return status_to_pb()
    plain = not what or isinstance(error, AlreadyExists) or str(error).startswith("failed to convert")
    return status_to_pb(code_of(error), str(error) if plain else f"{what}: {error}")


def _facts_of(wanted: EntryFilter) -> Mapping[str, str]:
    facts = {"by_spiffe_id": wanted.spiffe_id, "by_parent_id": wanted.parent_id, "by_hint": wanted.hint}
    return {name: str(value) for name, value in facts.items() if value}
