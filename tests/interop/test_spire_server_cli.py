"""SPIRE's command line at our server: what it prints, and that it prints the same at a server of SPIRE's.

Each scenario runs at both, in the same order, from the same beginning.  What may differ is blotted out: random
IDs, times, numbers, keys and certificates.
"""

import asyncio
import contextlib
import re
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from spiffe_core.runtime.clock import SystemClock
from spiffe_core.runtime.files import private_folder
from tests.support.registry import x509_authority
from tests.support.servers import serving
from tests.support.spire import spire_program

pytestmark = pytest.mark.interop

TD: Final = "domain.test"
ID: Final = f"spiffe://{TD}"
BLOTS: Final = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"test_token_\d+"), "<token>"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC"), "<time>"),
    (re.compile(r"(-----BEGIN [A-Z ]+-----)[^-]+"), r"\1 ... "),
    (re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+"), "<jwt>"),
    (re.compile(r'("(?:x5c|x|y|kid|key_id|public_key|asn1)": ?)(?:"[^"]+"|\[[^\]]+\])'), r"\1<key>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "<time>"),
    (re.compile(r"\d{10,}"), "<number>"),
)


OUR_WORDS: Final = {
    r"an entry with ID \"one\" already exists": "failed to create entry: datastore-sql: UNIQUE constraint failed: "
    "registered_entries.entry_id",
    "failed to create entry: selector types": "failed to create entry: datastore-validation: invalid registration "
    "entry: selector types",
    "failed to create entry: entry ID contains invalid characters or is longer than 255": "failed to create entry: "
    "datastore-validation: invalid registration entry: entry ID contains invalid characters",
    "failed to update entry: entry not found": "failed to update entry",
    "failed to delete federated bundle: cannot": "failed to delete federated bundle: datastore-sql: cannot",
}
"""Where we say something else on purpose, and what SPIRE says there."""

SELECTORS: Final = re.compile(r"(?:Selector +: .*\n)+")
"""Selectors are a set: their order says nothing."""


@dataclass
class Place:
    """A server, and the folder in which programs run that call it."""

    socket_path: str
    target: str
    folder: Path

    async def cli(self, command: str) -> str:
        """What a command of ``spire-server`` prints and how it ends, with what may differ blotted out."""
        text = await self.run(spire_program("spire-server"), *command.split(), "-socketPath", self.socket_path)
        for pattern, blot in BLOTS:
            text = pattern.sub(blot, text)
        return SELECTORS.sub(lambda found: "".join(sorted(found[0].splitlines(keepends=True))), text)

    async def run(self, program: str, *args: str) -> str:
        """What a program prints, and how it ends."""
        process = await asyncio.create_subprocess_exec(
            program, *args, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
        return f"{out.decode()}{err.decode()}[{process.returncode}]"

    async def attest(self, name: str) -> None:
        """Make an agent, as one of SPIRE's test clients does."""
        await self.cli(f"token generate -ttl 60 -spiffeID {ID}/{name}")
        client = spire_program("node-attestation")
        local = ("-serverSocketPath", f"unix://{self.socket_path}")
        token = (await self.run(client, "-testStep", "jointoken", *local)).split()[0]
        done = await self.run(client, "-testStep", "jointokenattest", "-tokenName", token, "-serverAddr", self.target)
        assert done.startswith("-----BEGIN CERTIFICATE-----"), done


@contextlib.asynccontextmanager
async def ours(folder: Path) -> AsyncIterator[Place]:
    async with serving(trust_domain=TD, clock=SystemClock()) as served:
        await served.parts.health.check()
        yield Place(str(served.config.socket_path), served.target, folder)


@contextlib.asynccontextmanager
async def theirs(folder: Path) -> AsyncIterator[Place]:
    with private_folder() as home:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        config = home / "server.conf"
        config.write_text(f"""
            server {{
                bind_address = "127.0.0.1" bind_port = {port} socket_path = "{home}/api.sock"
                trust_domain = "{TD}" data_dir = "{home}" log_level = "INFO"
            }}
            plugins {{
                DataStore "sql" {{
                    plugin_data {{ database_type = "sqlite3" connection_string = "{home}/db.sqlite3" }}
                }}
                NodeAttestor "join_token" {{ plugin_data {{}} }}
                KeyManager "memory" {{ plugin_data {{}} }}
            }}
        """)
        with (home / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                spire_program("spire-server"), "run", "-config", str(config), stdout=log, stderr=log
            )
        try:
            place = Place(f"{home}/api.sock", f"127.0.0.1:{port}", folder)
            async with asyncio.timeout(60):
                while "is healthy" not in await place.cli("healthcheck"):
                    assert process.returncode is None, (home / "log").read_text()
                    await asyncio.sleep(0.1)
            yield place
        finally:
            process.terminate()
            await process.wait()


ENTRY: Final = f"-parentID {ID}/spire/agent/x -spiffeID {ID}"
SCENARIOS: Final = {
    "entries": f"""
        entry count
        entry show
        entry create {ENTRY}/a -selector unix:uid:0 -selector unix:path:/bin/a:b -entryID one
        entry create {ENTRY}/b -selector unix:uid:1 -x509SVIDTTL 60 -jwtSVIDTTL 30 -dns a.test -dns b.test -entryID two
        entry create {ENTRY}/c -selector a:1 -hint h -admin -downstream -entryExpiry 2000000000 -entryID three
        entry create {ENTRY}/d -selector a:1 -storeSVID -output json -entryID four
        entry create -node -spiffeID {ID}/fleet -selector x509pop:cn:a -entryID five
        entry create {ENTRY}/a -selector unix:path:/bin/a:b -selector unix:uid:0
        entry create {ENTRY}/a -selector unix:uid:0 -selector unix:path:/bin/a:b -output json
        entry create {ENTRY}/e -selector unix:uid:0 -entryID one
        entry create {ENTRY}/spire/x -selector unix:uid:0
        entry create -parentID spiffe://other.test/p -spiffeID {ID}/x -selector unix:uid:0
        entry create -parentID {ID}/p -spiffeID spiffe://other.test/x -selector unix:uid:0
        entry create {ENTRY}/x -selector unix:uid:0 -federatesWith spiffe://other.test
        entry create {ENTRY}/x -selector unix:uid:0 -x509SVIDTTL -1
        entry create {ENTRY}/x -selector a:1 -selector b:1 -storeSVID
        entry create {ENTRY}/x -selector a:1 -entryID a/b
        entry show
        entry show -output json
        entry show -entryID one
        entry show -entryID unknown
        entry show -spiffeID {ID}/a
        entry show -parentID {ID}/spire/server
        entry show -selector unix:uid:0
        entry show -selector unix:uid:0 -matchSelectorsOn superset
        entry show -selector a:1 -selector a:2 -matchSelectorsOn subset
        entry show -selector a:1 -selector a:2 -matchSelectorsOn any
        entry show -hint h
        entry show -downstream
        entry count
        entry count -downstream
        entry count -selector unix:uid:1
        entry update -entryID two -parentID {ID}/p -spiffeID {ID}/z -selector unix:uid:2 -hint new
        entry update -entryID two -parentID {ID}/p -spiffeID {ID}/z -selector unix:uid:2 -output json
        entry update -entryID unknown -parentID {ID}/p -spiffeID {ID}/z -selector unix:uid:2
        entry update -entryID two -parentID {ID}/p -spiffeID {ID}/spire/z -selector unix:uid:2
        entry delete -entryID one
        entry delete -entryID one
        entry delete -entryID two -output json
        entry show
    """,
    "tokens": f"""
        token generate
        token generate -ttl 5
        token generate -ttl 0
        token generate -spiffeID {ID}/fleet
        token generate -spiffeID {ID}/fleet -output json
        token generate -spiffeID {ID}/spire/agent/x
        token generate -spiffeID spiffe://other.test/x
        entry show -spiffeID {ID}/fleet
    """,
    "bundles": f"""
        bundle count
        bundle show
        bundle show -format spiffe
        bundle show -output json
        bundle list
        bundle set -id spiffe://other.test -path FOREIGN
        bundle set -id spiffe://other.test -path FOREIGN
        bundle set -id spiffe://third.test -path FOREIGN -output json
        bundle set -id {ID} -path FOREIGN
        bundle count
        bundle list
        bundle list -id spiffe://other.test
        bundle list -id spiffe://other.test -format spiffe
        bundle list -id spiffe://unknown.test
        entry create {ENTRY}/a -selector unix:uid:0 -federatesWith spiffe://other.test -entryID one
        entry show -federatesWith spiffe://other.test
        bundle delete -id spiffe://other.test
        bundle delete -id spiffe://other.test -mode dissociate
        bundle delete -id spiffe://other.test
        entry show -federatesWith spiffe://other.test
        entry create {ENTRY}/b -selector unix:uid:0 -federatesWith spiffe://third.test -entryID two
        entry show -federatesWith spiffe://third.test
        entry delete -entryID one
        bundle delete -id spiffe://third.test -mode delete
        bundle delete -id {ID}
        entry show
        bundle count
    """,
    "svids": f"""
        x509 mint -spiffeID {ID}/m
        x509 mint -spiffeID {ID}/m -ttl 1m -dns a.test -write .
        x509 mint -spiffeID {ID}/spire/m
        x509 mint -spiffeID spiffe://other.test/m
        x509 mint -spiffeID {ID}
        jwt mint -spiffeID {ID}/m -audience a
        jwt mint -spiffeID {ID}/m -audience a -audience b -ttl 1m -output json
        jwt mint -spiffeID {ID}/m
        jwt mint -spiffeID {ID}/spire/m -audience a
        jwt mint -spiffeID spiffe://other.test/m -audience a
    """,
    "logger": """
        logger get
        logger set -level debug
        logger get -output json
        logger set -level nonsense
        logger reset
        healthcheck -verbose
    """,
}


@pytest.fixture(scope="module")
def foreign_bundle(tmp_path_factory):
    """A file with a certificate of another trust domain."""
    path = tmp_path_factory.mktemp("bundles") / "foreign.pem"
    path.write_bytes(x509_authority().certificate.public_bytes(Encoding.PEM))
    return str(path)


def check(found):
    """Fail with all differences between what both servers were made to say."""
    differences = []
    for mine, other in zip(*found, strict=True):
        said = mine
        for word, theirs_ in OUR_WORDS.items():
            said = said.replace(word, theirs_)
        if said != other:
            differences.append(f"--- ours\n{mine}\n--- theirs\n{other}")
    assert not differences, "\n".join(differences)


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_spires_command_line_says_the_same_at_both_servers(scenario, tmp_path, foreign_bundle):
    commands = [line.strip() for line in SCENARIOS[scenario].strip().replace("FOREIGN", foreign_bundle).splitlines()]
    found = []
    for place_of in (ours, theirs):
        async with place_of(tmp_path) as place:
            found.append([f"$ {command}\n{await place.cli(command)}" for command in commands])
    check(found)


async def test_spires_command_line_manages_agents_as_at_its_own_server(tmp_path):
    found = []
    for place_of in (ours, theirs):
        async with place_of(tmp_path) as place:
            said = [await place.cli("agent list"), await place.cli("agent count")]
            await place.attest("one")
            said += [await place.cli(f"agent {command}") for command in ("list", "count", "list -output json")]
            listed = await place.run(spire_program("spire-server"), "agent", "list", "-socketPath", place.socket_path)
            [agent_id] = re.findall(r"spiffe://\S+", listed)
            for command in (
                f"agent show -spiffeID {agent_id}",
                f"agent show -spiffeID {ID}/spire/agent/unknown",
                f"agent show -spiffeID {ID}/workload",
                "agent list -attestationType join_token",
                "agent list -attestationType x509pop",
                "agent list -banned true",
                "agent list -canReattest false",
                "agent list -selector a:b -matchSelectorsOn any",
                "agent count -canReattest true",
                f"agent ban -spiffeID {agent_id}",
                "agent list -banned true",
                "agent count -banned false",
                f"agent ban -spiffeID {ID}/spire/agent/unknown",
                f"agent evict -spiffeID {agent_id}",
                f"agent evict -spiffeID {agent_id}",
                "agent purge -expiredFor 1h",
                "agent list",
            ):
                said.append(f"$ {command}\n{await place.cli(command)}".replace(agent_id, "<agent>"))
            found.append(said)
    check(found)
