"""The agent's own SVID, at a real server and with a clock in hand: renewal, refusals, attesting again, and its keys."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from agent.agent_svid import IdentityLost
from keymanagers.base import KeyId, KeyType
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.errors import DenialReason, Denied, Unavailable
from tests.support.agent_core import Core, agent_core, join_token
from tests.support.servers import HOUR, pb_id, serving

SERVER = 'agent_ttl = "1h"\nca_ttl = "240h"\nratelimit { attestation = false signing = false }'


@pytest.fixture
async def served():
    async with serving(SERVER) as made:
        yield made


@pytest.fixture
async def core(served, tmp_path):
    token = await join_token(served)
    async with agent_core(served, tmp_path, f'join_token = "{token}"') as made:
        yield made


def serial(core: Core) -> int:
    return core.working.svid.credentials.chain[0].serial_number


def key_file(folder) -> set[str]:
    """The IDs of the keys in the key manager's file."""
    return set(json.loads((folder / "keys.json").read_bytes())["keys"])


async def pass_time(core, time: timedelta) -> None:
    """Let time pass; the server keeps its own SVID valid meanwhile."""
    core.clock.advance(time.total_seconds())
    await core.served.parts.svid.rotate_if_due()


async def make_reattestable(core) -> None:
    """Let agent and server think that this agent may attest again; a join token of its name lets it, once."""
    svid = core.working.svid
    svid._credentials = replace(svid.credentials, reattestable=True)
    await core.state.change(reattestable=True)
    known = core.served.datastore.agents.get(core.id)
    core.served.datastore.agents.create_or_replace(replace(known, can_reattest=True))
    await core.served.refresh()
    await join_token(core.served)


async def test_it_is_renewed_half_way_through_its_life(core):
    first = serial(core)
    await core.working.svid.rotate_if_due()
    assert serial(core) == first
    await pass_time(core, HOUR * 0.56)
    await core.working.svid.rotate_if_due()
    assert serial(core) != first
    await core.working.sync.sync()
    known = core.served.datastore.agents.get(core.id)
    assert known.cert_serial == str(serial(core)), "the server has seen it in use"


async def test_an_agent_lives_on_from_svid_to_svid(core):
    serials = {serial(core)}
    for _ in range(20):
        await pass_time(core, HOUR / 4)
        await core.working.svid.rotate_if_due()
        await core.working.sync.sync()
        serials.add(serial(core))
    assert 6 <= len(serials) <= 12


async def test_the_new_svid_is_stored_and_the_old_key_destroyed(core, tmp_path):
    [first] = core.state.state.key_ids
    assert key_file(tmp_path) == {first}
    await pass_time(core, HOUR * 0.56)
    await core.working.svid.rotate_if_due()
    [second] = core.state.state.key_ids
    assert key_file(tmp_path) == {second}
    assert core.state.state.svid == core.working.svid.credentials.chain


async def test_keys_of_others_in_the_key_manager_are_left_alone(core, tmp_path):
    core.parts.own_keys._keys.generate(KeyId("somebody-elses"), KeyType.EC_P256)
    await pass_time(core, HOUR * 0.56)
    await core.working.svid.rotate_if_due()
    assert "somebody-elses" in key_file(tmp_path)
    assert len(key_file(tmp_path)) == 2


async def test_a_server_that_is_away_costs_one_key_however_often_it_is_asked(core, tmp_path):
    await core.served.parts.endpoints.stop(0.0)
    await pass_time(core, HOUR * 0.56)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await core.working.svid.rotate_if_due()
    assert len(key_file(tmp_path)) == 2
    assert len(core.state.state.key_ids) == 2


async def test_a_key_that_was_made_for_nothing_is_destroyed_at_the_next_start(core, served, tmp_path):
    key, _ = await core.parts.own_keys.make(core.clock.now())
    assert key.id in key_file(tmp_path)
    async with agent_core(served, tmp_path) as again:
        assert key_file(tmp_path) == set(again.state.state.key_ids) == {again.working.svid.credentials.key.id}


async def test_a_key_id_that_came_to_nothing_is_forgotten(core, served, tmp_path):
    await core.state.change(key_ids=(*core.state.state.key_ids, KeyId("never-made")))
    async with agent_core(served, tmp_path) as again:
        assert KeyId("never-made") not in again.state.state.key_ids


async def test_an_svid_that_cannot_be_stored_is_not_used(core, tmp_path):
    first = serial(core)
    await pass_time(core, HOUR * 0.56)
    await core.parts.own_keys.make(core.clock.now())
    core.state._path = tmp_path / "gone" / "agent-data.json"
    with pytest.raises(Unavailable, match="cannot store the agent's state"):
        await core.working.svid.rotate_if_due()
    assert serial(core) == first
    core.state._path = tmp_path / "agent-data.json"
    await core.working.svid.rotate_if_due()
    assert serial(core) != first


async def test_a_banned_agent_forgets_its_svid(core):
    await core.served.local.call(agent_pb2, "BanAgent", id=pb_id(core.id.path))
    with pytest.raises(IdentityLost, match="the server has banned this agent"):
        await core.working.sync.attempt()
    assert core.state.state.svid == ()


