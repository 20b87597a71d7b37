"""Which entries ``entry show`` and ``entry count`` are about."""

from typing import Any

from google.protobuf.wrappers_pb2 import BoolValue, StringValue

from server.cli.selectors import match_of, selectors_of
from spiffe_core.api.convert.ids import id_to_pb
from spiffe_core.api.spire.api.types.federateswith_pb2 import FederatesWithMatch
from spiffe_core.api.spire.api.types.selector_pb2 import SelectorMatch
from spiffe_core.api.spire.api.types.spiffeid_pb2 import SPIFFEID
from spiffe_core.errors import InvalidSelector, InvalidSpiffeId
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.gotext import quote


def filter_flags(function: flags.Function) -> flags.Function:
    """Declare the flags of the filter."""
    for declare in (
        flags.text("parentID", "Only entries with this parent"),
        flags.text("spiffeID", "Only entries that give this SPIFFE ID"),
        flags.switch("downstream", "Only entries of downstream servers"),
        flags.repeated("selector", "Only entries with this type:value selector. Can be used more than once"),
        flags.repeated("federatesWith", "Only entries that federate with this domain. Can be used more than once"),
        flags.text("matchFederatesWithOn", "How domains must match: exact, any, superset or subset", "superset"),
        flags.text("matchSelectorsOn", "How selectors must match: exact, any, superset or subset", "superset"),
        flags.text("hint", "Only entries with this hint"),
    ):
        function = declare(function)
    return function


def filter_of(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``ListEntriesRequest.Filter`` and of ``CountEntriesRequest.Filter`` that the flags set.

    As in SPIRE, entries of downstream servers are among the others only if they alone are asked for.

    Raises:
        CommandError: if a flag is malformed.
    """
    found: dict[str, Any] = {"by_downstream": BoolValue(value=given["downstream"])}
    if given["parent_id"]:
        found["by_parent_id"] = _filter_id(given["parent_id"], "parent ID")
    if given["spiffe_id"]:
        found["by_spiffe_id"] = _filter_id(given["spiffe_id"], "SPIFFE ID")
    if given["selector"]:
        match = match_of(given["match_selectors_on"])
        try:
            selectors = selectors_of(given["selector"])
        except InvalidSelector as exc:
            raise CommandError(f"error parsing selectors: {exc}") from exc
        found["by_selectors"] = SelectorMatch(selectors=selectors, match=match)
    if given["federates_with"]:
        mode = match_of(given["match_federates_with_on"])
        name = SelectorMatch.MatchBehavior.Name(mode)  # those of trust domains have the same names
        found["by_federates_with"] = FederatesWithMatch(trust_domains=given["federates_with"], match=name)
    if given["hint"]:
        found["by_hint"] = StringValue(value=given["hint"])
    return found


def _filter_id(text: str, name: str) -> SPIFFEID:
    try:
        return id_to_pb(SpiffeId.parse(text))
    except InvalidSpiffeId as exc:
        raise CommandError(f"error parsing {name} {quote(text)}: {exc}") from exc
