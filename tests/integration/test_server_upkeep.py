"""What a server does by itself in time: it throws away what has expired, and renews its own SVID."""

from datetime import timedelta
from itertools import pairwise
from typing import Final

import pytest
import sqlalchemy as sa
import structlog
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import SubjectAlternativeName

from server.datastore.tables import CHANGES, JOIN_TOKENS
from spiffe_core.agents import JoinToken
from spiffe_core.bundle import X509Authority
from spiffe_core.dns import SERVER_NAME
from spiffe_core.errors import Unavailable
from spiffe_core.runtime.clock import unix
from spiffe_core.x509svid import verify_x509_svid
from tests.support.certificates import Shape, ca
from tests.support.clock import START
from tests.support.registry import TD, entry, spiffe_id, x509_authority
from tests.support.servers import bring_up, serving

DAY: Final = timedelta(days=1)


@pytest.fixture
async def served():
    async with serving() as served:
        yield served


def rows(served, table):
    with served.datastore._database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def paths(items):
    return [str(item.spiffe_id.path) for item in items]


# -- entries and join tokens -----------------------------------------------------------------------------------


async def test_entries_are_deleted_when_they_have_expired(served):
    now = unix(served.clock.now())
    served.register(entry("/gone", expires_at=now - 1), entry("/now", expires_at=now), entry("/ever"))
    with structlog.testing.capture_logs() as lines:
        await served.parts.upkeep.entries_and_tokens()
    assert paths(served.datastore.entries.list().items) == ["/now", "/ever"]
    [line] = lines
    assert (line["event"], line["spiffe_id"]) == ("Pruned an expired registration", "spiffe://example.org/gone")


async def test_any_number_of_entries_is_deleted_in_one_round(served):
    long_ago = unix(served.clock.now() - DAY)
    served.register(*(entry(f"/w/{number}", expires_at=long_ago) for number in range(1001)), entry("/ever"))
    await served.parts.upkeep.entries_and_tokens()
    assert paths(served.datastore.entries.list().items) == ["/ever"]


async def test_a_deleted_entry_is_served_no_more(served):
    served.register(entry("/soon", "/spire/agent/x509pop/one", expires_at=unix(served.clock.now()) + 60))
    await served.refresh()
    agent_id = spiffe_id("/spire/agent/x509pop/one")
    assert len(served.parts.registry.authorized_for(agent_id)) == 1
    served.clock.advance(61)
    await served.parts.upkeep.entries_and_tokens()
    await served.refresh()
    assert served.parts.registry.authorized_for(agent_id) == ()


async def test_join_tokens_are_deleted_when_they_have_expired(served):
    now = unix(served.clock.now())
    for value, expires_at in (("gone", now - 1), ("now", now)):
        served.datastore.join_tokens.create(JoinToken(value, expires_at))
    await served.parts.upkeep.entries_and_tokens()
    assert rows(served, JOIN_TOKENS) == 1
    assert served.datastore.join_tokens.take("now") is not None


# -- agents ----------------------------------------------------------------------------------------------------


def fleet(served):
    """Agents whose SVIDs ended long ago, lately and not yet; a banned one, and one that cannot attest again."""
    now = served.clock.now()
    long_ago, lately = unix(now - 3 * DAY), unix(now - DAY)
    for name, end, again in [
        ("x509pop/old", long_ago, True),
        ("x509pop/late", lately, True),
        ("x509pop/new", unix(now + DAY), True),
        ("x509pop/banned", long_ago, True),
        ("join_token/tofu", long_ago, False),
    ]:
        served.attested(name, cert_not_after=end, can_reattest=again)
    served.datastore.agents.ban(spiffe_id("/spire/agent/x509pop/banned"))


def known(served):
    return [agent.id.path.rpartition("/")[2] for agent in served.datastore.agents.list().items]


async def test_no_agent_is_deleted_unless_the_operator_says_when(served):
    fleet(served)
    await served.parts.upkeep.agents_and_changes()
    assert known(served) == ["old", "late", "new", "banned", "tofu"]


