"""Node attestor ``join_token``: a secret that the server has given out and that admits one agent, once."""

from dataclasses import dataclass, field
from typing import Final

from agent.node_attestors.base import Server
from spiffe_core.errors import AttestationFailed, InvalidConfig

NAME: Final = "join_token"


@dataclass(frozen=True, slots=True)
class JoinTokenAttestor:
    """Presents a token, if it was given one."""

    token: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """``join_token``."""
        return NAME

    async def attest(self, server: Server) -> None:
        """Present the token.

        Raises:
            InvalidConfig: if there is none.
            AttestationFailed: if the server asks for more than a token.
        """
        if not self.token:
            raise InvalidConfig(
                "join token was not provided: make one with `token generate` at the server and give it to this agent "
                "by -joinToken or join_token"
            )
        if await server.present(NAME, self.token.encode()) is not None:
            raise AttestationFailed("server issued unexpected challenge: a join token is all the evidence there is")
