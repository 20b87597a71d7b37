"""Lanes: the bounded pool of threads in which calls to a device run.

A device may be slow or hang, and a C call cannot be cancelled.  So every call has a deadline; a queue that is
full refuses at once; a lane whose call has passed its deadline counts as lost until the call returns.  When all
lanes are lost the breaker is open: calls are refused without waiting, and ``health`` says so.

Lanes hide a slow device; they do not make a fast one faster, since Python code in them shares one interpreter
lock.  So there is one lane to begin with, and more are added only while calls wait and the device is slow.  Slow is
the device and not the process: time in which this process computed does not count, since a lane that only waits for
the interpreter lock would get company that makes it wait longer.

Waking the event loop costs as much as a signature.  So a lane that has more to do at once, and soon done, hands over
the results of some calls together.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

from spiffe_core.errors import KeyManagerUnavailable, ResourceExhausted, Unavailable

T = TypeVar("T")

SLOW: Final = 0.002
"""Mean seconds that a unit of work waits for the device above which a waiting call justifies one more lane."""
_SMOOTHING: Final = 0.1
_GATHER: Final = 0.001
"""Seconds for which a result may be held back to be handed over with the next ones."""
_PATIENCE: Final = 3
"""A call of many units may take that many times what its units take on average, if that is past the deadline."""


@dataclass(frozen=True, slots=True)
class LaneHealth:
    """How the lanes are doing."""

    lanes: int
    lost: int
    queued: int
    seconds_per_unit: float

    @property
    def open(self) -> bool:
        """Whether the breaker is open: no lane is left that would take a call."""
        return self.lost >= self.lanes


@dataclass(slots=True, eq=False)
class _Call(Generic[T]):
    work: Callable[[], T]
    units: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[T]
    started: float = 0.0
    computed: float = 0.0
    """Processor seconds of the process when it started."""
    abandoned: bool = False
    outcome: tuple[T | None, BaseException | None] | None = None
    """What came of it, once it is done."""


_Outcome = tuple[_Call[object], object, BaseException | None]


class Lanes:
    """Runs blocking calls of one device for an event loop."""

    def __init__(
        self,
        name: str,
        *,
        most: int = 16,
        queue: int = 1024,
        deadline: float = 10.0,
        slow: float = SLOW,
        unavailable: type[Unavailable] = KeyManagerUnavailable,
        monotonic: Callable[[], float] = time.monotonic,
        computed: Callable[[], float] = time.process_time,
    ) -> None:
        """Take the device's name for messages and its limits.

        ``deadline`` is how many seconds a call of one unit may take, its wait included; ``slow`` the mean seconds
        for which a unit of work waits for the device from which on a waiting call justifies one more lane;
        ``unavailable`` what is raised; ``computed`` tells the processor seconds that this process has used.
        """
        self._name = name
        self._most = most
        self._slow = slow
        self._unavailable = unavailable
        self._monotonic = monotonic
        self._computed = computed
        self._queue_limit = queue
        self._deadline = deadline
        self._queue: deque[_Call[object]] = deque()
        self._ready = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._lost = 0
        self._closed = False
        self._seconds_per_unit = 0.0
        self._waiting_per_unit = 0.0

    def health(self) -> LaneHealth:
        """A snapshot."""
        return LaneHealth(max(self._threads, 1), self._lost, len(self._queue), self._seconds_per_unit)

    async def run(self, work: Callable[[], T], *, units: int = 1) -> T:
        """Run ``work`` in a lane and return what it returns or raise what it raises.

        Raises:
            ResourceExhausted: if too many calls wait already.
            Unavailable: if the deadline passes, or no lane is left because calls hang.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        call = _Call(work, units, loop, future)
        self._submit(cast("_Call[object]", call))
        deadline = max(self._deadline, _PATIENCE * units * self._seconds_per_unit)
        try:
            async with asyncio.timeout(deadline):
                return await future
        except TimeoutError:
            self._abandon(cast("_Call[object]", call))
            if call.outcome is not None:  # it was done, and held back behind a call that hangs
                return _outcome_of(call.outcome)
            raise self._unavailable(
                f"{self._name} did not answer within {deadline:.3g} s; the call may still be running there"
            ) from None
        except asyncio.CancelledError:
            self._abandon(cast("_Call[object]", call))
            raise

    def close(self) -> None:
        """Let the lanes end once their calls have; nothing new is taken."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def _submit(self, call: _Call[object]) -> None:
        with self._ready:
            if self._closed:
                raise self._unavailable(f"{self._name} is shutting down")
            if len(self._queue) >= self._queue_limit:
                raise ResourceExhausted(f"{self._name} has {self._queue_limit} calls waiting: try again later")
            if self._lost and self._lost >= self._most:
                raise self._unavailable(f"{self._name} does not answer: {self._lost} calls hang in it")
            self._queue.append(call)
            self._add_lane_if_due()
            self._ready.notify()

    def _add_lane_if_due(self) -> None:
        if len(self._queue) > self._idle and self._may_add_lane():
            self._threads += 1
            threading.Thread(target=self._lane, name=f"{self._name}-lane", daemon=True).start()

    def _may_add_lane(self) -> bool:
        working = self._threads - self._lost
        return working < 1 or (self._threads < self._most and self._waiting_per_unit > self._slow)

    def _abandon(self, call: _Call[object]) -> None:
        """Nobody waits for the call any more: skip it if it waits, count its lane as lost if it runs."""
        with self._ready:
            call.abandoned = True
            if call.started:
                self._lost += 1
                if self._lost < self._most:
                    self._add_lane_if_due()  # for those that wait behind it
            else:
                self._queue = deque(other for other in self._queue if other is not call)

    def _lane(self) -> None:
        outcomes: list[_Outcome] = []
        while call := self._next():
            begun = call.started
            outcomes.append(self._do(call))
            while (call := self._next_to_gather(self._monotonic() - begun)) is not None:
                outcomes.append(self._do(call))
            _hand_over(outcomes)
            outcomes = []

    def _do(self, call: _Call[object]) -> _Outcome:
        result: object = None
        error: BaseException | None = None
        try:
            result = call.work()
        except BaseException as exc:  # noqa: BLE001  whatever it is belongs to the caller, who awaits it
            error = exc
        with self._ready:
            if call.abandoned:
                self._lost -= 1
            self._measure(call)
            call.started = 0.0
            call.outcome = (result, error)
        return call, result, error

    def _measure(self, call: _Call[object]) -> None:
        taken = self._monotonic() - call.started
        waited = max(0.0, taken - (self._computed() - call.computed))
        self._seconds_per_unit += _SMOOTHING * (taken / call.units - self._seconds_per_unit)
        self._waiting_per_unit += _SMOOTHING * (waited / call.units - self._waiting_per_unit)

    def _next(self) -> _Call[object] | None:
        with self._ready:
            self._idle += 1
            while not self._queue and not self._closed:
                self._ready.wait()
            self._idle -= 1
            if not self._queue:
                self._threads -= 1
                return None
            return self._begin()

    def _next_to_gather(self, gathering: float) -> _Call[object] | None:
        """A call that waits already and will be done before results are held back for too long, or None."""
        with self._ready:
            if self._queue and gathering + self._seconds_per_unit * self._queue[0].units < _GATHER:
                return self._begin()
            return None

    def _begin(self) -> _Call[object]:
        call = self._queue.popleft()
        call.started, call.computed = self._monotonic(), self._computed()
        return call


def _outcome_of(outcome: tuple[T | None, BaseException | None]) -> T:
    result, error = outcome
    if error is not None:
        raise error
    return cast("T", result)


def _hand_over(outcomes: list[_Outcome]) -> None:
    """Hand results to the loop that awaits them, which may have been closed while the device was busy."""
    loops = {call.loop for call, _, _ in outcomes}
    for loop in loops:
        with suppress(RuntimeError):  # closed: there is nobody left to tell
            loop.call_soon_threadsafe(_settle, [outcome for outcome in outcomes if outcome[0].loop is loop])


def _settle(outcomes: list[_Outcome]) -> None:
    for call, result, error in outcomes:
        if not call.future.done():
            if error is None:
                call.future.set_result(result)
            else:
                call.future.set_exception(error)
