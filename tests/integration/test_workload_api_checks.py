"""What the Workload API checks of a call before it answers, and in which order."""

import asyncio
import os
from typing import Final

import grpc
import pytest
import structlog
from grpc import StatusCode

from agent.config import Experimental, RateLimit
from agent.workload_api import MAX_AUDIENCE
from spiffe_core.api import workload_pb2
from spiffe_core.errors import Internal
from spiffe_core.runtime.levels import Level, LevelSwitch
from spiffe_core.runtime.log import process_log
from tests.support.clock import FakeClock
from tests.support.workloads import HEADER, ME, METHODS, FakeAttestor, calling, refused, serving

WITHOUT_HEADER: Final = {
    "absent": (),
    "True": (("workload.spiffe.io", "True"),),
    "TRUE": (("workload.spiffe.io", "TRUE"),),
    "1": (("workload.spiffe.io", "1"),),
    "empty": (("workload.spiffe.io", ""),),
    "false": (("workload.spiffe.io", "false"),),
    "two values in one": (("workload.spiffe.io", "true,true"),),
    "twice": (*HEADER, *HEADER),
    "once right, once wrong": (*HEADER, ("workload.spiffe.io", "false")),
    "of another name": (("workload.spiffe.io.", "true"),),
}
JWT: Final = workload_pb2.JWTSVIDRequest(audience=["reports"])
VALIDATE: Final = workload_pb2.ValidateJWTSVIDRequest(audience="reports", svid="x.y.z")
COMPLETE: Final = {"FetchJWTSVID": JWT, "ValidateJWTSVID": VALIDATE}
"""Requests that are not empty messages."""
ENTITLED: Final = ["FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "FetchJWTBundles"]
"""Methods that only a caller with an identity may use."""


@pytest.mark.conformance("WE-4", "WE-12")
@pytest.mark.parametrize("given", WITHOUT_HEADER)
@pytest.mark.parametrize("name", METHODS)
async def test_a_call_without_the_security_header_is_refused_before_anything_is_known_of_its_caller(name, given):
    attestor = FakeAttestor()
    refusal = refused(StatusCode.INVALID_ARGUMENT, "security header missing from request")
    async with serving(attestors=[attestor]) as served, calling(served.socket) as caller, refusal:
        await caller.first(name, metadata=WITHOUT_HEADER[given])
    assert not attestor.asked


@pytest.mark.conformance("WE-4")
async def test_other_metadata_beside_the_security_header_do_no_harm():
    async with serving() as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME)
        assert (await caller.first("FetchX509SVID", metadata=(*HEADER, ("more", "true")))).svids


@pytest.mark.conformance("WE-2", "WE-5", "WE-10", "WE-17", "W-1")
async def test_all_five_rpcs_answer_a_caller_that_presents_no_credential():
    async with serving() as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME)
        token = (await caller.call("FetchJWTSVID", JWT)).svids[0].svid
        for name in ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"):
            assert (await caller.first(name)).ByteSize()
        validated = await caller.call(
            "ValidateJWTSVID", workload_pb2.ValidateJWTSVIDRequest(audience="reports", svid=token)
        )
        assert validated.spiffe_id == "spiffe://example.org/workload"


MALFORMED: Final = {
    "no audience": ("FetchJWTSVID", workload_pb2.JWTSVIDRequest(), "audience must be specified"),
    "an empty audience": ("FetchJWTSVID", workload_pb2.JWTSVIDRequest(audience=[""]), "audience must be specified"),
    "an audience without end": (
        "FetchJWTSVID",
        workload_pb2.JWTSVIDRequest(audience=["a" * MAX_AUDIENCE, "b"]),
        "audience must not be longer than 32768 characters altogether",
    ),
    "an ID that is none": (
        "FetchJWTSVID",
        workload_pb2.JWTSVIDRequest(audience=["reports"], spiffe_id="http://example.org/workload"),
        "invalid requested SPIFFE ID: 'http://example.org/workload' is no SPIFFE ID: scheme is missing or invalid",
    ),
    "no audience to validate for": (
        "ValidateJWTSVID",
        workload_pb2.ValidateJWTSVIDRequest(svid="x.y.z"),
        "audience must be specified",
    ),
    "no token to validate": (
        "ValidateJWTSVID",
        workload_pb2.ValidateJWTSVIDRequest(audience="reports"),
        "svid must be specified",
    ),
}


@pytest.mark.conformance("W-10", "W-27")
@pytest.mark.parametrize("case", MALFORMED)
async def test_the_fields_of_a_request_are_checked_before_its_caller_is_attested(case):
    name, request, text = MALFORMED[case]
    attestor = FakeAttestor(error=Internal("not to be asked"))
    refusal = refused(StatusCode.INVALID_ARGUMENT, text)
    async with serving(attestors=[attestor]) as served, calling(served.socket) as caller, refusal:
        await caller.call(name, request)
    assert not attestor.asked


@pytest.mark.parametrize("name", [*ENTITLED, "ValidateJWTSVID"])
async def test_a_caller_that_cannot_be_attested_is_told_to_try_again(name):
    attestor = FakeAttestor(error=Internal("no /proc today"))
    async with serving(attestors=[attestor]) as served, calling(served.socket) as caller:
        with structlog.testing.capture_logs() as logs:
            async with refused(StatusCode.UNAVAILABLE, "workload attestation failed"):
                await caller.first(name, COMPLETE.get(name))
    assert attestor.asked
    assert [line["error"] for line in logs if line["event"] == "Workload attestation failed"] == [
        "workload attestation failed"
    ]


