"""``agent list|show|count|ban|evict|purge``."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import BoolValue

from server.cli.agent_text import agent_id_text, agent_text
from server.cli.client import calls_server
from server.cli.selectors import match_of, selectors_of
from spiffe_core.api.convert.ids import id_to_pb
from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.types.agent_pb2 import Agent, AgentMask
from spiffe_core.api.spire.api.types.selector_pb2 import Selector, SelectorMatch
from spiffe_core.api.spire.api.types.spiffeid_pb2 import SPIFFEID
from spiffe_core.errors import InvalidSelector
from spiffe_core.ids import SpiffeId
from spiffe_core.runtime.cli import flags
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.local_client import LocalClient, RpcFailure
from spiffe_core.runtime.cli.output import JSON, echo_json, output_flag, plural
from spiffe_core.runtime.gotext import quote

agent = Group("agent")

_AGENTS: Final = agent_pb2.DESCRIPTOR
_PAGE: Final = 1000
_LAYOUT: Final = "2006-01-02 15:04:05 -0700 -07"
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}) [+-]\d\d", re.ASCII)


def _filter_flags(function: flags.Function) -> flags.Function:
    for declare in (
        flags.repeated("selector", "Only agents with this type:value selector. Can be used more than once"),
        flags.text("attestationType", "Only agents attested in this way, such as join_token"),
        flags.either("canReattest", "true: only agents that can attest again; false: only others"),
        flags.either("banned", "true: only banned agents; false: only others"),
        flags.text("expiresBefore", f"Only agents whose SVID expires before this time, in the form {quote(_LAYOUT)}"),
        flags.text("matchSelectorsOn", "How selectors must match: exact, any, superset or subset", "superset"),
    ):
        function = declare(function)
    return function


@agent.add("list", "Lists attested agents")
@_filter_flags
@output_flag
@calls_server
def list_agents(client: LocalClient, output: str, **given: Any) -> None:  # noqa: ANN401  flags
    """List agents."""
    chosen = agent_pb2.ListAgentsRequest.Filter(**_filter(given))
    found: list[Agent] = []
    page = ""
    while True:
        request = agent_pb2.ListAgentsRequest(page_size=_PAGE, page_token=page, filter=chosen)
        response = client.call(_AGENTS, "ListAgents", request, agent_pb2.ListAgentsResponse)
        found.extend(response.agents)
        page = response.next_page_token
        if not page:
            break
    if output == JSON:
        echo_json(agent_pb2.ListAgentsResponse(agents=found))
    elif not found:
        click.echo("No attested agents found")
    else:
        click.echo(f"Found {plural(len(found), 'attested agent', 'attested agents')}:\n")
        click.echo("".join(map(agent_text, found)), nl=False)


@agent.add("show", "Shows an attested agent")
@flags.text("spiffeID", "SPIFFE ID of the agent")
@output_flag
@calls_server
def show(client: LocalClient, spiffe_id: str, output: str) -> None:
    """Show one agent and its selectors."""
    found = client.call(_AGENTS, "GetAgent", agent_pb2.GetAgentRequest(id=_id(spiffe_id)), Agent)
    if output == JSON:
        echo_json(found)
        return
    click.echo("Found an attested agent given its SPIFFE ID\n")
    click.echo(agent_text(found), nl=False)
    for selector in found.selectors:
        click.echo(f"Selectors         : {selector.type}:{selector.value}")


@agent.add("count", "Counts attested agents")
@_filter_flags
@output_flag
@calls_server
def count(client: LocalClient, output: str, **given: Any) -> None:  # noqa: ANN401  flags
    """Count agents."""
    request = agent_pb2.CountAgentsRequest(filter=agent_pb2.CountAgentsRequest.Filter(**_filter(given)))
    response = client.call(_AGENTS, "CountAgents", request, agent_pb2.CountAgentsResponse)
    if output == JSON:
        echo_json(response)
    else:
        click.echo(plural(response.count, "attested agent", "attested agents"))


@agent.add("ban", "Bans an attested agent")
@flags.text("spiffeID", "SPIFFE ID of the agent")
@output_flag
@calls_server
def ban(client: LocalClient, spiffe_id: str, output: str) -> None:
    """Ban an agent: it is not let in again."""
    _act(client, "BanAgent", agent_pb2.BanAgentRequest(id=_id(spiffe_id)), output, "banned")


@agent.add("evict", "Evicts an attested agent")
@flags.text("spiffeID", "SPIFFE ID of the agent")
@output_flag
@calls_server
def evict(client: LocalClient, spiffe_id: str, output: str) -> None:
    """Evict an agent: it has to attest again."""
    _act(client, "DeleteAgent", agent_pb2.DeleteAgentRequest(id=_id(spiffe_id)), output, "evicted")


@agent.add("purge", "Deletes agents that have expired and can attest again")
@flags.duration("expiredFor", "How long an agent's SVID must have been expired", timedelta(days=30))
@flags.switch("dryRun", "Delete nothing, show what would be deleted")
@output_flag
@calls_server
def purge(client: LocalClient, expired_for: timedelta, dry_run: bool, output: str) -> None:  # noqa: FBT001  a flag
    """Delete expired agents, which a ban does not outlive."""
    request = agent_pb2.ListAgentsRequest(
        filter=agent_pb2.ListAgentsRequest.Filter(by_can_reattest=BoolValue(value=True)),
        output_mask=AgentMask(x509svid_expires_at=True),
    )
    try:
        listed = client.call(_AGENTS, "ListAgents", request, agent_pb2.ListAgentsResponse).agents
    except RpcFailure as exc:
        raise CommandError(f"failed to list agents: {exc}") from exc
    before = (datetime.now(UTC) - expired_for).timestamp()
    expired = [one for one in listed if one.x509svid_expires_at < before]
    results = [
        {"agent_id": agent_id_text(one), "deleted": False} if dry_run else _delete(client, one) for one in expired
    ]
    if output == JSON:
        echo_json({"expired_agents": results})
    elif not results:
        click.echo("No agents to purge.")
    else:
        click.echo(f"Found {plural(len(results), 'expired agent', 'expired agents')}\n")
        _print_purged(results, dry_run=dry_run)


def _delete(client: LocalClient, one: Agent) -> dict[str, Any]:
    try:
        client.call(_AGENTS, "DeleteAgent", agent_pb2.DeleteAgentRequest(id=one.id), Empty)
    except RpcFailure as exc:
        return {"agent_id": agent_id_text(one), "deleted": False, "error": str(exc)}
    return {"agent_id": agent_id_text(one), "deleted": True}


def _print_purged(results: Sequence[dict[str, Any]], *, dry_run: bool) -> None:
    gone = [result for result in results if result["deleted"]]
    left = [result for result in results if not result["deleted"]]
    if dry_run:
        click.echo("\nAgents that can be purged:")
        click.echo("".join(f"SPIFFE ID         : {result['agent_id']}\n" for result in left), nl=False)
        return
    if gone:
        click.echo("Agents purged:")
        click.echo("".join(f"SPIFFE ID         : {result['agent_id']}\n" for result in gone), nl=False)
    if left:
        click.echo("Agents not purged:")
        for result in left:
            click.echo(f"SPIFFE ID         : {result['agent_id']}\nError             : {result['error']}")


def _act(
    client: LocalClient,
    method: str,
    request: agent_pb2.BanAgentRequest | agent_pb2.DeleteAgentRequest,
    output: str,
    done: str,
) -> None:
    response = client.call(_AGENTS, method, request, Empty)
    if output == JSON:
        echo_json(response)
    else:
        click.echo(f"Agent {done} successfully")


def _id(spiffe_id: str) -> SPIFFEID:
    if not spiffe_id:
        raise CommandError("a SPIFFE ID is required")
    return id_to_pb(SpiffeId.parse(spiffe_id))


def _filter(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``ListAgentsRequest.Filter`` and of ``CountAgentsRequest.Filter`` that the flags set."""
    found: dict[str, Any] = {}
    if given["selector"]:
        match = match_of(given["match_selectors_on"], "unsupported match behavior")
        selectors = [selector for text in given["selector"] for selector in _selector(text)]
        found["by_selector_match"] = SelectorMatch(selectors=selectors, match=match)
    if given["expires_before"]:
        _check_time(given["expires_before"])
        found["by_expires_before"] = given["expires_before"]
    if given["attestation_type"]:
        found["by_attestation_type"] = given["attestation_type"]
    if given["can_reattest"] is not None:
        found["by_can_reattest"] = BoolValue(value=given["can_reattest"])
    if given["banned"] is not None:
        found["by_banned"] = BoolValue(value=given["banned"])
    return found


def _selector(text: str) -> list[Selector]:
    try:
        return selectors_of([text])
    except InvalidSelector as exc:
        raise CommandError(f"error parsing selector {quote(text)}: {exc}") from exc


def _check_time(text: str) -> None:
    match = _TIME.fullmatch(text)
    try:
        datetime.strptime(match[1] if match else "", "%Y-%m-%d %H:%M:%S %z")
    except ValueError:
        raise CommandError(f"date is not valid: parsing time {quote(text)} as {quote(_LAYOUT)}") from None
