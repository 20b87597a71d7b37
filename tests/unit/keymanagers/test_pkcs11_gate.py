"""Many inside at once, or one alone; and nobody is kept out for the sake of a call that hangs."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from keymanagers.pkcs11.gate import Gate, GateTimeout

LONG = 30.0
ENDLESS = 1e5
"""Nobody waits that long, and no test."""


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def stay(gate: Gate, until: threading.Event, inside: threading.Event, visitor: object = None) -> None:
    gate.enter(LONG, visitor)
    inside.set()
    until.wait(LONG)
    gate.leave()


def stays(pool: ThreadPoolExecutor, gate: Gate, visitor: object = None) -> threading.Event:
    """Let a thread go in and stay until the event is set."""
    until, inside = threading.Event(), threading.Event()
    pool.submit(stay, gate, until, inside, visitor)
    assert inside.wait(LONG)
    return until


def test_whoever_wants_to_be_alone_waits_for_those_inside(pool):
    gate = Gate()
    leave = stays(pool, gate)
    alone = threading.Event()

    def be_alone() -> None:
        with gate.alone(LONG):
            alone.set()

    waiting = pool.submit(be_alone)
    assert not alone.wait(0.05)
    leave.set()
    waiting.result(LONG)
    assert alone.is_set()


def test_nobody_goes_in_while_one_is_alone_and_all_go_in_afterwards(pool):
    gate = Gate()
    inside = threading.Event()

    def enter() -> None:
        gate.enter(LONG)
        inside.set()
        gate.leave()

    with gate.alone(LONG):
        entering = pool.submit(enter)
        assert not inside.wait(0.05)
    entering.result(LONG)


def test_whoever_waits_too_long_before_the_gate_is_told_so_and_is_not_inside():
    gate = Gate()
    with gate.alone(LONG), pytest.raises(GateTimeout):
        gate.enter(0.01)
    with gate.alone(LONG):
        pass


def test_a_gate_that_could_not_be_emptied_is_open_again(pool):
    gate = Gate()
    leave = stays(pool, gate)
    with pytest.raises(GateTimeout, match="1 calls have not returned"), gate.alone(0.01):
        pytest.fail("somebody is inside")
    gate.enter(LONG)
    gate.leave()
    leave.set()


def test_for_one_that_has_been_inside_too_long_already_the_gate_is_not_even_shut(pool):
    time = Time()
    gate = Gate(time)
    leave = stays(pool, gate)
    time.now += 2 * ENDLESS
    with pytest.raises(GateTimeout, match="1 calls have not returned"), gate.alone(ENDLESS):
        pytest.fail("somebody is inside")
    leave.set()


def test_the_calls_that_hang_are_counted_for_whom_they_are(pool):
    time = Time()
    gate = Gate(time)
    mine, other = object(), object()
    leaves = [stays(pool, gate, mine), stays(pool, gate, mine), stays(pool, gate, other)]
    assert gate.overdue(10.0, mine) == 0
    time.now += 11.0
    leaves.append(stays(pool, gate, mine))
    assert (gate.overdue(10.0, mine), gate.overdue(10.0, other), gate.overdue(10.0, object())) == (2, 1, 0)
    for leave in leaves:
        leave.set()


def test_nobody_is_ever_inside_with_one_who_is_alone(pool):
    gate = Gate()
    inside = 0
    lock = threading.Lock()
    seen: list[int] = []

    def come_and_go() -> None:
        nonlocal inside
        for _ in range(2000):
            gate.enter(LONG)
            with lock:
                inside += 1
            with lock:
                inside -= 1
            gate.leave()

    def be_alone() -> None:
        for _ in range(200):
            with gate.alone(LONG):
                seen.append(inside)

    for done in [*(pool.submit(come_and_go) for _ in range(5)), *(pool.submit(be_alone) for _ in range(2))]:
        done.result(LONG)
    assert seen == [0] * 400
