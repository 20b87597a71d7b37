"""Servers of one group, in whatever order things go wrong: crashes, sleep, clock steps, a device that blinks.

Hypothesis draws the order.  After each step the group is held against what is promised of it, and at the end of each
story everything that failed is mended: the group must then sign again by itself.
"""

from contextlib import suppress
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hsm_ca.journal import State, Use
from hsm_ca.lease import LENGTH
from hsm_ca.manager import RETRY_AFTER, AuthorityManager
from hsm_ca.succession import Step
from spiffe_core.errors import DatastoreUnavailable, FailedPrecondition, Unavailable
from tests.support.authorities import Group, Killed

NAMES = st.sampled_from(["one", "two", "three"])
POINTS = st.sampled_from([(step, told) for step in Step for told in (1, 2)])


class Fuse:
    """Kills its server when a step is told for the n-th time from now on."""

    def __init__(self) -> None:
        self.point: tuple[Step, int] | None = None

    def __call__(self, step, record):
        if self.point and self.point[0] is step:
            step, left = self.point
            self.point = (step, left - 1) if left > 1 else None
            if left == 1:
                raise Killed(step)


class AuthorityGroup(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.group = Group()
        self.servers: dict[str, AuthorityManager] = {}
        self.fuses: dict[str, Fuse] = {}
        self.numbers = 0
        self.back = 0.0

    # -- servers

    @rule(name=NAMES)
    def start(self, name):
        if name in self.servers:
            return
        self.numbers += 1
        fuse = Fuse()
        server = self.group.server(f"{name}-{self.numbers}", progress=fuse)
        try:
            server.start()
        except (Unavailable, FailedPrecondition):
            assert self.group.table.away or self.group.keys.away or self.group.keys.hidden
            return
        self.servers[name], self.fuses[name] = server, fuse

    @rule(name=NAMES, seconds=st.sampled_from([1.0, 10.0, 600.0, 7200.0, 40_000.0]))
    def tick(self, name, seconds):
        self.group.clock.advance(seconds)
        self._tick(name)

    @rule(name=NAMES, point=POINTS)
    def light_a_fuse(self, name, point):
        if name in self.servers:
            self.fuses[name].point = point

    @rule(name=NAMES, known=st.booleans())
    def crash(self, name, known):
        self._dies(name, known=known)

    @rule(name=NAMES)
    def stop(self, name):
        server = self.servers.pop(name, None)
        if server:
            with suppress(DatastoreUnavailable):
                server.close()

    @rule(name=NAMES)
    def oversleep(self, name):
        """A leader stops between renewing its lease and writing, while another takes over."""
        server = self.servers.get(name)
        if server is None or server._lease.epoch is None:
            return
        for other in set(self.servers) - {name}:
            self._tick(other)
        self.group.clock.advance(LENGTH)
        for other in set(self.servers) - {name}:
            self._tick(other)
        server._lease._renewed_at = self.group.clock.monotonic()
        self._tick(name)

    @rule(name=NAMES)
    def sign(self, name):
        server = self.servers.get(name)
        if server is None:
            return
        with suppress(Unavailable):
            if self.back:  # an authority from before the step back may lie in the future
                self._tick(name)
            if not self._future():
                self.group.sign(server)

    # -- the world

    @rule(days=st.sampled_from([1, 3, 20]))
    def long_time(self, days):
        self.group.clock.advance(days * 86400)

    @rule(seconds=st.sampled_from([5.0, 3600.0]))
    @precondition(lambda self: not self.back)
    def clock_steps_back(self, seconds):
        self.group.clock._start -= timedelta(seconds=seconds)
        self.group.used_until.clear()  # what was taken away under the later time may be missed now
        self.back = seconds

    @rule(away=st.booleans())
    def device(self, away):
        self.group.keys.away = away

    @rule(away=st.booleans())
    def database(self, away):
        self.group.table.away = away

    @rule(share=st.sampled_from([0, 1]))
    def a_key_blinks(self, share):
        self.group.keys.hidden = set(sorted(self.group.keys.made)[:share])

    @rule()
    def half_a_key(self):
        reserved = self.group.of(Use.X509, State.RESERVED)
        self.group.keys.halves |= {record.key_id for record in reserved} - self.group.keys.made.keys()

    # -- what is promised

    @invariant()
    def promises(self):
        if hasattr(self, "group"):
            self.group.check()

    def teardown(self):
        if not hasattr(self, "group"):
            return
        group = self.group
        group.table.away = group.keys.away = False
        group.keys.hidden.clear()
        for name in list(self.servers):
            self._dies(name, known=True)
        self.start("one")
        for _ in range(3):
            group.clock.advance(max(LENGTH, RETRY_AFTER))
            self._tick("one")
        assert "one" in self.servers
        group.sign(self.servers["one"])
        group.check()

    def _tick(self, name):
        server = self.servers.get(name)
        if server is None:
            return
        group = self.group
        try:
            group.tick(server)
        except Killed:
            self._dies(name, known=True)
        except Unavailable:
            pass

    def _dies(self, name, *, known):
        server = self.servers.pop(name, None)
        if server and known:
            self.group.ended.add(server._lease._holder)

    def _future(self):
        """Whether an authority that is in use began later than now."""
        now = self.group.now.timestamp()
        return any(record.issued_at > now for record in self.group.table.rows.values())


AuthorityGroup.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAuthorityGroup = AuthorityGroup.TestCase
