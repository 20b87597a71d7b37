"""SPIRE's command lines and ours, side by side: the same commands at the same kind of server, and what each prints.

Two servers are led through the same history, one by each command line, and every step's standard output, standard
error and exit code are compared, with times, IDs and keys masked.  So are SPIRE's commands at its server and at ours.
What helps says in its own words; flags, their kinds and their defaults are compared there too.
"""

import asyncio
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Final

import pytest

from spiffe_core.runtime.cli.pem import pem
from tests.support.certificates import ca
from tests.support.cli_runs import Ran, agent_cli, server_cli
from tests.support.server_processes import STEEPLE_SERVER, attest
from tests.support.spire import spire_program
from tests.support.world import STEEPLE_AGENT, World, a_world, patiently

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]

P: Final = "spiffe://example.org/p"
W: Final = "spiffe://example.org/w"
CA: Final = pem("CERTIFICATE", [ca(uri="spiffe://other.test").der])
RECORD: Final = '{"spiffe_id": "%s", "parent_id": "%s", "selectors": [{"type": "a", "value": "%s"}], "entry_id": "%s"}'
MASKS: Final = (
    (re.compile(r"dial unix ///"), "dial unix /"),  # SPIRE puts two slashes too many
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} \S+"), "<time>"),
    (re.compile(r"(Serial number +: |SERIALNUMBER=)\d+"), r"\1<number>"),
    (re.compile(r"(Uptime: +)\S+"), r"\1<while>"),
    (re.compile(r'"(kid|key_id|x|y)": ?"[\w-]+"'), r'"\1":"<key>"'),
    (re.compile(r'("uptime":)\d+'), r"\1<number>"),
    (re.compile(r'"\d{9,}"'), '"<number>"'),
    (re.compile(r'"[\w+/-]{60,}={0,2}"'), '"<base64>"'),
    (re.compile(r'\b(exp|iat)":\d+'), r'\1":<number>'),
    (re.compile(r"^Usage of .*:$", re.MULTILINE), "<usage>"),
    (re.compile(r"^    \t.*?( \(default .*\))?$", re.MULTILINE), r"    <help>\1"),
    (re.compile(r"\b(spire|steeple)-(server|agent)\b"), r"<\2>"),
)


@dataclass(frozen=True)
class Step:
    """One command; ``own_words`` says whose errors are worded otherwise: the command line's or the server's."""

    args: Sequence[str]
    stdin: str = ""
    own_words: frozenset[str] = field(default_factory=frozenset)


def step(line: str, stdin: str = "", own_words: str = "") -> Step:
    """A step from words with single spaces between; ``~`` stands for a space in a word."""
    return Step([word.replace("~", " ") for word in line.split(" ")], stdin, frozenset(own_words.split()))


def spire_cli(program: str, *ending: object) -> Callable[..., Ran]:
    """SPIRE's command line."""

    def call(*args: str, stdin: str = "") -> Ran:
        command = [program, *args, *map(str, ending)]
        ended = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    return call


def compared(ran: Ran, *places: object) -> Ran:
    """The output with all that is another each time masked."""
    masks = [*((re.compile(re.escape(str(place))), "<place>") for place in places), *MASKS]

    def mask(text: str) -> str:
        return reduce(lambda found, one: one[0].sub(one[1], found), masks, text)

    return Ran(ran.code, mask(ran.masked.out), mask(ran.masked.err))


@dataclass
class Twins:
    """Two servers, and the command line that leads each."""

    worlds: tuple[World, World]
    clis: tuple[Callable[..., Ran], Callable[..., Ran]]
    differing: str
    """``cli`` or ``server``: in what the second differs."""

    def go(self, steps: Sequence[Step], names: Sequence[dict[str, str]] = ({}, {})) -> None:
        """Do the same with both."""
        for one in steps:
            ended = []
            for world, cli, known in zip(self.worlds, self.clis, names, strict=True):
                args = [known.get(arg, arg) for arg in one.args]
                ran = cli(*args, stdin=one.stdin)
                ended.append(compared(ran, world.server.folder, *known.values()))
            theirs, ours = ended
            if self.differing in one.own_words:
                assert (ours.code, ours.out, bool(ours.err)) == (theirs.code, theirs.out, bool(theirs.err)), one
            else:
                assert ours == theirs, one


