"""What a node attestor is: an account of the node, and the answers to what the server asks of it."""

from typing import Protocol


class Server(Protocol):
    """The server, as an attestor speaks with it; ``agent.client`` carries the messages."""

    async def present(self, kind: str, payload: bytes) -> bytes | None:
        """Give the evidence: the server's challenge, or None if it is content."""

    async def answer(self, response: bytes) -> bytes | None:
        """Answer the challenge: the next one, or None if the server is content."""


class NodeAttestor(Protocol):
    """Attests this node.  Whether its agent may do so again is for the server to say."""

    @property
    def name(self) -> str:
        """Its type, by which the server knows what the evidence is."""

    async def attest(self, server: Server) -> None:
        """Go through the attestation; when this returns, the server has admitted the agent.

        Raises:
            SpiffeError: if the server refuses, or the evidence cannot be had.
        """
