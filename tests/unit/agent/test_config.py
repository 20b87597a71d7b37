"""An agent's configuration: SPIRE's files, their rules, and what is refused by name."""

from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import (
    PLUGIN_TYPES,
    AgentConfig,
    BundleFormat,
    Experimental,
    RateLimit,
    RebootstrapMode,
    WorkloadKeyType,
    agent_config,
    load_agent_config,
)
from spiffe_core.errors import InvalidConfig
from spiffe_core.ids import TrustDomain
from spiffe_core.runtime.config import Block, InvalidPlugins, check_plugin_data
from spiffe_core.runtime.levels import Level
from spiffe_core.runtime.settings import HealthChecks, LogFormat
from tests.support.needs import unprivileged
from tests.support.refusals import refusal

PLUGINS = 'plugins { NodeAttestor "join_token" {} KeyManager "memory" {} WorkloadAttestor "unix" {} }'
NEEDED = 'server_address = "localhost" server_port = 8081 trust_domain = "example.org" '
INSECURE = "insecure_bootstrap = true "
BUNDLE = 'trust_bundle_path = "/b.pem" '


def config(
    agent: str = "", rest: str = PLUGINS, *, trust: str = INSECURE, **overrides: str | int | bool
) -> AgentConfig:
    return agent_config(Block.parse(f"agent {{ {NEEDED} {trust} {agent} }} {rest}"), overrides)


def test_a_short_file_has_spires_defaults():
    found = config()
    assert (found.server_address, found.server_port) == ("localhost", 8081)
    assert found.trust_domain == TrustDomain("example.org")
    assert found.data_dir == Path()
    assert found.socket_path == Path("/tmp/spire-agent/public/api.sock")
    assert found.admin_socket_path is None
    assert (found.join_token, found.join_token_file) == ("", None)
    assert found.trust_bundle_format is BundleFormat.PEM
    assert found.rebootstrap_mode is RebootstrapMode.NEVER
    assert (found.log_level, found.log_format, found.log_file) == (Level.INFO, LogFormat.TEXT, None)
    assert found.workload_x509_svid_key_type is WorkloadKeyType.EC_P256
    assert (found.x509_svid_cache_max_size, found.jwt_svid_cache_max_size) == (1000, 1000)
    assert found.experimental == Experimental(sync_interval=timedelta(seconds=5), ratelimit=RateLimit())
    assert found.health_checks == HealthChecks()
    assert (found.key_manager.name, found.node_attestor.name) == ("memory", "join_token")
    assert [plugin.name for plugin in found.plugins_of("WorkloadAttestor")] == ["unix"]
    assert found.warnings == ()


def test_every_key_is_read():
    found = config(
        """
        data_dir = "/data" socket_path = "/run/public/api.sock" admin_socket_path = "/run/private/admin.sock"
        join_token = "secret" trust_bundle_url = "https://example.org/bundle" trust_bundle_format = "spiffe"
        rebootstrap_mode = "auto" rebootstrap_delay = "1m" allow_unauthenticated_verifiers = true
        allowed_foreign_jwt_claims = ["scope"] availability_target = "48h" disable_workload_api = true
        disable_sds_api = true log_file = "log" log_format = "JSON" log_level = "WARN" log_selectors = ["unix:user"]
        log_source_location = true workload_x509_svid_key_type = "rsa-2048" x509_svid_cache_max_size = "5"
        jwt_svid_cache_max_size = 6
        experimental {
            sync_interval = "1s" jwt_svid_cache_hit_timeout = "10s"
            ratelimit { fetch_x509_svid = 1 fetch_jwt_svid = 2 fetch_x509_bundles = 3 fetch_jwt_bundles = 4 }
        }
        """,
        PLUGINS + 'telemetry { Prometheus { port = 9988 } } health_checks { listener_enabled = true bind_port = "81" }',
        trust="",
    )
    assert found.admin_socket_path == Path("/run/private/admin.sock")
    assert (found.join_token, found.trust_bundle_url) == ("secret", "https://example.org/bundle")
    assert found.trust_bundle_format is BundleFormat.SPIFFE
    assert (found.rebootstrap_mode, found.rebootstrap_delay) == (RebootstrapMode.AUTO, timedelta(minutes=1))
    assert found.allow_unauthenticated_verifiers
    assert found.allowed_foreign_jwt_claims == ("scope",)
    assert found.availability_target == timedelta(hours=48)
    assert (found.disable_workload_api, found.disable_sds_api) == (True, True)
    assert (found.log_format, found.log_level, found.log_selectors) == (LogFormat.JSON, Level.WARN, ("unix:user",))
    assert found.workload_x509_svid_key_type is WorkloadKeyType.RSA_2048
    assert (found.x509_svid_cache_max_size, found.jwt_svid_cache_max_size) == (5, 6)
    assert found.experimental == Experimental(
        sync_interval=timedelta(seconds=1),
        jwt_svid_cache_hit_timeout=timedelta(seconds=10),
        ratelimit=RateLimit(fetch_x509_svid=1, fetch_jwt_svid=2, fetch_x509_bundles=3, fetch_jwt_bundles=4),
    )
    assert found.telemetry.prometheus is not None
    assert found.health_checks.bind_port == 81
    assert found.warnings == ()