@pytest.fixture(scope="module", params=["cli", "server"])
def twins(request: pytest.FixtureRequest) -> Iterator[Twins]:
    """SPIRE's own pair beside one in which the command line, or the server, is ours."""
    theirs = (spire_program("spire-server"),)
    ours = theirs if request.param == "cli" else STEEPLE_SERVER
    with ExitStack() as stack:
        settings = {"server": 'log_level = "DEBUG"', "key_manager": 'KeyManager "memory" { plugin_data {} }'}
        worlds = tuple(stack.enter_context(a_world(program=program, **settings)) for program in (theirs, ours))
        first, second = (world.server.socket_path for world in worlds)
        spire = theirs[0]
        other = server_cli("-socketPath", second) if request.param == "cli" else spire_cli(spire, "-socketPath", second)
        yield Twins(worlds, (spire_cli(spire, "-socketPath", first), other), request.param)


def test_health_tokens_and_levels(twins):
    twins.go(
        [
            step("healthcheck"),
            step("healthcheck -shallow --verbose"),
            step("healthcheck -verbose=maybe"),
            step("healthcheck -nope"),
            step("token generate"),
            step("token generate -spiffeID=spiffe://example.org/x --ttl=5"),
            step("token generate -output json"),
            step("token generate -output JSON"),
            step("token generate -output xml"),
            step("token generate -ttl 0"),
            step("token generate -ttl -5"),
            step("token generate -ttl abc"),
            step("token generate -ttl 99999999999"),
            step("token generate -ttl 99999999999999999999"),
            step("token generate ---x"),
            step("token generate -=x"),
            step("token generate -spiffeID foo", own_words="cli"),
            step("token generate -spiffeID spiffe://other.test/x"),
            step("logger get"),
            step("logger get -output json"),
            step("logger set"),
            step("logger set -level foo"),
            step("logger set -level WARNING"),
            step("logger set -level trace -output json"),
            step("logger set -level panic"),
            step("logger reset"),
        ]
    )


def test_bundles(twins):
    first = CA.replace("\n", "\r\n")
    twins.go(
        [
            step("bundle show"),
            step("bundle show -format spiffe"),
            step("bundle show -output json"),
            step("bundle show -format foo"),
            step("bundle list"),
            step("bundle list -output json"),
            step("bundle list -id nope.test"),
            step("bundle set"),
            step("bundle set -id other.test -path /no/such"),
            step("bundle set -id other.test -path /"),
            step("bundle set -id other.test", "foo"),
            step("bundle set -id other.test", CA.replace("CERTIFICATE", "FOO")),
            step("bundle set -id other.test -format spiffe", "{", own_words="cli"),
            step("bundle set -id b~d", CA, own_words="server"),
            step("bundle set -id example.org", CA),
            step("bundle set -id example.org -output json", CA),
            step("bundle set -id other.test", first),
            step("bundle set -id spiffe://third.test -output json", CA),
            step("bundle list"),
            step("bundle list -format spiffe"),
            step("bundle list -id other.test"),
            step("bundle list -id spiffe://other.test -format spiffe"),
            step("bundle list -output json"),
            step("bundle count"),
            step("bundle count -output json"),
            step("bundle delete"),
            step("bundle delete -id nope.test"),
            step("bundle delete -id nope.test -output json"),
            step("bundle delete -id other.test -mode foo"),
            step("bundle delete -id third.test -output json"),
            step("bundle delete -id other.test"),
            step("bundle count"),
        ]
    )


