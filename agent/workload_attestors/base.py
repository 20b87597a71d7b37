"""What a workload attestor is to the agent."""

from collections.abc import Sequence
from typing import Protocol

from spiffe_core.runtime.peers import PeerProcess


class WorkloadAttestor(Protocol):
    """Tells the properties of a process that has connected to the Workload API.  Lives on one event loop.

    It goes by the process's number, which passes to another process once this one has ended: whoever asks
    calls ``check_alive`` *afterwards*, before he believes the answer.
    """

    @property
    def name(self) -> str:
        """The plugin's name, which is the type of its selectors."""

    async def attest(self, process: PeerProcess) -> Sequence[str]:
        """The values of the process's selectors, such as ``uid:1000``.

        Raises:
            Unauthenticated: if it is not what it was when it connected; nothing that anybody says of it counts then.
            SpiffeError: if they cannot be told, saying why; the process may have ended meanwhile.
        """

    def close(self) -> None:
        """Let go of what it holds; nothing is asked of it from now on."""
