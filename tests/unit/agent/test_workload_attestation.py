"""What all workload attestors together say of a process, and that the very process must still run then."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
import structlog

from agent.workload_attestation import WorkloadAttestation
from spiffe_core.entries import Selector
from spiffe_core.errors import Internal, Unauthenticated, Unavailable
from spiffe_core.runtime.metrics import Metrics
from spiffe_core.runtime.peers import PeerProcess
from tests.support.workloads import FakeAttestor

BROKEN: Final = Internal("no answer")


def attestation(*attestors: FakeAttestor) -> WorkloadAttestation:
    """Of these attestors."""
    return WorkloadAttestation(attestors, Metrics("spire_agent"))


@contextmanager
def running() -> Iterator[tuple[PeerProcess, "subprocess.Popen[bytes]"]]:
    """A process that runs until its input ends, watched."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        watched = PeerProcess(child.pid, os.getuid(), os.getgid(), os.pidfd_open(child.pid))
        try:
            yield watched, child
        finally:
            watched.close()


def selectors(*texts: str) -> frozenset[Selector]:
    return frozenset(map(Selector.parse, texts))


async def test_the_selectors_of_all_attestors_count_each_under_its_name():
    with running() as (process, _):
        found = await attestation(FakeAttestor("a", "x:1"), FakeAttestor("b", "x:1")).attest(process)
        assert found == selectors("a:x:1", f"a:pid:{process.pid}", "b:x:1", f"b:pid:{process.pid}")


@pytest.mark.parametrize("broken", [0, 1])
async def test_an_attestor_that_fails_is_logged_and_the_others_count(broken):
    attestors = [FakeAttestor("a"), FakeAttestor("b")]
    attestors[broken].error = BROKEN
    with running() as (process, _), structlog.testing.capture_logs() as logs:
        found = await attestation(*attestors).attest(process)
        assert found == selectors(f"{attestors[1 - broken].name}:pid:{process.pid}")
    assert [
        (line["event"], line.get("plugin_name"), line.get("error")) for line in logs if line["log_level"] == "error"
    ] == [
        ("Workload attestor failed", attestors[broken].name, "no answer"),
        ("Failed to collect all selectors", None, None),
    ]


@pytest.mark.parametrize("count", [1, 2])
async def test_if_all_attestors_fail_the_workload_is_not_attested(count):
    attestors = [FakeAttestor(f"a{number}", error=BROKEN) for number in range(count)]
    with running() as (process, _), pytest.raises(Unavailable, match=r"^workload attestation failed$"):
        await attestation(*attestors).attest(process)


async def test_an_attestor_with_nothing_to_say_has_not_failed():
    class Silent(FakeAttestor):
        async def attest(self, process):
            return []

    with running() as (process, _):
        assert await attestation(Silent()).attest(process) == frozenset()


@pytest.mark.conformance("WE-11")
@pytest.mark.parametrize("others", [0, 1])
async def test_a_process_that_ends_while_it_is_attested_is_not_attested(others):
    with running() as (process, child):

        class Slow(FakeAttestor):
            async def attest(self, process):
                child.communicate()  # it ends: from here on its number may be another process's
                return await super().attest(process)

        slow = Slow("slow")
        with pytest.raises(Unauthenticated, match=f"the caller's process {process.pid} has ended"):
            await attestation(slow, *(FakeAttestor("more") for _ in range(others))).attest(process)
        assert slow.asked == [process.pid]


@pytest.mark.conformance("WE-11")
@pytest.mark.parametrize("others", [0, 1])
async def test_of_a_process_that_has_become_another_users_nothing_counts(others):
    changed = FakeAttestor("changed", error=Unauthenticated("no longer of the user"))
    with running() as (process, _), pytest.raises(Unauthenticated, match="no longer of the user"):
        await attestation(changed, *(FakeAttestor("more") for _ in range(others))).attest(process)


@pytest.mark.conformance("WE-11")
@pytest.mark.parametrize(("uid", "gid"), [(1, 0), (0, 1)])
async def test_whatever_attestors_say_the_process_must_be_of_the_user_that_connected(uid, gid):
    with running() as (process, _):
        process.uid, process.gid = process.uid + uid, process.gid + gid
        with pytest.raises(Unauthenticated, match="no longer of the user and group that opened the connection"):
            await attestation(FakeAttestor()).attest(process)


@pytest.mark.conformance("WE-11")
@pytest.mark.parametrize("pid", [0, 4_000_000])
async def test_a_process_that_cannot_be_seen_is_not_attested(pid):
    attestor = FakeAttestor()
    with pytest.raises(Unauthenticated, match="cannot be watched: it is gone, or in a PID namespace out of sight"):
        await attestation(attestor).attest(PeerProcess(pid, 0, 0, None))
    assert not attestor.asked


async def test_attestations_are_counted_as_they_end():
    metrics = Metrics("spire_agent")
    attestor = FakeAttestor("a")
    attesting = WorkloadAttestation([attestor], metrics)
    with running() as (process, _):
        await attesting.attest(process)
        attestor.error = BROKEN
        for _ in range(2):
            with pytest.raises(Unavailable):
                await attesting.attest(process)
    for name, labels in (("workload_attestation", {}), ("workload_attestor", {"attestor": "a"})):
        for status, count in (("OK", 1), ("error", 2)):
            sample = f"spire_agent_workload_api_{name}_total"
            assert metrics._registry.get_sample_value(sample, {**labels, "status": status}) == count


@pytest.mark.conformance("WE-11")
async def test_a_process_that_ended_is_not_told_to_try_again():
    with running() as (process, child):

        class Late(FakeAttestor):
            async def attest(self, process):
                child.communicate()
                raise BROKEN

        with pytest.raises(Unauthenticated, match=f"the caller's process {process.pid} has ended"):
            await attestation(Late()).attest(process)


def test_closing_closes_the_attestors():
    attestors = [FakeAttestor("a"), FakeAttestor("b")]
    attestation(*attestors).close()
    assert all(attestor.closed for attestor in attestors)