def test_the_join_token_is_in_no_text_of_the_configuration():
    assert "secret" not in repr(config('join_token = "secret"'))


def test_flags_win_over_the_file_and_count_without_it():
    found = config('log_level = "ERROR" join_token = "a"', log_level="debug", server_port=1234, join_token="b")
    assert (found.log_level, found.server_port, found.join_token) == (Level.DEBUG, 1234, "b")
    flags = {"server_address": "h", "server_port": 1, "trust_domain": "a.test", "insecure_bootstrap": True}
    alone = agent_config(Block.parse(PLUGINS), flags)
    assert (alone.server_address, alone.trust_domain) == ("h", TrustDomain("a.test"))


SEED = """
agent {
    data_dir = "/var/lib/spire/data"
    log_level = "DEBUG"
    server_address = "${UPSTREAM_SPIRE_ADDR}"
    server_port = "8081"
    socket_path ="/tmp/agent.sock"
    # the bundle of the upstream
    trust_bundle_path = "/etc/spire/dummy_upstream_ca.crt"
    trust_domain = "example.org"
    join_token = "${JOIN_TOKEN}"
}

plugins {
    NodeAttestor "join_token" {
        plugin_data {
        }
    }
    KeyManager "disk" {
        plugin_data {
            directory = "/var/lib/spire/data/key"
        }
    }
    WorkloadAttestor "unix" {
        plugin_data {
        }
    }
}
"""


def test_a_file_from_the_field_is_taken_with_its_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("UPSTREAM_SPIRE_ADDR", "10.0.0.1")
    monkeypatch.setenv("JOIN_TOKEN", "secret")
    (tmp_path / "agent.conf").write_text(SEED)
    found = load_agent_config(tmp_path / "agent.conf", expand_env=True)
    assert (found.server_address, found.server_port, found.join_token) == ("10.0.0.1", 8081, "secret")
    assert found.key_manager.name == "disk"
    assert found.warnings == ()
    check_plugin_data(found.plugins, PLUGIN_TYPES)
    assert load_agent_config(tmp_path / "agent.conf").join_token == "${JOIN_TOKEN}"


def test_the_sample_file_is_valid():
    found = load_agent_config("conf/agent/agent.conf")
    assert found.warnings == ()
    check_plugin_data(found.plugins, PLUGIN_TYPES)


# -- the join token's file ---------------------------------------------------------------------------------


def test_a_join_token_is_read_from_its_file(tmp_path):
    (tmp_path / "token").write_text("  secret\n")
    found = config(f'join_token_file = "{tmp_path}/token"')
    assert (found.join_token, found.join_token_file) == ("secret", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no", 'unable to read join token file "{0}/no": open {0}/no: no such file or directory'),
        ("", 'unable to read join token file "{0}": read {0}: is a directory'),
        ("empty", "join token file is empty"),
        ("bytes", '"{0}/bytes" is no UTF-8 text'),
    ],
    ids=["no file", "folder", "empty", "bytes"],
)
def test_a_join_token_file_that_holds_none_is_refused(tmp_path, name, message):
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(InvalidConfig) as caught:
        config(f'join_token_file = "{tmp_path / name}"')
    assert str(caught.value) == f"agent.join_token_file: {message.format(tmp_path)}"


@unprivileged
def test_a_join_token_file_that_may_not_be_read_is_told_as_such(tmp_path):
    (tmp_path / "token").touch(mode=0)
    with pytest.raises(InvalidConfig, match="permission denied"):
        config(f'join_token_file = "{tmp_path}/token"')


# -- where the first trust comes from ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "trust",
    [
        INSECURE,
        BUNDLE,
        'trust_bundle_url = "https://example.org/bundle"',
        'trust_bundle_url = "http://localhost/bundle?a=b" trust_bundle_unix_socket = "/run/bundle.sock"',
        'trust_bundle_spiffe_workload_api = "unix:///run/spire/agent.sock"',
        'trust_bundle_spiffe_workload_api = "unix:run/agent.sock"',
        'trust_bundle_spiffe_workload_api = "tcp://127.0.0.1:8000"',
        "insecure_bootstrap = false " + BUNDLE,
    ],
)
def test_there_is_one_source_of_the_first_trust(trust):
    assert config(trust=trust).trust_domain == TrustDomain("example.org")


