"""The authority manager, step by step: what it makes, what it does when something is away, what it never does."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from hsm_ca.acts import moved
from hsm_ca.journal import NEXT, State, Use
from hsm_ca.lease import LENGTH
from hsm_ca.manager import PRUNE_EVERY, RETRY_AFTER
from hsm_ca.policy import CaPolicy
from hsm_ca.succession import Step
from hsm_ca.upstream import MintedCa
from keymanagers.base import KeyId
from spiffe_core.bundle import X509Authority
from spiffe_core.errors import (
    DatastoreUnavailable,
    FailedPrecondition,
    KeyManagerUnavailable,
    Unavailable,
    UpstreamUnavailable,
)
from spiffe_core.x509svid import subject_key_id
from tests.support.authorities import TD, BlinkingKeys, DeviceKey, Group, Killed, killed_at, svid_request
from tests.support.certificates import Shape, ca

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def group():
    return Group()


class FakeUpstream:
    """An upstream authority at hand: it signs whatever it is asked for, in its own way."""

    def __init__(self):
        self.root = ca(subject="upstream", shape=Shape(validity=(START - DAY, START + 1000 * DAY)))
        self.away = False
        self.minted = 0

    def mint_x509_ca(self, request, ttl, now):
        if self.away:
            raise UpstreamUnavailable("upstream is away")
        self.minted += 1
        key = x509.load_der_x509_csr(request).public_key()
        signed = ca(self.root, Shape(key=PublicOnly(key), validity=(now - MINUTE, now + ttl)), subject="ours")
        return MintedCa((signed.der,), (self.root.der,))


class PublicOnly:
    """A key of which the upstream sees the public half."""

    def __init__(self, public):
        self._public = public

    def public_key(self):
        return self._public


START = Group().now


# -- the first authorities


def test_before_the_first_tick_nothing_can_be_signed(group):
    server = group.server()
    server.start()
    with pytest.raises(Unavailable, match="X509 CA is not available for signing"):
        _ = server.x509
    with pytest.raises(Unavailable, match="JWT key is not available for signing"):
        _ = server.jwt


def test_the_first_tick_makes_an_authority_of_each_use_that_signs(group):
    server = group.started()
    group.sign(server)
    group.check()
    assert [record.state for record in server.records] == [State.ACTIVE, State.ACTIVE]
    assert len(group.bundle.x509_authorities) == len(group.bundle.jwt_authorities) == 1


def test_each_step_is_told_when_it_is_done_and_when_it_is_written(group):
    told = []
    server = group.server(progress=lambda step, record: told.append((record.use, step, record.state)))
    server.start()
    group.tick(server)
    x509 = [(step, state) for use, step, state in told if use is Use.X509]
    assert x509 == [
        (Step.RESERVE, State.RESERVED),
        (Step.GENERATE, State.RESERVED),
        (Step.GENERATE, State.CREATED),
        (Step.CERTIFY, State.CREATED),
        (Step.CERTIFY, State.PREPARED),
        (Step.PUBLISH, State.PREPARED),
        (Step.PUBLISH, State.PREPARED),
        (Step.ACTIVATE, State.ACTIVE),
    ]


@pytest.mark.conformance("F-2", "J-22")
def test_an_authority_is_in_the_bundle_before_the_journal_lets_it_sign(group):
    seen = []

    def look(step, record):
        if step is Step.ACTIVATE:
            in_bundle = (
                [authority.der for authority in group.bundle.x509_authorities] == list(record.roots)
                if record.use is Use.X509
                else group.bundle.jwt_authority(record.authority_id) is not None
            )
            seen.append((record.use, in_bundle))

    server = group.server(progress=look)
    server.start()
    group.tick(server)
    assert seen == [(Use.X509, True), (Use.JWT, True)]


def test_key_ids_name_use_and_time_and_are_never_used_twice(group):
    group.started()
    assert group.active().key_id.startswith("x509-20300101T000000-")
    assert group.active(Use.JWT).key_id.startswith("jwt-20300101T000000-")


def test_a_jwt_key_has_its_own_type_if_one_is_configured():
    group = Group(CaPolicy(trust_domain=TD, jwt_key_type="rsa-2048"))
    server = group.server()
    assert server._acts.reserve(Use.JWT, group.now).key_type == "rsa-2048"
    assert server._acts.reserve(Use.X509, group.now).key_type == "ec-p256"


def test_with_jwt_disabled_no_jwt_key_is_made():
    group = Group(CaPolicy(trust_domain=TD, jwt_svids_disabled=True))
    server = group.started()
    group.sign(server)
    assert not group.of(Use.JWT)
    with pytest.raises(Unavailable):
        _ = server.jwt


def test_log_lines_name_authority_key_and_expiration(group):
    with capture_logs() as lines:
        group.started()
    (line,) = [line for line in lines if line["event"] == "X509 CA activated"]
    assert line["local_authority_id"] == group.active().authority_id
    assert line["key_id"] == group.active().key_id
    assert line["expiration"] == "2030-01-02T00:00:00+00:00"


# -- below an upstream


def test_below_an_upstream_its_root_is_published_and_our_certificate_is_sent_along():
    group = Group(upstream=FakeUpstream())
    server = group.started()
    group.sign(server)
    assert [authority.der for authority in group.bundle.x509_authorities] == [group.upstream.root.der]
    assert server.x509.chain == group.active().chain
    assert server.x509.upstream_authority_id == subject_key_id(group.upstream.root.certificate).hex()


def test_an_authority_is_named_as_its_upstream_identifies_it():
    class OtherIdentifiers(FakeUpstream):
        def mint_x509_ca(self, request, ttl, now):
            key = PublicOnly(x509.load_der_x509_csr(request).public_key())
            mark = x509.SubjectKeyIdentifier(b"as upstream likes it")
            shape = Shape(key=key, validity=(now - MINUTE, now + ttl))
            return MintedCa((ca(self.root, shape, subject="ours", extensions=[(mark, False)]).der,), (self.root.der,))

    group = Group(upstream=OtherIdentifiers())
    server = group.started()
    group.sign(server)
    assert server.x509.authority_id == group.active().authority_id == b"as upstream likes it".hex()


def test_an_upstream_that_is_away_holds_up_x509_only_and_the_key_waits_for_it():
    group = Group(upstream=FakeUpstream())
    group.upstream.away = True
    server = group.server()
    server.start()
    with pytest.raises(UpstreamUnavailable, match="upstream is away"):
        group.tick(server)
    assert server.jwt
    (created,) = group.of(Use.X509)
    assert created.state is State.CREATED
    group.upstream.away = False
    group.tick(server, RETRY_AFTER)
    assert group.active().key_id == created.key_id


class SmallDevice(BlinkingKeys):
    """A device that breaks when it is asked for keys without end."""

    def generate(self, key_id, key_type):
        assert len(self.made) < 20
        return super().generate(key_id, key_type)


class EndingUpstream(FakeUpstream):
    """An upstream whose own certificate ends at that time."""

    def __init__(self, end):
        super().__init__()
        self.end = end

    def mint_x509_ca(self, request, ttl, now):
        return super().mint_x509_ca(request, min(ttl, self.end - now), now)


def test_an_upstream_in_its_last_second_is_given_no_new_key_again_and_again():
    group = Group(upstream=EndingUpstream(START + MINUTE), keys=SmallDevice())
    server = group.server()
    server.start()
    group.clock.advance(59.9)
    with pytest.raises(UpstreamUnavailable, match="ends at 2030-01-01T00:01:00Z, too soon to sign anything"):
        group.tick(server)
    with pytest.raises(UpstreamUnavailable, match="X509 CA minted by upstream authority is invalid"):
        group.tick(server, RETRY_AFTER)
    assert [record.state for record in group.of(Use.X509)] == [State.CREATED]
    assert len(group.keys.made) == 2
    group.upstream.end = START + DAY
    group.tick(server, RETRY_AFTER)
    assert len(group.keys.made) == 2
    group.sign(server)


def test_an_authority_that_would_be_over_at_once_is_no_reason_for_one_key_after_another():
    group = Group(CaPolicy(trust_domain=TD, ca_ttl=timedelta(milliseconds=1)), keys=SmallDevice())
    server = group.server()
    server.start()
    group.clock.advance(0.5)
    with pytest.raises(FailedPrecondition, match="ca_ttl is too short"):
        group.tick(server)
    assert len(group.keys.made) == 2


# -- what is away comes back


def test_a_step_that_failed_is_tried_again_after_a_pause(group):
    server = group.server()
    server.start()
    group.keys.away = True
    with pytest.raises(KeyManagerUnavailable):
        group.tick(server)
    group.keys.away = False
    group.tick(server, RETRY_AFTER / 2)
    assert not group.of(Use.X509, State.ACTIVE)
    group.tick(server, RETRY_AFTER)
    group.sign(server)
    assert len(group.keys.made) == 2


def test_while_the_device_is_away_signing_is_unavailable_and_nothing_is_prepared(group):
    server = group.started()
    before = dict(group.table.rows)
    group.keys.away = True
    for _ in range(40):  # past the time at which a successor would be prepared
        with suppress(KeyManagerUnavailable):
            group.tick(server, 2000)
    with pytest.raises(KeyManagerUnavailable):
        server.x509.issue(svid_request(), START)
    added = [record for key_id, record in group.table.rows.items() if key_id not in before]
    assert [record.state for record in added] == [State.RESERVED, State.RESERVED]
    assert len(group.keys.made) == 2
    group.keys.away = False
    group.tick(server, RETRY_AFTER)
    group.sign(server)


@pytest.mark.parametrize("use", list(Use))
def test_a_key_that_does_not_show_leads_to_no_new_key_and_is_used_again_when_it_does(group, use):
    server = group.started()
    lost = group.active(use)
    group.keys.hidden.add(lost.key_id)
    refusals = set()
    for _ in range(40):  # past the time at which a successor would be prepared
        try:
            group.tick(server, 1800)
        except KeyManagerUnavailable as exc:
            refusals.add(str(exc))
    assert refusals == {f'the key manager does not show key "{lost.key_id}"'}
    assert len(group.keys.made) == 2
    group.keys.hidden.clear()
    group.tick(server, RETRY_AFTER)
    group.sign(server)
    group.check()


def test_another_key_under_the_same_name_signs_nothing(group):
    group.started()
    record = group.active()
    group.keys.made[record.key_id] = DeviceKey(record.key_id, group.keys)
    other = group.server("two")
    other.start()
    with pytest.raises(KeyManagerUnavailable, match=r"shows another key under .*"):
        group.tick(other)
    assert other.jwt
    with pytest.raises(Unavailable):
        _ = other.x509


def test_a_database_that_is_away_leaves_signing_as_it_is(group):
    server = group.started()
    group.table.away = True
    with pytest.raises(DatastoreUnavailable):
        group.tick(server, 5)
    group.sign(server)
    group.table.away = False
    group.tick(server, 5)


def test_a_server_that_starts_on_a_read_only_database_signs_with_what_the_journal_names(group):
    group.started()
    group.ended.add("one")
    group.table.read_only = True
    server = group.server("two")
    server.start()
    with pytest.raises(DatastoreUnavailable, match="read-only"):
        group.tick(server)
    group.sign(server)
    group.table.read_only = False
    group.tick(server, 1)
    assert server._lease.epoch == 2


def test_half_a_key_under_a_reserved_id_is_cleared_away_and_another_id_is_taken(group):
    server = group.server(progress=killed_at("reserve/reserved"))
    server.start()
    with pytest.raises(Killed):
        group.tick(server)
    (reserved,) = group.of(Use.X509)
    group.keys.halves.add(reserved.key_id)
    group.ended.add("one")
    server = group.server("two")
    server.start()
    with pytest.raises(KeyManagerUnavailable, match="was given up; a new key gets another"):
        group.tick(server)
    group.tick(server, RETRY_AFTER)
    group.sign(server)
    assert group.active().key_id != reserved.key_id
    assert reserved.key_id not in group.table.rows
    assert not group.keys.halves


# -- at the start


def test_a_journalled_key_that_is_missing_stops_the_start_and_says_what_to_do(group):
    group.started()
    group.keys.hidden.add(group.active().key_id)
    with pytest.raises(FailedPrecondition) as caught:
        group.server("two").start()
    text = str(caught.value)
    assert f'does not show "{group.active().key_id}" (x509 active)' in text
    assert "make sure that it is the right token" in text
    assert "give this one an authority_group of its own" in text
    assert "-goOnWithoutLostKeys" in text


def test_an_old_key_may_be_missing_at_the_start(group):
    server = group.started()
    for _ in range(30):
        group.tick(server, 3600)
    (old, *_) = group.of(Use.X509, State.OLD)
    group.keys.hidden.add(old.key_id)
    group.server("two").start()


def test_a_device_that_is_away_stops_the_start(group):
    group.keys.away = True
    with pytest.raises(KeyManagerUnavailable):
        group.server().start()


def test_keys_that_the_journal_does_not_name_are_told_and_count_for_nothing(group):
    orphan = group.keys.generate(KeyId("orphan"), "ec-p256")
    server = group.server()
    with capture_logs() as lines:
        server.start()
    assert [line["key_ids"] for line in lines if "does not name" in line["event"]] == [["orphan"]]
    group.tick(server)
    assert orphan.id not in {record.key_id for record in server.records}
    assert group.keys.made["orphan"]


def test_on_orders_a_lost_key_is_given_up_and_a_new_authority_made(group):
    group.started()
    lost = group.active()
    del group.keys.made[lost.key_id]
    server = group.server("two", go_on_without_lost_keys=True)
    server.start()
    group.ended.add("one")
    group.tick(server)
    assert group.active().key_id != lost.key_id
    assert group.table.rows[lost.key_id].state is State.OLD
    group.sign(server)
    assert lost.roots[0] in {authority.der for authority in group.bundle.x509_authorities}


def test_on_orders_a_key_that_is_there_again_is_not_given_up(group):
    group.started()
    blinking = group.active()
    group.keys.hidden.add(blinking.key_id)
    server = group.server("two", go_on_without_lost_keys=True)
    server.start()
    group.keys.hidden.clear()
    group.tick(server)
    group.tick(server, LENGTH)
    assert group.active() == blinking


def test_orders_hold_for_what_was_missing_at_the_start_only(group):
    server = group.server(go_on_without_lost_keys=True)
    server.start()
    group.tick(server)
    lost = group.active()
    group.keys.hidden.add(lost.key_id)
    for _ in range(5):
        group.tick(server, 60)
    assert group.active() == lost


# -- several servers


def test_a_follower_signs_with_the_leaders_keys_and_makes_none(group):
    group.started()
    follower = group.server("two")
    follower.start()
    group.tick(follower)
    group.sign(follower)
    assert len(group.keys.made) == 2


def test_a_follower_signs_with_no_authority_before_it_knows_the_bundle_that_holds_it(group):
    group.started()
    follower = group.server("two")
    follower.start()
    group.bundles.unreadable = True
    with pytest.raises(DatastoreUnavailable, match="the bundle cannot be read"):
        group.tick(follower)
    with pytest.raises(Unavailable, match="X509 CA is not available for signing"):
        _ = follower.x509
    group.bundles.unreadable = False
    group.tick(follower)
    group.sign(follower)


def test_a_leader_that_slept_changes_nothing_and_follows(group):
    sleeper = group.started()
    other = group.server("two")
    other.start()
    group.tick(other)
    group.tick(other, LENGTH)
    before = dict(group.table.rows)
    sleeper._lease._renewed_at = group.clock.monotonic()  # it woke between renewing and writing
    group.clock.advance(13 * 3600)
    sleeper._lease._renewed_at = group.clock.monotonic()
    with capture_logs() as lines:
        group.tick(sleeper)
    assert "Authority group is led by another server now" in {line["event"] for line in lines}
    assert group.table.rows == before
    assert sleeper._lease.epoch is None
    group.sign(sleeper)


def test_a_key_that_the_former_leader_made_a_moment_ago_is_taken_over(group):
    """The new leader looks, sees nothing, and finds the key made when it makes it itself."""
    server = group.server()
    server.start()
    generate = group.keys.generate
    late = []

    class LateKeys(type(group.keys)):
        def generate(self, key_id, key_type):
            if not late:
                late.append(generate(key_id, key_type))  # by the other server, between look and make
            return super().generate(key_id, key_type)

    group.keys.__class__ = LateKeys
    group.tick(server)
    assert group.active().key_id == late[0].id
    group.sign(server)


def test_a_server_that_stops_lets_another_lead_at_once(group):
    first = group.started()
    second = group.server("two")
    second.start()
    group.tick(second)
    first.close()
    group.tick(second)
    assert second._lease.epoch == 2


# -- pruning


def test_the_bundle_is_pruned_every_six_hours(group):
    server = group.started()
    expired = ca(shape=Shape(validity=(START - 9 * DAY, START - 2 * DAY))).der
    group.bundles.publish([X509Authority(expired)], [])
    group.tick(server, PRUNE_EVERY.total_seconds() - 1)
    assert len(group.bundle.x509_authorities) == 2
    group.tick(server, 1)
    assert len(group.bundle.x509_authorities) == 1


def test_the_bundle_is_pruned_again_after_the_clock_was_set_back(group):
    server = group.started()
    group.clock.advance(-365 * DAY.total_seconds())
    group.bundles.publish([X509Authority(ca(shape=Shape(validity=(START - 900 * DAY, START - 800 * DAY))).der)], [])
    group.tick(server)
    ends = [authority.certificate.not_valid_after_utc for authority in group.bundle.x509_authorities]
    assert all(end >= group.now for end in ends)


# -- the table


def test_the_manager_takes_no_step_that_the_table_forbids(group):
    record = replace(group.started().records[0], state=State.REVOKED)
    for step in Step:
        if (State.REVOKED, str(step)) not in NEXT:
            with pytest.raises(FailedPrecondition, match=f"is revoked: it cannot {step}"):
                moved(record, step)


@pytest.mark.parametrize("use", list(Use))
def test_one_use_that_fails_does_not_hold_up_the_other(group, use):
    follower = group.server("two")
    follower.start()
    group.started()
    group.keys.hidden.add(group.active(use).key_id)
    with pytest.raises(KeyManagerUnavailable):
        group.tick(follower)
    assert follower.jwt if use is Use.X509 else follower.x509