@pytest.mark.conformance("WE-14", "W-13", "W-20", "W-24", "W-29", "W-33")
@pytest.mark.parametrize("name", ENTITLED)
async def test_a_caller_without_an_identity_is_told_so(name):
    async with serving(log_selectors=("unix:uid",)) as served, calling(served.socket) as caller:
        served.identities.add("/other", "unix:uid:4000000000")
        with structlog.testing.capture_logs() as logs:
            async with refused(StatusCode.PERMISSION_DENIED, "no identity issued"):
                await caller.first(name, COMPLETE.get(name))
        [line] = [line for line in logs if line["event"] == "No identity issued"]
    assert (line["registered"], line["method"], line["service"]) == (False, name, "WorkloadAPI")
    assert line["selectors"] == ME


async def test_selectors_are_not_logged_unless_their_prefix_is_configured():
    async with serving(log_selectors=("unix:ui", "other")) as served, calling(served.socket) as caller:
        with structlog.testing.capture_logs() as logs:
            async with refused(StatusCode.PERMISSION_DENIED, "no identity issued"):
                await caller.first("FetchX509SVID")
    [line] = [line for line in logs if line["event"] == "No identity issued"]
    assert "selectors" not in line


@pytest.mark.conformance("W-37", "W-38", "W-39", "WIT-5", "WIT-13", "WIT-14", "WIT-15")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FetchWITSVID", "fetching WIT-SVIDs is not implemented"),
        ("FetchWITBundles", "fetching WIT bundles is not implemented"),
    ],
)
async def test_workload_identity_tokens_are_not_served(name, text):
    async with serving() as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME)
        async with refused(StatusCode.UNIMPLEMENTED, text):
            await caller.first(name)


@pytest.mark.conformance("WE-15", "W-3")
@pytest.mark.parametrize(
    "path", ["/SpiffeWorkloadAPI/Nope", "/spiffe.workload.SpiffeWorkloadAPI/FetchX509SVID", "/Nope/FetchX509SVID"]
)
async def test_an_unknown_rpc_is_unimplemented(path):
    async with serving() as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.raw(path)
        assert caught.value.code() is StatusCode.UNIMPLEMENTED
        assert await caller.raw("/SpiffeWorkloadAPI/FetchX509SVID")


LIMITED: Final = {
    "FetchX509SVID": "fetch_x509_svid",
    "FetchJWTSVID": "fetch_jwt_svid",
    "FetchX509Bundles": "fetch_x509_bundles",
    "FetchJWTBundles": "fetch_jwt_bundles",
}


@pytest.mark.conformance("WE-13")
@pytest.mark.parametrize("name", LIMITED)
async def test_a_caller_that_calls_too_often_is_told_to_try_again(name):
    clock = FakeClock()
    limits = Experimental(ratelimit=RateLimit(**{LIMITED[name]: 2}))
    async with serving(clock=clock, experimental=limits) as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME)
        for other in LIMITED:
            for _ in range(2):
                await caller.first(other, COMPLETE.get(other))
            if other != name:
                await caller.first(other, COMPLETE.get(other))
        async with refused(StatusCode.UNAVAILABLE, f"rate limit exceeded for /SpiffeWorkloadAPI/{name}"):
            await caller.first(name, COMPLETE.get(name))
        clock.advance(0.5)
        await caller.first(name, COMPLETE.get(name))


@pytest.mark.conformance("WE-13")
async def test_a_call_waits_while_the_agent_has_no_svid_yet_and_is_unavailable_when_it_stops():
    async with serving() as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME)
        served.identities.ready = False
        stream = caller.stream("FetchX509SVID")
        first = asyncio.ensure_future(stream.read())
        while not served.identities.subscriptions:  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.01)
        assert not first.done()
        await served.endpoints.stop(0.1)
        async with refused(StatusCode.UNAVAILABLE, "the agent is stopping"):
            await first


async def test_what_is_given_to_whom_is_logged_for_who_debugs_and_no_secret_with_it():
    async with serving() as served, calling(served.socket) as caller:
        served.identities.add("/workload", ME)
        usual, process_log.level = process_log.level, LevelSwitch(Level.DEBUG)
        try:
            with structlog.testing.capture_logs() as logs:
                [svid] = (await caller.first("FetchX509SVID")).svids
                [token] = (await caller.call("FetchJWTSVID", JWT)).svids
        finally:
            process_log.level = usual
    lines = {line["event"]: line for line in logs}
    assert lines["PID attested to have selectors"]["pid"] == os.getpid()
    assert ME in lines["PID attested to have selectors"]["selectors"]
    for event, method in (("Fetched X.509 SVID", "FetchX509SVID"), ("Fetched JWT SVID", "FetchJWTSVID")):
        line = lines[event]
        assert (line["method"], line["spiffe_id"], line["registered"]) == (method, svid.spiffe_id, True)
        assert line["ttl"] > 0
    assert token.svid.rpartition(".")[2] not in str(logs)
    assert str(svid.x509_svid_key)[2:60] not in str(logs)