@pytest.mark.parametrize(
    ("trust", "message"),
    [
        (
            "",
            "trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must be configured unless "
            "insecure_bootstrap is set",
        ),
        (INSECURE + BUNDLE, "only one of insecure_bootstrap or trust_bundle_path can be specified"),
        (
            BUNDLE + 'trust_bundle_url = "https://x"',
            "only one of trust_bundle_path or trust_bundle_url can be specified",
        ),
        (
            BUNDLE + 'trust_bundle_unix_socket = "/x"',
            "if trust_bundle_unix_socket is specified, so must be trust_bundle_url",
        ),
        ('trust_bundle_url = "http://x"', "trust_bundle_url: trust bundle URL must start with https://"),
        ('trust_bundle_url = "x"', "trust_bundle_url: trust bundle URL must start with https://"),
        (
            'trust_bundle_url = "https://x" trust_bundle_unix_socket = "/x"',
            "trust_bundle_url: trust bundle URL must start with http:// when used with trust bundle unix socket",
        ),
        (
            'trust_bundle_url = "http://x?spire-a=1" trust_bundle_unix_socket = "/x"',
            "trust_bundle_url: query params can not start with spire-",
        ),
        ('trust_bundle_spiffe_workload_api = "tcp://host:1"', "trust_bundle_spiffe_workload_api: not tcp://IP:PORT"),
        ('trust_bundle_spiffe_workload_api = "tcp://127.0.0.1"', "trust_bundle_spiffe_workload_api: not tcp://IP:PORT"),
        (
            'trust_bundle_spiffe_workload_api = "/run/agent.sock"',
            "trust_bundle_spiffe_workload_api: not a SPIFFE Workload API endpoint address, such as "
            "unix:///run/spire/agent.sock",
        ),
        (
            INSECURE + 'join_token = "secret" join_token_file = "/x"',
            "only one of join_token or join_token_file can be specified, not both",
        ),
        (
            INSECURE + 'rebootstrap_mode = "always"',
            "insecure_bootstrap option can not be used with rebootstrapping",
        ),
    ],
)
def test_no_other_first_trust_is_taken(trust, message):
    with pytest.raises(InvalidConfig) as caught:
        config(trust=trust)
    text = str(caught.value)
    assert text in {f"agent.{message}", f"agent: {message}"}
    assert "secret" not in text


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["server_address", "server_port", "trust_domain"])
def test_what_has_no_default_must_be_there(key):
    needed = {"server_address": '"localhost"', "server_port": "8081", "trust_domain": '"example.org"'}
    text = " ".join(f"{name} = {value}" for name, value in needed.items() if name != key)
    with pytest.raises(InvalidConfig) as caught:
        agent_config(Block.parse(f"agent {{ {text} {INSECURE} }} {PLUGINS}"))
    assert str(caught.value) == f"agent.{key} must be configured"


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("sokcet_path = 1", "sokcet_path: unknown configuration detected (line 1); did you mean socket_path?"),
        ("server_port = 99999", "server_port: 99999 is no port; must be 1 to 65535"),
        ('server_port = "x"', 'server_port: "x" is no whole number (line 1)'),
        ('trust_domain = "A"', "trust_domain: trust domain 'A' is invalid"),
        ('log_level = "LOUD"', 'log_level: not a valid logrus Level: "LOUD" (line 1)'),
        ('trust_bundle_format = "der"', 'trust_bundle_format: "der" is unknown; must be one of [pem spiffe] (line 1)'),
        ('rebootstrap_mode = "x"', 'rebootstrap_mode: "x" is unknown; must be one of [never auto always] (line 1)'),
        (
            'workload_x509_svid_key_type = "rsa-4096"',
            'workload_x509_svid_key_type: "rsa-4096" is unknown; must be one of [ec-p256 ec-p384 rsa-2048] (line 1)',
        ),
        ('availability_target = "23h"', "availability_target: must be at least 24h0m0s"),
        ("x509_svid_cache_max_size = -1", "x509_svid_cache_max_size: should not be negative"),
        ("jwt_svid_cache_max_size = -1", "jwt_svid_cache_max_size: should not be negative"),
        ('experimental { sync_interval = "0s" }', "experimental.sync_interval: must be more than zero"),
        (
            'experimental { jwt_svid_cache_hit_timeout = "31s" }',
            "experimental.jwt_svid_cache_hit_timeout: must be from 5s to 30s",
        ),
        (
            "experimental { ratelimit { fetch_jwt_svid = -1 } }",
            "experimental.ratelimit.fetch_jwt_svid: must not be negative",
        ),
        (
            "experimental { ratelimit { fetch = 1 } }",
            "experimental.ratelimit.fetch: unknown configuration detected (line 1)",
        ),
        (
            'experimental { broker { socket_path = "x" } }',
            "experimental.broker: the SPIFFE Broker API is not supported by this version (line 1)",
        ),
        (
            'experimental { admin_named_pipe_name = "x" }',
            "experimental.admin_named_pipe_name: admin_named_pipe_name is not supported in this platform; "
            "please use admin_socket_path instead (line 1)",
        ),
    ],
)
def test_what_is_wrong_or_missing_here_is_refused_by_name(agent, message):
    with pytest.raises(InvalidConfig) as caught:
        config(agent)
    assert str(caught.value).startswith(f"agent.{message}")


