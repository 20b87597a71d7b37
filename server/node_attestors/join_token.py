"""NodeAttestor "join_token": a secret that the server made attests one agent, once."""

from server.datastore.join_tokens import JoinTokens
from server.node_attestors.base import Attested, Challenge
from spiffe_core.bundle import PublicKey
from spiffe_core.errors import InvalidInput, InvalidSpiffeId
from spiffe_core.ids import SpiffeId, TrustDomain, agent_id
from spiffe_core.runtime.clock import Clock, unix
from spiffe_core.runtime.lanes import Lanes


class JoinTokenAttestor:
    """Spends join tokens.  A token is spent by being shown, also when it has expired."""

    def __init__(self, *, trust_domain: TrustDomain, tokens: JoinTokens, database: Lanes, clock: Clock) -> None:
        self._trust_domain = trust_domain
        self._tokens = tokens
        self._database = database
        self._clock = clock

    async def attest(self, payload: bytes, public_key: PublicKey, challenge: Challenge) -> Attested:  # noqa: ARG002
        """Spend the token that the payload is.

        Raises:
            InvalidInput: if there is no such token, or it has expired.
        """
        try:
            value = payload.decode("ascii")
        except UnicodeDecodeError:
            raise InvalidInput("failed to attest: join token does not exist or has already been used") from None
        token = await self._database.run(lambda: self._tokens.take(value))
        if token is None:
            raise InvalidInput("failed to attest: join token does not exist or has already been used")
        if token.expires_at < unix(self._clock.now()):
            raise InvalidInput("join token expired")
        return Attested(join_token_agent_id(self._trust_domain, value))


def join_token_agent_id(trust_domain: TrustDomain, token: str) -> SpiffeId:
    """The ID of the agent that a join token attests.

    Raises:
        InvalidInput: if the token's text cannot stand in an ID.
    """
    try:
        return agent_id(trust_domain, f"/join_token/{token}")
    except InvalidSpiffeId as exc:
        raise InvalidInput("a join token consists of letters, numbers, dots, dashes and underscores") from exc
