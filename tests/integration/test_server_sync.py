"""What an agent is told that it is entitled to: at once, or revisions first and then what it asks for."""

from dataclasses import replace
from typing import Final

import pytest
from grpc import StatusCode
from grpc.aio import EOF

from server.api.entry import PAGE_SIZE, EntryService
from server.audit import AuditLog
from spiffe_core.api.spire.api.server.entry.v1 import entry_pb2
from spiffe_core.api.spire.api.types.entry_pb2 import EntryMask
from spiffe_core.entries import EntryId
from tests.support.registry import entry, selectors, spiffe_id
from tests.support.servers import TD, Refusal, Refused, serving

Request: Final = entry_pb2.SyncAuthorizedEntriesRequest
MANY: Final = 2 * PAGE_SIZE + 1


@pytest.fixture
async def served():
    async with serving() as served:
        yield served


@pytest.fixture
async def agent(served):
    return await served.agent("x509pop/one", selectors=selectors("x509pop:ou:fleet"))


def paths(answer):
    return [one.spiffe_id.path for one in answer.entries]


async def sync(agent, **fields):
    """The one answer of a sync of few entries."""
    [answer] = await agent.exchange(entry_pb2, "SyncAuthorizedEntries", Request(**fields))
    return answer


async def both(agent):
    """What both RPCs say; they agree."""
    fetched = await agent.call(entry_pb2, "GetAuthorizedEntries")
    synced = await sync(agent)
    assert list(fetched.entries) == list(synced.entries)
    return paths(fetched)


async def test_an_agent_is_told_what_it_is_entitled_to_and_nothing_else(served, agent):
    served.register(
        entry("/mine", "/spire/agent/x509pop/one"),
        entry("/below", "/mine"),
        entry("/other", "/spire/agent/x509pop/two"),
        entry("/fleet", "/spire/server", "x509pop:ou:fleet"),
        entry("/everywhere", "/fleet"),
        entry("/elsewhere", "/spire/server", "x509pop:ou:other"),
        entry("/not-here", "/elsewhere"),
    )
    await served.refresh()
    assert await both(agent) == ["/mine", "/below", "/everywhere"]


async def test_an_agent_without_entries_is_told_so(agent):
    assert await both(agent) == []


async def test_what_changes_is_told_from_the_next_refresh_on(served, agent):
    [one, two] = served.register(
        entry("/one", "/spire/agent/x509pop/one"), entry("/two", "/spire/agent/x509pop/one", "unix:uid:2")
    )
    await served.refresh()
    assert await both(agent) == ["/one", "/two"]
    served.datastore.entries.delete_batch([one.id])
    served.datastore.entries.update_batch([(replace(two, hint="new"), ["hint"])])
    assert await both(agent) == ["/one", "/two"]
    await served.refresh()
    [told] = (await sync(agent)).entries
    assert (told.spiffe_id.path, told.hint, told.revision_number) == ("/two", "new", 1)


async def test_new_selectors_of_an_agent_count_from_the_next_refresh_on(served, agent):
    served.register(entry("/fleet", "/spire/server", "x509pop:ou:fleet"), entry("/everywhere", "/fleet"))
    await served.refresh()
    assert await both(agent) == ["/everywhere"]
    again = await served.remote(served.attested("x509pop/one", selectors=selectors("x509pop:ou:none")))
    await served.refresh()
    assert await both(again) == []


async def test_a_mask_chooses_what_is_told(served, agent):
    served.register(entry("/one", "/spire/agent/x509pop/one", hint="h", x509_svid_ttl=9))
    await served.refresh()
    mask = {"spiffe_id": True, "revision_number": True, "hint": True}
    [told] = (await sync(agent, output_mask=mask)).entries
    assert {name.name for name, _ in told.ListFields()} == {"id", "spiffe_id", "hint"}
    [told] = (await agent.call(entry_pb2, "GetAuthorizedEntries", output_mask=mask)).entries
    assert {name.name for name, _ in told.ListFields()} == {"id", "spiffe_id", "hint"}
    [told] = (await sync(agent)).entries
    assert told.x509_svid_ttl == 9


async def test_a_first_request_with_ids_is_refused(agent):
    refusal = await agent.refusal(entry_pb2, "SyncAuthorizedEntries", ids=["x"])
    text = "specifying IDs on initial request is not supported"
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, text)


async def test_a_mask_without_the_revision_number_is_refused(agent):
    refusal = await agent.refusal(entry_pb2, "SyncAuthorizedEntries", output_mask={"spiffe_id": True})
    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, "revision number cannot be masked")


async def test_a_sync_that_asks_for_nothing_ends(agent):
    assert await agent.exchange(entry_pb2, "SyncAuthorizedEntries") == []


def register_many(served, number):
    return served.register(*(entry(f"/w/{n}", "/spire/agent/x509pop/one") for n in range(number)))


async def test_a_page_of_entries_is_told_at_once(served, agent):
    register_many(served, PAGE_SIZE)
    await served.refresh()
    answer = await sync(agent)
    assert (len(answer.entries), len(answer.entry_revisions), answer.more) == (PAGE_SIZE, 0, False)


@pytest.fixture
async def many(served, agent):
    """The entries of an agent that is entitled to more than two pages of them."""
    registered = register_many(served, MANY)
    await served.refresh()
    return registered


