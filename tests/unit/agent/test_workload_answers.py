"""The Workload API's messages: made once for a state, and forgotten with it."""

from dataclasses import replace

from agent.answers import Answers
from spiffe_core.api import workload_pb2
from spiffe_core.entries import Selector
from tests.support.fake_identities import FakeIdentities

MINE = frozenset({Selector("unix", "uid:7")})


async def test_a_message_is_made_once_for_a_state_and_again_for_the_next():
    identities, answers = FakeIdentities(), Answers()
    identities.add("/workload", "unix:uid:7")
    state = identities.state(MINE, svids=True)
    for make in (answers.x509_svids, answers.x509_bundles, answers.jwt_bundles):
        assert make(state) is make(state)
    equal = replace(state)
    assert answers.x509_svids(equal) == answers.x509_svids(state)
    assert answers.x509_svids(equal) is not answers.x509_svids(state)


async def test_messages_are_forgotten_with_their_state():
    identities, answers = FakeIdentities(), Answers()
    identities.add("/workload", "unix:uid:7")
    for _ in range(5):
        state = replace(identities.state(MINE, svids=True))
        answers.x509_svids(state)
        assert len(answers) == 1
        del state
        assert len(answers) == 0


async def test_messages_about_one_state_are_not_given_for_another():
    identities, answers = FakeIdentities(), Answers()
    for number in range(50):
        identities.add(f"/workload-{number}", f"unix:uid:{number}")
    for number in range(50):
        state = identities.state(frozenset({Selector("unix", f"uid:{number}")}), svids=True)
        [svid] = workload_pb2.X509SVIDResponse.FromString(answers.x509_svids(state)).svids
        assert svid.spiffe_id == f"spiffe://example.org/workload-{number}"


async def test_no_key_is_shown_when_answers_are_printed():
    identities, answers = FakeIdentities(), Answers()
    identities.add("/workload", "unix:uid:7")
    state = identities.state(MINE, svids=True)
    answers.x509_svids(state)
    [identity] = state.identities
    assert repr(identity.svid.private_key)[2:40] not in repr(answers._kept) + repr(state)
