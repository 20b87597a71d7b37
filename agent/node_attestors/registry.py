"""The node attestors that are built in, by the name that configuration files give them."""

from collections.abc import Callable, Mapping
from typing import Final

from agent.config import AgentConfig
from agent.node_attestors.base import NodeAttestor
from agent.node_attestors.join_token import JoinTokenAttestor

Factory = Callable[[AgentConfig], NodeAttestor]


def _join_token(config: AgentConfig) -> NodeAttestor:
    return JoinTokenAttestor(config.join_token)


BUILT_IN: Final[Mapping[str, Factory]] = {"join_token": _join_token}


def open_node_attestor(config: AgentConfig) -> NodeAttestor:
    """The attestor of this agent: a join token, where one is given, counts whatever else is configured."""
    return BUILT_IN["join_token" if config.join_token else config.node_attestor.name](config)
