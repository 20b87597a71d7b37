"""What servers and agents log in a whole run: SPIRE's formats, line by line, and no secret at any level."""

import json
import re
import secrets
import signal
from collections.abc import Iterator
from datetime import datetime

import pytest

from spiffe_core.runtime.cli.local_client import RpcFailure
from tests.support.cli_runs import server_cli
from tests.support.server_processes import ServerProcess, server_process, wait_until
from tests.support.world import AgentProcess, World, a_world, patiently

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm

TALKATIVE = 'log_level = "TRACE"\naudit_log_enabled = true\nlog_source_location = true\n'
WORD = r'(?:[\w./@^+-]*|"(?:[^"\\\n]|\\.)*")'
TEXT = re.compile(rf'time="[^"]*" level=(?:trace|debug|info|warning|error|fatal) msg={WORD}(?: [\w.]+={WORD})*')


def use(world: World, agent: AgentProcess) -> dict[str, str]:
    """Let the agent and an administrator do what they do; the secrets that came up, by what they are."""
    cli = server_cli("-socketPath", world.server.socket_path)
    found = {
        "a token that nobody used": cli("token", "generate").out.split()[1],
        "a token that was never made": secrets.token_hex(16),
        "a minted JWT-SVID": cli("jwt", "mint", "-spiffeID", "spiffe://example.org/w", "-audience", "a").out.strip(),
    }
    agent.begin(found["a token that was never made"])
    wait_until(lambda: agent.has_logged("join token does not exist"))
    agent.close()
    token = world.join_token(secrets.token_hex(16))
    agent.start(token)
    world.entry(agent, "/web")
    with agent.workload() as workload:
        svid = patiently(workload.x509).svids[0]
        found["a JWT-SVID"] = workload.jwt("a").svids[0].svid
        with pytest.raises(RpcFailure):
            workload.validate(found["a JWT-SVID"], "another")
    found["a private key"] = svid.x509_svid_key.hex()
    found["the token of an agent, but in its ID"] = f"/{token}"
    return found


def without_ids(log: str, agent: AgentProcess) -> str:
    """The log without the agent's SPIFFE ID, of which its used token is a part."""
    return log.replace(agent.id, "").replace(agent.id.removeprefix("spiffe://example.org"), "")


@pytest.fixture(scope="module")
def run(token_pool) -> Iterator[tuple[ServerProcess, AgentProcess, dict[str, str]]]:
    """A server with keys in a token and an agent that have said all they have to say, and the secrets."""
    with token_pool.borrow() as token, a_world(server=TALKATIVE, token=token) as world:
        agent = world.agent(settings='log_source_location = true\nlog_selectors = ["unix"]')
        secret = use(world, agent)
        secret["a PIN"] = token.pin_file.read_text().strip()
        assert agent.end() == 0
        assert world.server.end() == 0
        yield world.server, agent, secret


def test_no_secret_is_logged_at_any_level(run):
    server, agent, secret = run
    for log in (server.log, agent.log):
        text = without_ids(log, agent)
        assert [what for what, value in secret.items() if value in text] == []
        assert "PRIVATE KEY" not in text
    assert "level=debug" in server.log
    assert "level=debug" in agent.log


def test_every_line_is_one_of_spires_text_format(run):
    server, agent, _ = run
    for line in (*server.log.splitlines(), *agent.log.splitlines()):
        assert TEXT.fullmatch(line), line


@pytest.mark.parametrize(
    "fields",
    [
        ["subsystem_name=endpoints", "network=unix", "address="],
        ["spiffe_id=", "expiration="],
        ["method=", "service=", "status=", "type=audit"],
        ["request_id="],
        ["caller_addr="],
        ["file=", "func="],
    ],
    ids=["sockets", "svid", "audit", "request", "caller", "source"],
)
def test_fields_have_spires_names(run, fields):
    server, _, _ = run
    assert any(all(field in line for field in fields) for line in server.log.splitlines())


def test_json_lines_have_spires_keys_and_a_file_that_was_rotated_away_is_opened_anew(tmp_path):
    log, rotated = tmp_path / "server.log", tmp_path / "server.log.1"
    settings = f'log_format = "json"\nlog_file = "{log}"\nlog_level = "DEBUG"'
    with server_process(server=settings, key_manager='KeyManager "memory" {}') as server:
        cli = server_cli("-socketPath", server.socket_path)
        server.begin()
        wait_until(lambda: cli("healthcheck").code == 0 or server.has_ended())
        log.rename(rotated)
        assert server.process is not None
        server.process.send_signal(signal.SIGUSR2)
        wait_until(log.exists)
        assert server.end() == 0
        assert server.log == ""  # standard output
    for file in (rotated, log):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert lines
        for line in lines:
            assert {"level", "msg", "time"} <= line.keys()
            assert line["level"] in {"debug", "info", "warning", "error"}
            assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert file.stat().st_mode & 0o777 == 0o640
