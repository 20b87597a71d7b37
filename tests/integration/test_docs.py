"""The documentation holds: its configuration is read, its links lead somewhere, its quickstart works."""

import re
from pathlib import Path

import pytest

from agent.config import PLUGIN_TYPES as AGENT_PLUGINS
from agent.config import agent_config
from server.config import PLUGIN_TYPES as SERVER_PLUGINS
from server.config import server_config
from spiffe_core.runtime.config import Block, check_plugin_data

ROOT = Path(__file__).parents[2]
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in sorted(
        [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "softhsm-setup").glob("*.md")],
    )
]
GROUP = {'KeyManager "pkcs11"': {"authority_group": "example.org"}}

SERVER = """
server { trust_domain = "example.org" data_dir = "/data" }
plugins { %s }
"""
AGENT = """
agent { trust_domain = "example.org" data_dir = "/data" server_address = "::1" server_port = 8081
        trust_bundle_path = "/bundle" }
plugins { %s }
"""
OTHER_SERVER_PLUGINS = {
    "DataStore": 'DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "/db" } }',
    "KeyManager": 'KeyManager "memory" {}',
}
OTHER_AGENT_PLUGINS = {
    "KeyManager": 'KeyManager "memory" {}',
    "NodeAttestor": 'NodeAttestor "join_token" {}',
    "WorkloadAttestor": 'WorkloadAttestor "unix" {}',
}


def blocks(page, language):
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def samples():
    return [
        pytest.param(text, id=f"{page}-{number}")
        for page in PAGES
        for number, text in enumerate(blocks(page, "hcl"), start=1)
    ]


def whole_files(sample):
    """The sample as a server's file, an agent's, or both: what is missing around it is added."""
    kind = sample.split()[0]
    if kind == "server":
        return [(server_config, SERVER_PLUGINS, sample)]
    if kind == "agent":
        return [(agent_config, AGENT_PLUGINS, sample)]
    if kind in {"telemetry", "health_checks"}:
        return [
            (server_config, SERVER_PLUGINS, SERVER % " ".join(OTHER_SERVER_PLUGINS.values()) + sample),
            (agent_config, AGENT_PLUGINS, AGENT % " ".join(OTHER_AGENT_PLUGINS.values()) + sample),
        ]
    found = []
    for read, types, around, others in (
        (server_config, SERVER_PLUGINS, SERVER, OTHER_SERVER_PLUGINS),
        (agent_config, AGENT_PLUGINS, AGENT, OTHER_AGENT_PLUGINS),
    ):
        if kind in {one.name for one in types if one.built_in}:
            rest = [text for name, text in others.items() if name != kind]
            found.append((read, types, around % "\n".join([*rest, sample])))
    return found


@pytest.mark.parametrize("sample", samples())
def test_a_sample_of_a_configuration_is_read_without_a_warning(sample):
    files = whole_files(sample)
    assert files
    for read, types, text in files:
        config = read(Block.parse(text))
        check_plugin_data(config.plugins, types, GROUP)
        assert config.warnings == ()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles], target


def test_every_page_can_be_found_from_the_index():
    seen, waiting = set(), ["docs/README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or not (ROOT / page).exists():
            continue
        seen.add(page)
        waiting += [
            ((ROOT / page).parent / target).resolve().relative_to(ROOT).as_posix()
            for target in re.findall(r"\]\(([^)\s#:]+\.md)", (ROOT / page).read_text())
        ]
    # The folder of decisions is its own index.
    assert {page for page in PAGES if not page.startswith("docs/adr/")} <= seen
