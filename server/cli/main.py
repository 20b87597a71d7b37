"""``steeple-server``: its commands, and where each is."""

import sys

from spiffe_core.runtime.cli.commands import Group, Lazy, run

root = Group(
    "steeple-server",
    {
        "agent": Lazy("server.cli.agent:agent", "Attested agents: list, ban, evict, purge"),
        "bundle": Lazy("server.cli.bundle:bundle", "Trust bundles: the server's and federated ones"),
        "debug": Lazy("server.cli.debug:debug", "What the server knows of itself"),
        "entry": Lazy("server.cli.entry:entry", "Registration entries"),
        "experimental": Lazy("server.cli.experimental:experimental", "Former names of bundle commands"),
        "healthcheck": Lazy("server.cli.health:healthcheck", "Determines server health status"),
        "jwt": Lazy("server.cli.jwt:jwt", "JWT-SVIDs made by hand"),
        "keys": Lazy("server.cli.keys:keys", "The keys of the server's authorities, and how they are kept"),
        "logger": Lazy("server.cli.logger:logger", "How much the server logs"),
        "run": Lazy("server.cli.run:run", "Runs the server"),
        "token": Lazy("server.cli.token:token", "Join tokens for agents"),
        "validate": Lazy("server.cli.run:validate", "Validates a server configuration file"),
        "x509": Lazy("server.cli.x509:x509", "X509-SVIDs made by hand"),
    },
)


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run(root, "steeple-server", sys.argv[1:]))


if __name__ == "__main__":
    main()