def test_entries(twins):
    several = ", ".join(RECORD % one for one in ((f"{W}8", P, "8", "e8"), (f"{W}1", P, "1", "again")))
    base = f"-parentID {P} -spiffeID {W}"
    twins.go(
        [
            step("bundle set -id fed.test", CA),
            step("entry create"),
            step("entry create -selector a:1"),
            step(f"entry create -selector a:1 -parentID {P}"),
            step(f"entry create -selector a {base}1"),
            step(f"entry create -selector a: {base}1"),
            step(f"entry create -selector :a {base}1"),
            step(f"entry create -selector a:1 -parentID foo -spiffeID {W}", own_words="cli"),
            step(f"entry create -selector a:1 {base} -x509SVIDTTL -1"),
            step(f"entry create -selector a:1 {base} -jwtSVIDTTL -1"),
            step(f"entry create -selector a:1 {base} -jwtSVIDTTL 99999999999"),
            step(f"entry create -selector a:1 -node -federatesWith fed.test -spiffeID {W}"),
            step(f"entry create -selector a:1 -node -spiffeID {W}n"),
            step(f"entry create -entryID e1 -selector a:1 {base}1"),
            step(f"entry create -entryID e1b -selector a:1 {base}1"),
            step(f"entry create -entryID e1b -selector a:1 {base}1 -output json"),
            step(f"entry create -entryID e1 -selector a:other {base}1", own_words="server"),
            step(f"entry create -entryID bad~id -selector a:1 {base}1x", own_words="server"),
            step(f"entry create -entryID e3 -selector a:3 {base}3 -storeSVID -output json"),
            step(f"entry create -entryID e4 -selector a:4 {base}4 -federatesWith nobody.test"),
            step(f"entry create -entryID e4 -selector a:4 {base}4 -dns b_d..x", own_words="server"),
            step(f"entry create -entryID e4 -selector a:4 -parentID {P} -spiffeID spiffe://foreign.test/w"),
            step(f"entry create -entryID e4 -selector a:4 -parentID spiffe://foreign.test/p -spiffeID {W}"),
            step(f'entry create -entryID e5 -selector a:ü☃ {base}5 -hint é"\\x'),
            step(
                f"entry create -entryID e2 -selector a:2 -selector a:b:c {base}2 -x509SVIDTTL 60 -jwtSVIDTTL 30 "
                "-dns a.test -dns b.test -admin -downstream -entryExpiry 4000000000 -hint h "
                "-federatesWith spiffe://fed.test -jwtSVIDIncludeJTI -disableX509SVIDPrefetch"
            ),
            step("entry create -data /no/such"),
            step("entry create -data /"),
            step("entry create -data -", "{", own_words="cli"),
            step("entry create -data -", '{"entries": {}}', own_words="cli"),
            step("entry create -data -", '{"entries": [{}]}', own_words="cli"),
            step("entry create -data -", '{"entries": null}'),
            step("entry create -data -", f'{{"entries": [{several}]}}'),
            step("entry show"),
            step("entry show -output json"),
            step("entry show -entryID e1"),
            step("entry show -entryID nope"),
            step(f"entry show -entryID e1 -spiffeID {W}"),
            step("entry show -downstream"),
            step(f"entry show -spiffeID {W}1"),
            step("entry show -parentID foo", own_words="cli"),
            step("entry show -parentID spiffe://foreign.test/p"),
            step("entry show -selector a:2 -selector a:b:c"),
            step("entry show -selector a:2 -selector a:1 -matchSelectorsOn any"),
            step("entry show -selector a:1 -selector x:y -matchSelectorsOn subset"),
            step("entry show -selector a:1 -matchSelectorsOn exact"),
            step("entry show -selector a:1 -matchSelectorsOn foo"),
            step("entry show -matchSelectorsOn foo"),
            step("entry show -federatesWith fed.test -matchFederatesWithOn exact"),
            step("entry show -hint h"),
            step("entry count"),
            step("entry count -output json"),
            step(f"entry count -spiffeID {W}1"),
            step("entry count -entryID x"),
            step("entry update"),
            step("entry update -entryID e1 -selector a:9"),
            step(f"entry update -entryID e1 -selector a:9 {base}9"),
            step(f"entry update -entryID e1 -selector a:9 {base}9 -jwtSVIDIncludeJTI -output json"),
            step(f"entry update -entryID e1 -selector a:9 {base}9 -disableX509SVIDPrefetch"),
            step(f"entry update -entryID nope -selector a:9 {base}9", own_words="server"),
            step(f"entry update -entryID nope -selector a:9 {base}9 -jwtSVIDIncludeJTI"),
            step("entry update -entryID e1 -node"),
            step("entry delete"),
            step("entry delete -entryID nope"),
            step("entry delete -entryID nope -output json"),
            step("entry delete -entryID e8"),
            step("entry delete -file -", "[", own_words="cli"),
            step("entry delete -file -", '{"ids": ["e1", "zz", "yy"]}'),
            step("entry delete -file -", '{"ids": ["e2", "e3"]}'),
            step("entry delete -file -", '{"ids": []}'),
        ]
    )