class Sync:
    """A sync of many entries, step by step."""

    def __init__(self, agent):
        self.call = agent.open(entry_pb2, "SyncAuthorizedEntries")

    async def begin(self, **fields):
        """The pages of revisions."""
        return await self.ask(**fields)

    async def ask(self, **fields):
        """The pages that answer a request."""
        await self.call.write(Request(**fields))
        pages = [await self.call.read()]
        while pages[-1].more:
            pages.append(await self.call.read())
        return pages

    async def end(self):
        await self.call.done_writing()
        assert await self.call.read() is EOF
        assert await self.call.code() is StatusCode.OK


async def test_of_more_entries_revisions_are_told_first(agent, many):
    stream = Sync(agent)
    pages = await stream.begin()
    assert [len(page.entry_revisions) for page in pages] == [PAGE_SIZE, PAGE_SIZE, 1]
    assert [page.more for page in pages] == [True, True, False]
    assert not any(page.entries for page in pages)
    told = [(one.id, one.revision_number, one.created_at) for page in pages for one in page.entry_revisions]
    assert told == [(one.id, 0, one.created_at) for one in many]
    await stream.end()


async def test_an_agent_is_told_the_entries_that_it_asks_for(agent, many):
    stream = Sync(agent)
    await stream.begin(output_mask=EntryMask(spiffe_id=True, revision_number=True))
    [page] = await stream.ask(ids=[many[7].id, many[3].id])
    assert paths(page) == ["/w/7", "/w/3"]
    assert {name.name for one in page.entries for name, _ in one.ListFields()} == {"id", "spiffe_id"}
    pages = await stream.ask(ids=[one.id for one in many], output_mask=EntryMask(hint=True))
    assert [len(page.entries) for page in pages] == [PAGE_SIZE, PAGE_SIZE, 1]
    assert [path for page in pages for path in paths(page)] == [one.spiffe_id.path for one in many]
    await stream.end()


async def test_entries_that_an_agent_is_not_entitled_to_are_left_out(served, agent, many):
    [foreign] = served.register(entry("/foreign", "/spire/agent/x509pop/two"))
    await served.refresh()
    stream = Sync(agent)
    await stream.begin()
    [page] = await stream.ask(ids=["unknown", foreign.id, many[0].id])
    assert paths(page) == ["/w/0"]
    [page] = await stream.ask(ids=["unknown"])
    assert (paths(page), page.more) == ([], False)
    [page] = await stream.ask()
    assert (paths(page), page.more) == ([], False)
    await stream.end()


async def test_a_sync_of_many_is_of_one_moment(served, agent, many):
    """What changes while it runs comes with the next: revisions and entries never contradict each other."""
    stream = Sync(agent)
    await stream.begin()
    served.datastore.entries.delete_batch([many[0].id])
    served.datastore.entries.update_batch([(replace(many[1], hint="new"), ["hint"])])
    await served.refresh()
    [page] = await stream.ask(ids=[many[0].id, many[1].id])
    assert [(one.spiffe_id.path, one.hint) for one in page.entries] == [("/w/0", ""), ("/w/1", "")]
    await stream.end()


async def test_a_ban_ends_the_next_sync_and_not_one_that_runs(served, agent, many):
    stream = Sync(agent)
    await stream.begin()
    served.datastore.agents.ban(spiffe_id("/spire/agent/x509pop/one"))
    assert paths((await stream.ask(ids=[many[0].id]))[0]) == ["/w/0"]
    await stream.end()
    with pytest.raises(Refused, match="authorization denied"):
        await sync(agent)


# -- answers that are kept -------------------------------------------------------------------------------------


class Entitled:
    """Says what one agent is entitled to, and counts how often its entries were read."""

    def __init__(self):
        self.entries = (Counted(entry("/a", id="1")),)

    def authorized_for(self, agent_id):
        return self.entries


class Counted:
    """An entry that counts how often it is made a message."""

    def __init__(self, one):
        self.one = one
        self.read = 0

    @property
    def id(self):
        self.read += 1
        return EntryId(self.one.id)

    def __getattr__(self, name):
        return getattr(self.one, name)


class Caller:
    id = spiffe_id("/spire/agent/one")


@pytest.fixture
def entitled():
    return Entitled()


@pytest.fixture
def ask(entitled):
    """Sync once, with an entry service of which only that is asked."""
    service = EntryService(
        trust_domain=TD, entries=None, authorized=entitled, database=None, audit=AuditLog(enabled=False)
    )

    async def ask(**fields):
        sent = []

        async def requests():
            yield Request(**fields)

        async def send(answer):
            sent.append(entry_pb2.SyncAuthorizedEntriesResponse.FromString(answer))

        await service.SyncAuthorizedEntries(requests(), Caller(), send)
        return paths(*sent)

    return ask


async def test_an_answer_is_made_once_as_long_as_nothing_changes(entitled, ask):
    [counted] = entitled.entries
    assert [await ask() for _ in range(3)] == [["/a"]] * 3
    assert counted.read == 1


async def test_an_answer_is_made_anew_when_the_entries_are_others(entitled, ask):
    await ask()
    entitled.entries = (*entitled.entries, Counted(entry("/b", id="2")))
    assert await ask() == ["/a", "/b"]


async def test_an_answer_is_made_anew_for_another_mask(entitled, ask):
    [counted] = entitled.entries
    await ask()
    assert await ask(output_mask=EntryMask(revision_number=True)) == [""]
    assert await ask() == ["/a"]
    assert counted.read == 3
