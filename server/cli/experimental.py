"""``experimental bundle show|list|set|delete``: former names of the bundle commands, always in SPIFFE format."""

from server.cli.bundle import SPIFFE, delete_federated, list_federated, set_federated, show_bundle
from server.cli.client import calls_server
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.local_client import LocalClient
from spiffe_core.runtime.cli.output import PRETTY

experimental = Group("experimental")
bundle = Group("bundle")
experimental.add_command(bundle)


@bundle.add("show", "Prints the server's own bundle; now bundle show -format spiffe")
@calls_server
def show(client: LocalClient) -> None:
    """Print the server's own bundle."""
    show_bundle(client, SPIFFE, PRETTY)


@bundle.add("list", "Lists federated bundles; now bundle list -format spiffe")
@flags.text("id", "SPIFFE ID of the trust domain, if only one is asked for")
@calls_server
def list_bundles(client: LocalClient, id: str) -> None:  # noqa: A002  the flag's name
    """List federated bundles."""
    list_federated(client, id, SPIFFE, PRETTY)


@bundle.add("set", "Sets a federated bundle; now bundle set -format spiffe")
@flags.text("id", "SPIFFE ID of the trust domain")
@flags.text("path", "File with the bundle; standard input if it is not given")
@calls_server
def set_bundle(client: LocalClient, id: str, path: str) -> None:  # noqa: A002  the flag's name
    """Set a federated bundle."""
    set_federated(client, id, path, SPIFFE, PRETTY)


@bundle.add("delete", "Deletes a federated bundle; now bundle delete")
@flags.text("id", "SPIFFE ID of the trust domain")
@flags.text("mode", "What becomes of entries that federate with it: restrict, delete or dissociate", "restrict")
@calls_server
def delete(client: LocalClient, id: str, mode: str) -> None:  # noqa: A002  the flag's name
    """Delete a federated bundle."""
    delete_federated(client, id, mode, PRETTY)
