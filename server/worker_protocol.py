"""What a worker gets from its supervisor."""

from dataclasses import dataclass

from server.config import ServerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """The configuration as the supervisor read it, and the descriptors of what the workers share."""

    config: ServerConfig
    local: tuple[int, ...]
    """Listening Unix sockets."""
    rate_limits: int
    level: int
    began: float
    """When the server began, on the machine's monotonic clock."""
    alive: int
    """Reading end of a pipe that ends with the supervisor."""
    ready: int
    """Writing end of a pipe: one byte says that this worker serves."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that must be inherited."""
        return (*self.local, self.rate_limits, self.level, self.alive, self.ready)
