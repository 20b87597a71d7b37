"""When an SVID is renewed: about half-way through its life, or so early that a server may be away for long.

The moment is drawn once for each SVID, a little before or after the point itself, so that SVIDs made together
are not renewed together.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

SPREAD: Final = 0.1
"""Share of half a life by which the moment moves, at most, to either side."""
TARGET_SPREAD: Final = timedelta(minutes=10)
"""How much earlier than the availability target asks the moment may be."""
MIN_GRACE: Final = timedelta(hours=12)
"""What must be left of a life beyond the availability target for the target to count."""

Draw = Callable[[float, float], float]
"""A number between two others, as ``random.uniform`` gives it."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """The rule of one agent."""

    availability_target: timedelta | None = None
    draw: Draw = random.uniform

    def guarantees(self, lifetime: timedelta) -> bool:
        """Whether an SVID of that life can be renewed early enough for the availability target, if there is one."""
        return self.availability_target is None or lifetime - self.availability_target > MIN_GRACE

    def x509_at(self, not_before: datetime, not_after: datetime) -> datetime:
        """When to renew an X509-SVID."""
        lifetime = not_after - not_before
        if self.availability_target is not None and self.guarantees(lifetime):
            return not_after - self.availability_target - TARGET_SPREAD * self.draw(0.0, 1.0)
        return self.half_way(not_before, not_after)

    def half_way(self, begin: datetime, end: datetime) -> datetime:
        """About the middle; for JWT-SVIDs always this."""
        return end - (end - begin) / 2 * self.draw(1 - SPREAD, 1 + SPREAD)