async def test_agents_are_deleted_when_they_expired_long_ago():
    async with serving('prune_attested_nodes_expired_for = "48h"') as served:
        fleet(served)
        with structlog.testing.capture_logs() as lines:
            await served.parts.upkeep.agents_and_changes()
        assert known(served) == ["late", "new", "banned", "tofu"]
        [line] = lines
        assert (line["event"], line["agent_id"].rpartition("/")[2]) == ("Pruned an expired agent", "old")


async def test_agents_that_cannot_attest_again_are_deleted_where_that_is_configured():
    async with serving('prune_attested_nodes_expired_for = "48h" prune_tofu_nodes = true') as served:
        fleet(served)
        await served.parts.upkeep.agents_and_changes()
        assert known(served) == ["late", "new", "banned"]


async def test_a_round_deletes_no_more_agents_than_configured():
    async with serving('prune_attested_nodes_expired_for = "1h" prune_attested_nodes_batch_size = 2') as served:
        for number in range(5):
            served.attested(f"x509pop/{number}", cert_not_after=1, can_reattest=True)
        for left in (3, 1, 0):
            await served.parts.upkeep.agents_and_changes()
            assert served.datastore.agents.count() == left


# -- the change feed and journals ------------------------------------------------------------------------------


async def test_old_changes_are_forgotten_and_nobody_misses_them():
    async with serving('experimental { prune_events_older_than = "1h" }') as served:
        for number in range(3):
            served.register(entry(f"/w/{number}", "/spire/agent/x509pop/one"))
        before = rows(served, CHANGES)
        served.clock.advance(3601)
        await served.parts.upkeep.agents_and_changes()
        assert before > rows(served, CHANGES) == 1
        await served.refresh()
        assert len(served.parts.registry.authorized_for(spiffe_id("/spire/agent/x509pop/one"))) == 3


async def test_the_journal_of_a_server_that_lives_is_kept(served):
    served.clock.advance((30 * DAY).total_seconds())
    served.parts.authorities.tick(served.clock.now(), served.clock.monotonic())
    with structlog.testing.capture_logs() as lines:
        await served.parts.upkeep.journals()
    assert not lines


async def test_the_journal_of_a_server_that_is_gone_for_good_is_deleted(served):
    served.clock.advance((30 * DAY).total_seconds())
    with structlog.testing.capture_logs() as lines:
        await served.parts.upkeep.journals()
    [line] = lines
    assert line["event"] == "Pruned the journal of an authority group"
    assert line["authority_group"].startswith("memory-")


# -- the server's own SVID -------------------------------------------------------------------------------------


def verified(served):
    """The server's SVID, for which its bundle vouches."""
    return verify_x509_svid(served.parts.svid.current().chain, served.parts.trust.own, served.clock.now())


async def test_the_server_has_an_svid_of_the_servers_id_and_the_reserved_name(served):
    svid = verified(served)
    assert svid.id == spiffe_id("/spire/server")
    names = svid.leaf.extensions.get_extension_for_class(SubjectAlternativeName).value
    assert {name.value for name in names} == {"spiffe://example.org/spire/server", SERVER_NAME}


async def test_the_svid_is_renewed_with_a_new_key_when_half_of_its_life_is_over(served):
    before = served.parts.svid.current()
    served.clock.advance(29 * 60)
    await served.parts.svid.rotate_if_due()
    assert served.parts.svid.current() is before
    served.clock.advance(2 * 60)
    await served.parts.svid.rotate_if_due()
    after = served.parts.svid.current()
    assert after.chain[0].public_key() != before.chain[0].public_key()
    assert after.private_key.public_key() == after.chain[0].public_key()
    assert verified(served).not_after == served.clock.now() + timedelta(hours=1)