def test_minted_svids(twins):
    twins.go(
        [
            step("x509 mint"),
            step("x509 mint -spiffeID foo", own_words="cli"),
            step(f"x509 mint -spiffeID {W} -dns a.test"),
            step(f"x509 mint -spiffeID {W} -output json"),
            step(f"x509 mint -spiffeID {W} -ttl 100h"),
            step(f"x509 mint -spiffeID {W} -ttl 1ms"),
            step(f"x509 mint -spiffeID {W} -ttl 876000h", own_words="cli"),
            step(f"x509 mint -spiffeID {W} -ttl foo"),
            step(f"x509 mint -spiffeID {W} -dns b..", own_words="server"),
            step("x509 mint -spiffeID spiffe://other.test/w"),
            step("x509 mint -spiffeID spiffe://example.org/spire/x"),
            step(f"x509 mint -spiffeID {W} -write /no/such"),
            step("jwt mint"),
            step(f"jwt mint -spiffeID {W}"),
            step(f"jwt mint -spiffeID {W} -audience a"),
            step(f"jwt mint -spiffeID {W} -audience a -audience b -output json"),
            step(f"jwt mint -spiffeID {W} -audience a -ttl 100h"),
            step("jwt mint -spiffeID spiffe://other.test/w -audience a"),
            step(f"jwt mint -spiffeID {W} -audience a -write /no/such/token"),
        ]
    )


def test_files_of_minted_svids(twins, tmp_path: Path):
    for name, cli in zip(("theirs", "ours"), twins.clis, strict=True):
        (tmp_path / name).mkdir()
        assert cli("x509", "mint", "-spiffeID", W, "-write", str(tmp_path / name)).code == 0
        assert cli("jwt", "mint", "-spiffeID", W, "-audience", "a", "-write", str(tmp_path / name / "jwt")).code == 0
    found = [
        {path.name: path.stat().st_mode & 0o777 for path in sorted((tmp_path / name).iterdir())}
        for name in ("theirs", "ours")
    ]
    assert found[0].keys() == found[1].keys()
    assert found[1]["key.pem"] == found[0]["key.pem"] == 0o600


def test_agents(twins):
    async def join(world: World) -> str:
        async with world.server.node() as node, world.server.admin() as admin:
            return str((await attest(node, admin)).id)

    names = [{"AGENT": asyncio.run(join(world))} for world in twins.worlds]
    twins.go(
        [
            step("agent list"),
            step("agent list -output json"),
            step("agent list -attestationType join_token -canReattest false -banned false"),
            step("agent list -attestationType x"),
            step("agent list -canReattest foo"),
            step("agent list -selector a"),
            step("agent list -selector a:b"),
            step("agent list -selector a:b -matchSelectorsOn foo"),
            step("agent list -expiresBefore foo", own_words="cli"),
            step("agent list -expiresBefore 2020-01-02~15:04:05~+0000~UTC", own_words="cli"),
            step("agent list -expiresBefore 2020-01-02~15:04:05~+0000~+00"),
            step("agent count"),
            step("agent count -output json"),
            step("agent show"),
            step("agent show -spiffeID AGENT"),
            step("agent show -spiffeID AGENT -output json"),
            step("agent show -spiffeID foo", own_words="cli"),
            step("agent show -spiffeID spiffe://example.org/x"),
            step("agent show -spiffeID spiffe://other.test/spire/agent/x"),
            step("agent purge"),
            step("agent purge -output json"),
            step("agent purge -dryRun -expiredFor -100h"),
            step("agent purge -expiredFor 1"),
            step("agent ban"),
            step("agent ban -spiffeID AGENT"),
            step("agent list"),
            step("agent ban -spiffeID AGENT -output json"),
            step("agent evict -spiffeID AGENT"),
            step("agent evict -spiffeID AGENT"),
            step("agent list"),
            step("agent ban -spiffeID AGENT"),
        ],
        names,
    )


