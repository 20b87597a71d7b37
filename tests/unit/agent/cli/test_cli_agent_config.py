"""``run`` and ``validate`` of the agent: what they say of a configuration file, before anything is started."""

from pathlib import Path

import pytest

from tests.support.cli_runs import Ran, agent_cli

VALID = Ran(0, "SPIRE agent configuration file is valid.\n")
PLUGINS = 'plugins { NodeAttestor "join_token" {} KeyManager "memory" {} WorkloadAttestor "unix" {} }'
NEEDED = 'trust_domain = "example.org" server_address = "localhost" server_port = 8081'
SECRET = "7f6d-a-secret"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "agent.conf"


def validate(file: Path, agent: str = "insecure_bootstrap = true", plugins: str = PLUGINS, *flags: object) -> Ran:
    """Validate a file with these settings."""
    file.write_text(f"agent {{ {NEEDED} {agent} }} {plugins}")
    return agent_cli()("validate", "-config", file, *flags)


def test_a_valid_file_is_called_so(file):
    assert validate(file) == VALID


def test_warnings_go_to_standard_error(file):
    ran = validate(file, "insecure_bootstrap = true sds { default_svid_name = 1 }")
    warning = "Warning: agent.sds has no effect: Envoy's SDS API is not served by this version\n"
    assert ran == Ran(0, VALID.out, warning)


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("insecure_bootstrap = 1", "agent.insecure_bootstrap: must be true or false (line 1)"),
        (
            "",
            "agent: trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must be configured unless "
            "insecure_bootstrap is set",
        ),
        (
            f'insecure_bootstrap = true join_token = "{SECRET}" join_token_file = "x"',
            "agent: only one of join_token or join_token_file can be specified, not both",
        ),
        (f'insecure_bootstrap = true join_token = ["{SECRET}"]', "agent.join_token: is malformed (line 1)"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_by_both_commands(file, agent, message):
    assert validate(file, agent) == Ran(1, err=f"SPIRE agent configuration file is invalid: {message}\n")
    assert agent_cli()("run", "-config", file) == Ran(1, err=f"{message}\n")


def test_data_of_plugins_are_looked_at(file):
    plugins = PLUGINS.replace('"unix" {}', '"unix" { plugin_data { discover = true } }')
    ran = validate(file, "insecure_bootstrap = true", plugins)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(
        'SPIRE agent configuration file is invalid: plugins.WorkloadAttestor "unix": '
        "plugins.WorkloadAttestor.unix.plugin_data.discover: unknown configuration detected (line 1)"
    )
    assert agent_cli()("run", "-config", file).code == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = f"could not find config file {tmp_path}/conf/agent/agent.conf: please use the -config flag\n"
    assert agent_cli()("validate") == Ran(1, err=f"SPIRE agent configuration file is invalid: {missing}")
    assert agent_cli()("run") == Ran(1, err=missing)


def test_a_join_token_comes_by_flag_or_by_file(file, tmp_path: Path):
    (tmp_path / "token").write_text(SECRET)
    insecure = "insecure_bootstrap = true"
    assert validate(file, insecure, PLUGINS, "-joinToken", SECRET) == VALID
    assert validate(file, insecure, PLUGINS, "-joinTokenFile", tmp_path / "token") == VALID
    ran = validate(file, insecure, PLUGINS, "-joinTokenFile", tmp_path / "no")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.endswith("no such file or directory\n")
    both = validate(file, insecure, PLUGINS, "-joinToken", SECRET, "-joinTokenFile", tmp_path / "token")
    assert both.err.endswith("only one of join_token or join_token_file can be specified, not both\n")
    assert SECRET not in both.err


@pytest.mark.parametrize(
    "flags",
    [
        ["-insecureBootstrap"],
        ["-trustBundle", "/x"],
        ["-trustBundleUrl", "https://x"],
        ["-trustBundle=/x", "-trustBundleFormat", "spiffe", "-rebootstrapMode", "auto", "-rebootstrapDelay", "5m"],
        ["--insecure-bootstrap", "--allow-unauthenticated-verifiers", "--disable-workload-api", "--disable-sds-api"],
        ["-insecureBootstrap", "-serverAddress", "::1", "-serverPort", "1", "-socketPath", "☃", "-dataDir", "x"],
    ],
    ids=["insecure", "file", "url", "rebootstrap", "dashes", "others"],
)
def test_flags_say_what_the_file_does_not(file, flags):
    assert validate(file, "", PLUGINS, *flags) == VALID
    assert validate(file, "", PLUGINS, "-insecureBootstrap=false").code == 1


def test_variables_are_expanded_only_if_asked_for(file, monkeypatch):
    monkeypatch.setenv("STEEPLE_TEST_URL", "https://x")
    agent = 'trust_bundle_url = "$STEEPLE_TEST_URL"'
    assert validate(file, agent).code == 1
    assert validate(file, agent, PLUGINS, "-expandEnv") == VALID