async def test_an_svid_from_a_time_when_the_clock_was_ahead_is_replaced_at_once(served):
    served.clock.advance(-365 * DAY.total_seconds())
    await served.parts.tick_authorities()
    await served.parts.svid.rotate_if_due()
    verify_x509_svid(served.parts.svid.current().chain, served.parts.trust.own, served.clock.now())


async def test_an_svid_that_cannot_be_renewed_stays(served):
    before = served.parts.svid.current()
    served.clock.advance((2 * DAY).total_seconds())
    with pytest.raises(Unavailable, match="X509 CA has expired"):
        await served.parts.svid.rotate_if_due()
    assert served.parts.svid.current() is before


async def test_without_an_authority_there_is_no_svid():
    async with serving(ready=False) as served:
        assert served.parts.svid.current() is None
        assert served.parts.svid.full_chain() == ()


def follows(chain):
    """Fail unless each certificate was signed by the next."""
    for one, issuer in pairwise(chain):
        one.verify_directly_issued_by(issuer)


async def test_the_full_chain_ends_with_the_authority_in_the_bundle(served):
    chain = served.parts.svid.full_chain()
    assert len(chain) == 2
    follows(chain)
    assert chain[-1] == served.parts.trust.own.x509_authorities[0].certificate


@pytest.fixture
def upstream(tmp_path):
    """An upstream authority in files: its certificate, and the block that configures it."""
    root = ca(subject="Upstream", shape=Shape(validity=(START - DAY, START + 30 * DAY)))
    key, certificate = tmp_path / "key.pem", tmp_path / "root.pem"
    key.write_bytes(root.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificate.write_bytes(root.certificate.public_bytes(Encoding.PEM))
    data = f'cert_file_path = "{certificate}" key_file_path = "{key}"'
    return root, f'UpstreamAuthority "disk" {{ plugin_data {{ {data} }} }}'


async def test_under_an_upstream_the_svid_leads_to_its_root(upstream):
    root, block = upstream
    async with serving(plugins=block) as served:
        assert len(served.parts.svid.current().chain) == 2
        chain = served.parts.svid.full_chain()
        assert len(chain) == 3
        follows(chain)
        assert chain[-1] == root.certificate
        assert verified(served).id.trust_domain == TD


async def test_of_authorities_of_one_subject_the_full_chain_shows_the_one_that_signed(upstream):
    root, block = upstream
    async with serving(plugins=block, ready=False) as served:
        namesake = ca(subject="Upstream")
        served.datastore.bundles.append(TD, [X509Authority(namesake.der)])
        await bring_up(served.parts)
        authorities = [authority.certificate for authority in served.parts.trust.own.x509_authorities]
        assert authorities == [namesake.certificate, root.certificate]
        assert served.parts.svid.full_chain()[-1] == root.certificate


# -- the bundle ------------------------------------------------------------------------------------------------


async def test_a_published_authority_is_known_at_once_and_durably(served):
    root = x509_authority()
    published = served.parts.trust.publish([root], [])
    assert root in published.x509_authorities
    assert served.parts.trust.own == published
    assert served.datastore.bundles.get(TD) == published


async def test_authorities_leave_the_bundle_when_they_have_expired(served):
    before = served.parts.trust.own
    served.parts.trust.publish([x509_authority(Shape(validity=(START - 2 * DAY, START - DAY)))], [])
    assert not served.parts.trust.prune(unix(START - 2 * DAY))
    assert served.parts.trust.prune(unix(START))
    assert served.parts.trust.own.x509_authorities == before.x509_authorities
    assert served.datastore.bundles.get(TD) == served.parts.trust.own


async def test_only_the_bundles_that_changed_are_read_again(served):
    published = served.parts.trust.publish([x509_authority()], [])
    served.datastore.bundles.append(TD, [x509_authority()])
    served.parts.trust.reload([])
    assert served.parts.trust.own == published
    served.parts.trust.reload([TD])
    assert len(served.parts.trust.own.x509_authorities) == 3
    served.parts.trust.reload()
    assert served.parts.trust.bundle_of(TD) == served.parts.trust.own
