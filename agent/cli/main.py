"""``steeple-agent``: its commands, and where each is."""

import sys

from spiffe_core.runtime.cli.commands import Group, Lazy, run

root = Group(
    "steeple-agent",
    {
        "api": Lazy("agent.cli.api:api", "What a workload gets from the agent"),
        "debug": Lazy("agent.cli.debug:debug", "What the agent knows of itself"),
        "healthcheck": Lazy("agent.cli.health:healthcheck", "Determines agent health status"),
        "logger": Lazy("agent.cli.logger:logger", "How much the agent logs"),
        "run": Lazy("agent.cli.run:run", "Runs the agent"),
        "validate": Lazy("agent.cli.run:validate", "Validates an agent configuration file"),
    },
)


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run(root, "steeple-agent", sys.argv[1:]))


if __name__ == "__main__":
    main()