SAME_FOLDER = (
    "agent.admin_socket_path: admin socket cannot be in the same directory or a subdirectory as that containing the "
    "Workload API socket"
)


@pytest.mark.parametrize(
    ("admin", "allowed"),
    [
        ("/run/admin/a.sock", True),
        ("/run/a.sock", True),
        ("/run/public/../a.sock", True),
        ("/run/publicity/a.sock", True),
        ("/run/public/a.sock", False),
        ("/run/public/b/a.sock", False),
        ("/run/./public/a.sock", False),
        ("/run/x/../public/a.sock", False),
    ],
)
def test_workloads_cannot_reach_the_folder_of_the_admin_socket(admin, allowed):
    keys = f'socket_path = "/run/public/api.sock" admin_socket_path = "{admin}"'
    refused = refusal(config, keys)
    assert str(refused) == (str(None) if allowed else SAME_FOLDER)
    assert refusal(config, f"{keys} disable_workload_api = true disable_sds_api = true") is None


@pytest.mark.parametrize(
    ("agent", "warning"),
    [
        ("profiling_enabled = true", "agent.profiling_enabled has no effect: there is no profiling endpoint"),
        (
            'sds { default_svid_name = "x" }',
            "agent.sds has no effect: Envoy's SDS API is not served by this version",
        ),
        (
            "experimental { use_sync_authorized_entries = true }",
            "agent.experimental.use_sync_authorized_entries has no effect: "
            "entries are always synchronised with SyncAuthorizedEntries",
        ),
        (
            "experimental { ratelimit { fetch_secrets = 5 } }",
            "agent.experimental.ratelimit.fetch_secrets has no effect: Envoy's SDS API is not served by this version",
        ),
    ],
)
def test_what_the_operator_should_know_is_a_warning(agent, warning):
    assert config(agent).warnings == (warning,)


@pytest.mark.parametrize(
    ("plugins", "notes"),
    [
        (
            "",
            {
                "KeyManager": ["constraint not satisfied: expected exactly 1 but got 0"],
                "NodeAttestor": ["constraint not satisfied: expected exactly 1 but got 0"],
                "WorkloadAttestor": ["constraint not satisfied: expected at least 1 but got 0"],
            },
        ),
        (
            'NodeAttestor "sshpop" {} KeyManager "memory" {} WorkloadAttestor "unix" {} SVIDStore "aws" {}',
            {
                'NodeAttestor "sshpop"': ['NodeAttestor "sshpop" is not built in (built in: join_token)'],
                'SVIDStore "aws"': ['SVIDStore "aws" is not built in (built in: none)'],
            },
        ),
        (
            'NodeAttestor "join_token" {} KeyManager "memory" {} WorkloadAttestor "unix" {} DataStore "sql" {}',
            {"DataStore": ['unsupported plugin type "DataStore"']},
        ),
    ],
    ids=["none", "foreign", "of servers"],
)
def test_plugins_that_are_not_here_are_refused_by_name(plugins, notes):
    with pytest.raises(InvalidPlugins) as caught:
        config(rest=f"plugins {{ {plugins} }}")
    assert caught.value.notes == notes


def test_a_file_without_plugins_is_refused():
    with pytest.raises(InvalidConfig, match=r"^plugins section must be configured$"):
        config(rest="")


def test_the_dataclass_of_every_built_in_plugin_exists():
    for kind in PLUGIN_TYPES:
        for where in filter(None, kind.built_in.values()):
            module, _, name = where.partition(":")
            assert isinstance(getattr(import_module(module), name), type)


@given(st.lists(st.sampled_from(SEED.split()), max_size=30).map(" ".join))
def test_any_file_is_read_or_refused(text):
    def read(text: str) -> object:
        return agent_config(Block.parse(text))

    refused = refusal(read, text)
    assert refused is not None
    assert str(refused)