async def test_an_evicted_agent_that_may_not_attest_again_forgets_its_svid(core):
    await core.served.local.call(agent_pb2, "DeleteAgent", id=pb_id(core.id.path))
    with pytest.raises(IdentityLost, match="attestation method is not re-attestable"):
        await core.working.sync.attempt()
    assert core.state.state.svid == ()


async def test_an_evicted_agent_that_may_attests_again(core):
    await make_reattestable(core)
    first = serial(core)
    await core.served.local.call(agent_pb2, "DeleteAgent", id=pb_id(core.id.path))
    await core.working.sync.attempt()
    assert serial(core) != first
    assert core.state.state.svid == core.working.svid.credentials.chain, "it is stored at once"
    await core.served.refresh()
    await core.working.sync.sync()


async def test_an_evicted_agent_whose_attestation_is_refused_ends(core):
    await make_reattestable(core)
    await core.working.svid._attestation.attest(None)  # the token is spent
    core.working.svid._credentials = replace(core.working.svid.credentials, reattestable=True)
    await core.served.local.call(agent_pb2, "DeleteAgent", id=pb_id(core.id.path))
    with pytest.raises(IdentityLost, match="join token does not exist or has already been used"):
        await core.working.sync.attempt()
    assert core.state.state.svid == ()


async def test_an_agent_that_may_attest_again_does_so_instead_of_renewing(core):
    await make_reattestable(core)
    first = serial(core)
    await pass_time(core, HOUR * 0.56)
    await core.working.svid.rotate_if_due()
    assert serial(core) != first
    assert not core.working.svid.credentials.reattestable, "as the server said this time"


async def test_an_agent_that_must_attest_again_and_cannot_ends(core):
    known = core.served.datastore.agents.get(core.id)
    core.served.datastore.agents.create_or_replace(replace(known, can_reattest=True))
    await core.served.refresh()
    used = core.working.svid.credentials
    await pass_time(core, HOUR * 0.56)
    with pytest.raises(Denied) as caught:
        await core.working.svid.rotate_if_due()
    assert caught.value.reason is DenialReason.AGENT_MUST_REATTEST
    with pytest.raises(IdentityLost, match="must reattest instead of renew"):
        await core.working.svid.react(caught.value, used)


async def test_a_refusal_of_an_svid_that_was_replaced_is_nobodys_fault(core):
    used = core.working.svid.credentials
    await pass_time(core, HOUR * 0.56)
    await core.working.svid.rotate_if_due()
    await core.working.svid.react(Denied("agent SVID is not active", DenialReason.AGENT_NOT_ACTIVE), used)
    assert core.state.state.svid


async def test_a_refusal_that_is_not_about_the_agent_changes_nothing(core):
    await core.working.svid.react(Denied("not for you"), core.working.svid.credentials)
    await core.working.svid.react(Denied("who knows", DenialReason.UNKNOWN), core.working.svid.credentials)
    assert core.state.state.svid


async def test_past_its_end_an_agent_waits_for_the_server_and_then_ends(core):
    endpoints = core.served.parts.endpoints
    await endpoints.stop(0.0)
    await pass_time(core, 2 * HOUR)
    with pytest.raises(Unavailable):
        await core.working.svid.rotate_if_due()
    with pytest.raises(Unavailable):
        await core.working.svid.rotate_if_due()


async def test_past_its_end_and_the_server_answers(core):
    await pass_time(core, 2 * HOUR)
    with pytest.raises(IdentityLost, match="current SVID has already expired and rotate agent SVID failed"):
        await core.working.svid.rotate_if_due()


async def test_past_its_end_an_agent_that_may_attests_again(core):
    await make_reattestable(core)
    first = serial(core)
    await pass_time(core, 2 * HOUR)
    await core.working.svid.rotate_if_due()
    assert serial(core) != first
    await core.served.refresh()
    await core.working.sync.sync()


async def test_a_stored_svid_that_has_expired_is_not_used(core, served, tmp_path):
    await pass_time(core, 2 * HOUR)
    await join_token(served)
    async with agent_core(served, tmp_path, 'join_token = "token"') as again:
        assert serial(again) != serial(core)


async def test_a_stored_svid_whose_key_is_gone_is_not_used(core, served, tmp_path):
    first = serial(core)
    core.parts.own_keys._keys.retire(core.working.svid.credentials.key.id)
    await join_token(served)
    async with agent_core(served, tmp_path, 'join_token = "token"') as again:
        assert serial(again) != first
        await again.working.sync.sync()


async def test_a_stored_svid_with_a_key_of_spires_name_is_used_and_its_key_replaced_later(core, served, tmp_path):
    # As spire-agent would leave it: the key under its own ID, and no list of keys in the state.
    [ours] = core.state.state.key_ids
    for name in ("keys.json", "agent-data.json"):
        (tmp_path / name).write_text((tmp_path / name).read_text().replace(ours, "agent-svid-A"))
    document = json.loads((tmp_path / "agent-data.json").read_bytes())
    del document["key_ids"]
    (tmp_path / "agent-data.json").write_text(json.dumps(document))
    async with agent_core(served, tmp_path) as again:
        assert serial(again) == serial(core)
        assert key_file(tmp_path) == {"agent-svid-A"}
        await pass_time(again, HOUR * 0.56)
        await again.working.svid.rotate_if_due()
        assert "agent-svid-A" not in key_file(tmp_path)
        assert len(key_file(tmp_path)) == 1
