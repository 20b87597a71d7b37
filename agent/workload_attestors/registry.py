"""The workload attestors that are built in, by the name that configuration files give them.

Nothing of an attestor is imported before it is asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from agent.workload_attestors.base import WorkloadAttestor
from spiffe_core.runtime.block import Block
from spiffe_core.runtime.plugins import Plugin


def _unix(data: Block) -> WorkloadAttestor:
    from agent.workload_attestors.unix import UnixAttestor, UnixConfig  # noqa: PLC0415  lazy

    return UnixAttestor(data.read(UnixConfig))


BUILT_IN: Final[Mapping[str, Callable[[Block], WorkloadAttestor]]] = {"unix": _unix}


def open_workload_attestors(plugins: Iterable[Plugin]) -> tuple[WorkloadAttestor, ...]:
    """The attestors of the WorkloadAttestor plugins that a configuration has, in its order.

    Raises:
        InvalidConfig: if the data of one are wrong; the text starts with their path.
    """
    return tuple(BUILT_IN[plugin.name](plugin.load_data()) for plugin in plugins)
