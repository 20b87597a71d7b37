"""The workload attestors that are built in, by the name that configuration files give them."""

from collections.abc import Callable, Mapping
from typing import Final

from agent.workload_attestors.base import WorkloadAttestor
from agent.workload_attestors.unix import UnixAttestor, UnixConfig
from spiffe_core.runtime.block import Block

Factory = Callable[[Block], WorkloadAttestor]
"""Makes an attestor by its ``plugin_data``; raises InvalidConfig."""


def _unix(data: Block) -> WorkloadAttestor:
    return UnixAttestor(data.read(UnixConfig))


BUILT_IN: Final[Mapping[str, Factory]] = {"unix": _unix}
