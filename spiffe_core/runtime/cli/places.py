"""Which Unix socket a command calls: by flag, by instance, by environment, or the default."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spiffe_core.runtime.cli.errors import CommandError


@dataclass(frozen=True, slots=True)
class Place:
    """The default socket of a process, and the variables that say otherwise."""

    default: str
    variable: str
    template_variable: str
    without_template: str = "you must define {} to use the instance flag"
    """What is said, with the template's variable, if an instance is named and the variable is not set."""
    older_default: str = ""
    """Tried if the default was not changed and does not exist: where processes listened in former times."""

    def choose(self, socket_path: str, instance: str, environ: Mapping[str, str] = os.environ) -> str:
        """The path for the values of ``-socketPath`` and ``-instance``.

        Raises:
            CommandError: if an instance is named and there is no template for it.
        """
        template = environ.get(self.template_variable, "")
        if instance and not template:
            raise CommandError(self.without_template.format(self.template_variable))
        if instance and "%i" not in template:
            raise CommandError(f"failed to find %i in {self.template_variable}")
        if socket_path != self.default:
            return socket_path
        if instance:
            return template.replace("%i", instance)
        if path := environ.get(self.variable):
            return path
        if self.older_default and not Path(self.default).exists() and Path(self.older_default).exists():
            return self.older_default
        return self.default