def test_what_the_server_knows_of_itself(twins):
    def known(cli: Callable[..., Ran]) -> object:
        document = json.loads(cli("debug", "getinfo", "-output", "json").out)
        return document.keys(), [cert["id"] for cert in document["svid_chain"]]

    theirs, ours = map(known, twins.clis)
    assert ours == theirs
    if twins.differing == "cli":
        twins.go([step("debug getinfo"), step("debug getinfo -nope")])


PLACES: Final = [
    step("token generate"),
    step("healthcheck -verbose"),
    step("token generate -instance a"),
    step("foo", own_words="cli"),
    step("entry", own_words="cli"),
    step("entry foo", own_words="cli"),
]


@pytest.mark.parametrize("ending", [["-socketPath", "/no/such.sock"], ["-socketPath", ""], ["-socketPath", "x/y"]])
def test_a_server_that_is_not_there(ending):
    theirs, ours = spire_cli(spire_program("spire-server"), *ending), server_cli(*ending)
    for one in PLACES:
        expected, found = compared(theirs(*one.args)), compared(ours(*one.args))
        assert found.code == expected.code
        if not one.own_words:
            assert found == expected, one


AGENT_STEPS: Final = [
    step("api fetch"),
    step("api fetch x509"),
    step("api fetch -silent"),
    step("api fetch -output json"),
    step("api fetch -write /no/such"),
    step("api fetch jwt"),
    step("api fetch jwt -audience a -spiffeID spiffe://example.org/web"),
    step("api fetch jwt -audience a,b -output json"),
    step("api fetch jwt -audience a -format json"),
    step("api fetch jwt -audience a -spiffeID spiffe://example.org/nope"),
    step("api fetch jwt -audience a -spiffeID foo"),
    step("api validate jwt"),
    step("api validate jwt -audience a"),
    step("api validate jwt -audience a -svid foo"),
    step("api validate jwt -audience a -svid TOKEN"),
    step("api validate jwt -audience c -svid TOKEN"),
    step("api validate jwt -audience a -svid TOKEN -output json"),
    step("healthcheck"),
    step("healthcheck -verbose"),
]
ADMIN_STEPS: Final = [
    step("logger get"),
    step("logger set"),
    step("logger set -level foo"),
    step("logger set -level warn"),
    step("logger reset -output json"),
    step("debug getinfo"),
    step("debug getinfo -output json"),
]


@pytest.mark.parametrize("make", ["spire", "steeple"])
def test_commands_of_agents(make):
    spire = spire_program("spire-agent")
    server = (spire_program("spire-server"),) if make == "spire" else STEEPLE_SERVER
    program = (spire,) if make == "spire" else STEEPLE_AGENT
    with a_world(program=server) as world:
        agent = world.agent(program=program)
        world.entry(f"spiffe://example.org/spire/agent/join_token/oracle-{make}", "/web", hint="h")
        agent.start(world.join_token(f"oracle-{make}"))
        patiently(agent.fetch_x509)
        token = agent.fetch_jwt("a").svids[0].svid
        for socket, steps in ((agent.socket_path, AGENT_STEPS), (agent.admin_socket_path, ADMIN_STEPS)):
            theirs, ours = spire_cli(spire, "-socketPath", socket), agent_cli("-socketPath", socket)
            for one in steps:
                args = [token if arg == "TOKEN" else arg for arg in one.args]
                expected, found = compared(theirs(*args)), compared(ours(*args))
                assert found == expected, one
