"""A server's configuration: SPIRE's files, their rules, and what is refused by name."""

from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_ca.policy import CaSubject
from keymanagers.base import KeyType
from server.config import (
    PLUGIN_TYPES,
    CaSubjectBlock,
    Experimental,
    RateLimit,
    ServerConfig,
    load_server_config,
    server_config,
)
from spiffe_core.errors import InvalidConfig
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.config import Block, InvalidPlugins, check_plugin_data
from spiffe_core.runtime.levels import Level
from spiffe_core.runtime.settings import HealthChecks, LogFormat, Prometheus
from tests.support.refusals import refusal

PLUGINS = 'plugins { DataStore "sql" {} KeyManager "memory" {} }'


def config(server: str = "", rest: str = PLUGINS, **overrides: str | int | bool) -> ServerConfig:
    text = f'server {{ trust_domain = "example.org" data_dir = "/data" {server} }} {rest}'
    return server_config(Block.parse(text), overrides)


def test_a_short_file_has_spires_defaults():
    found = config()
    assert found.trust_domain == TrustDomain("example.org")
    assert found.data_dir == Path("/data")
    assert (found.bind_address, found.bind_port) == ("0.0.0.0", 8081)
    assert found.socket_path == Path("/tmp/spire-server/private/api.sock")
    assert found.registration_uds_path is None
    assert (found.ca_ttl, found.x509_svid_ttl, found.default_jwt_svid_ttl, found.agent_ttl) == (
        timedelta(hours=24),
        timedelta(hours=1),
        timedelta(minutes=5),
        None,
    )
    assert (found.ca_key_type, found.jwt_key_type) == (KeyType.EC_P256, None)
    assert (found.log_level, found.log_format, found.log_file) == (Level.INFO, LogFormat.TEXT, None)
    assert (found.ratelimit.attestation, found.ratelimit.signing) == (True, True)
    assert found.max_attested_node_info_staleness == timedelta()
    assert found.prune_attested_nodes_batch_size == 1000
    assert found.health_checks == HealthChecks(bind_address="localhost", bind_port=80, live_path="/live")
    assert found.telemetry.prometheus is None
    assert found.workers == 1
    assert found.warnings == ()
    assert found.ca_policy.ca_subject == CaSubject(country=("US",), organization=("SPIFFE",))


def test_every_key_is_read():
    found = config(
        """
        bind_address = "127.0.0.1" bind_port = "8443" socket_path = "./api.sock" admin_ids = ["spiffe://example.org/adm"]
        agent_ttl = "2h" audit_log_enabled = true ca_key_type = "rsa-2048" jwt_key_type = "ec-p384" ca_ttl = "48h"
        ca_subject { country = ["DE"], organization = ["O"], common_name = "n" }
        default_x509_svid_ttl = "30m" default_jwt_svid_ttl = "1m" disable_jwt_svids = true jwt_issuer = "me"
        log_file = "log" log_format = "JSON" log_level = "WARN" log_source_location = true
        max_attested_node_info_staleness = "5s" prune_attested_nodes_expired_for = "720h"
        prune_attested_nodes_batch_size = 5 prune_tofu_nodes = true ratelimit { attestation = false signing = false }
        experimental {
            agent_spiffe_id_as_selector = true cache_reload_interval = "1s" full_cache_reload_interval = "2s"
            prune_events_older_than = "3s" event_timeout = "4s"
        }
        workers = 3 max_lanes = 4 lane_deadline = "5s" max_connections = 6 go_on_without_lost_keys = true
        """,
        PLUGINS
        + """
        telemetry { Prometheus { host = "h" port = 9988 } MetricPrefix = "p" EnableTrustDomainLabel = true }
        health_checks { listener_enabled = true bind_address = "0.0.0.0" bind_port = "8080" }
        """,
    )
    assert found.admin_ids == (SpiffeId.parse("spiffe://example.org/adm"),)
    assert found.ca_subject == CaSubjectBlock(country=("DE",), organization=("O",), common_name="n")
    assert (found.log_format, found.log_level) == (LogFormat.JSON, Level.WARN)
    assert found.ratelimit == RateLimit(attestation=False, signing=False)
    assert found.experimental == Experimental(
        agent_spiffe_id_as_selector=True,
        cache_reload_interval=timedelta(seconds=1),
        full_cache_reload_interval=timedelta(seconds=2),
        prune_events_older_than=timedelta(seconds=3),
        event_timeout=timedelta(seconds=4),
    )
    assert found.experimental.wait_for_events == timedelta(seconds=4)
    assert found.telemetry.prometheus == Prometheus(host="h", port=9988)
    assert (found.telemetry.metric_prefix, found.telemetry.enable_trust_domain_label) == ("p", True)
    assert found.health_checks.bind_port == 8080
    assert (found.workers, found.max_lanes, found.lane_deadline, found.max_connections) == (
        3,
        4,
        timedelta(seconds=5),
        6,
    )
    policy = found.ca_policy
    assert (policy.ca_key_type, policy.jwt_key_type, policy.ca_ttl) == (
        KeyType.RSA_2048,
        KeyType.EC_P384,
        timedelta(hours=48),
    )
    assert policy.ca_subject == CaSubject(country=("DE",), organization=("O",), common_name="n")
    assert (policy.x509_svid_ttl, policy.jwt_svid_ttl, policy.agent_ttl) == (
        timedelta(minutes=30),
        timedelta(minutes=1),
        timedelta(hours=2),
    )
    assert (policy.jwt_issuer, policy.jwt_svids_disabled, policy.go_on_without_lost_keys) == ("me", True, True)


def test_a_subject_of_a_common_name_alone_has_no_country():
    assert config('ca_subject { common_name = "n" }').ca_policy.ca_subject == CaSubject(
        country=(), organization=(), common_name="n"
    )


@pytest.mark.parametrize("port", ["8081", '"8081"', '"0x1F91"', "0", '""'])
def test_a_port_may_be_written_in_several_ways(port):
    assert config(f"bind_port = {port}").bind_port == 8081


def test_flags_win_over_the_file_and_count_without_it():
    found = config('log_level = "ERROR"', log_level="debug", bind_port=1234, trust_domain="other.org")
    assert (found.log_level, found.bind_port, found.trust_domain) == (Level.DEBUG, 1234, TrustDomain("other.org"))
    alone = server_config(Block.parse(PLUGINS), {"trust_domain": "example.org", "data_dir": "."})
    assert alone.data_dir == Path()


OLD = """
server {
    bind_address = "0.0.0.0"
    bind_port = "8081"
    registration_uds_path = "/tmp/spire-registration.sock"
    trust_domain = "example.org"
    data_dir = "/var/lib/spire/data"
    log_level = "DEBUG"
    default_svid_ttl = "2h"
    ca_subject = {
        country = ["US"]
        organization = ["SPIFFE"]
        common_name = ""
    }
}

plugins {
    DataStore "sql" {
        plugin_data {
            database_type = "sqlite3"
            connection_string = "${DATA}/datastore.sqlite3",
        }
    }
    NodeAttestor "join_token" {
        plugin_data {
        }
    }
    NodeResolver "noop" {
        plugin_data {}
    }
    KeyManager "memory" {
        plugin_data = {}
    }
}
"""


def test_a_file_of_former_times_is_taken_with_warnings(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", "/d")
    (tmp_path / "server.conf").write_text(OLD)
    found = load_server_config(tmp_path / "server.conf", expand_env=True)
    assert found.registration_uds_path == Path("/tmp/spire-registration.sock")
    assert found.x509_svid_ttl == timedelta(hours=2)
    assert [plugin.title for plugin in found.plugins] == [
        'DataStore "sql"',
        'NodeAttestor "join_token"',
        'KeyManager "memory"',
    ]
    assert found.datastore.data.items[1].value == "/d/datastore.sqlite3"
    assert found.warnings == (
        "server.registration_uds_path is deprecated: use socket_path instead; the API is served at both",
        "server.default_svid_ttl is deprecated: use default_x509_svid_ttl instead",
        'plugins.NodeResolver "noop" is deprecated: node resolvers are gone; delete it',
    )


def test_the_new_name_of_a_lifetime_wins():
    found = config('default_svid_ttl = "2h" default_x509_svid_ttl = "3h"')
    assert found.x509_svid_ttl == timedelta(hours=3)
    assert "server.default_svid_ttl has no effect: default_x509_svid_ttl is set too" in found.warnings


@pytest.mark.parametrize(
    ("server", "warning"),
    [
        ("profiling_enabled = true", "server.profiling_enabled has no effect: there is no profiling endpoint"),
        ("ca_subject {}", "server.ca_subject is set but empty: the default is used"),
        (
            "experimental { events_based_cache = true }",
            "server.experimental.events_based_cache has no effect: "
            "the caches always follow the changes in the database",
        ),
        (
            'experimental { sql_transaction_timeout = "1m" }',
            "server.experimental.sql_transaction_timeout is deprecated: use experimental.event_timeout instead",
        ),
        (
            'default_x509_svid_ttl = "4h1s"',
            "server.default_x509_svid_ttl is too high: while CAs are rotated, SVIDs may live for 4h only; "
            "set it to 4h or less, or ca_ttl to 24h0m6s or more",
        ),
        (
            'agent_ttl = "200h"',
            "server.agent_ttl is too high: while CAs are rotated, SVIDs may live for 4h only; "
            "set it to 168h or less, and ca_ttl to 1008h or more",
        ),
        (
            'default_jwt_svid_ttl = "200h" ca_ttl = "2000h"',
            "server.default_jwt_svid_ttl is too high: while CAs are rotated, SVIDs may live for 168h only; "
            "set it to 168h or less",
        ),
    ],
)
def test_what_the_operator_should_know_is_a_warning(server, warning):
    assert config(server).warnings == (warning,)


@pytest.mark.parametrize("server", ["profiling_enabled = false", "federation {}", 'default_x509_svid_ttl = "4h"'])
def test_what_changes_nothing_is_no_warning(server):
    assert config(server).warnings == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "server.trust_domain must be configured"),
        ('server { trust_domain = "a" }', "server.data_dir must be configured"),
        ('server { trust_domain = "a" data_dir = "d" }', "plugins section must be configured"),
        ("server = 1", "server: must be a block { ... } (line 1)"),
        ("sever {}", "sever: unknown configuration detected (line 1); did you mean server?"),
        (f"telemetry {{ Prometheus {{}} }} {PLUGINS}", "telemetry.Prometheus.port must be configured"),
        (
            "telemetry { Prometheus { port = 1 tls { cert_file = 1 } } }",
            "telemetry.Prometheus.tls: TLS for the exporter is not supported by this version (line 1)",
        ),
        ("health_checks { bind_port = 70000 }", "health_checks.bind_port: 70000 is no port; must be 1 to 65535"),
    ],
)
def test_a_file_that_lacks_or_breaks_its_frame_is_refused(text, message):
    with pytest.raises(InvalidConfig) as caught:
        server_config(Block.parse(text))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ("bind_prt = 1", "server.bind_prt: unknown configuration detected (line 1); did you mean bind_port?"),
        ("bind_port = 99999", "server.bind_port: 99999 is no port; must be 1 to 65535"),
        ("bind_port = -1", "server.bind_port: -1 is no port; must be 1 to 65535"),
        ('log_level = "LOUD"', 'server.log_level: not a valid logrus Level: "LOUD" (line 1)'),
        ('log_format = "xml"', 'server.log_format: "xml" is unknown; must be one of [text json] (line 1)'),
        (
            'ca_key_type = "ec-p521"',
            'server.ca_key_type: "ec-p521" is unknown; must be one of [ec-p256 ec-p384 rsa-2048 rsa-4096] (line 1)',
        ),
        ('ca_ttl = "-1h"', "server.ca_ttl: must be more than zero"),
        ('default_x509_svid_ttl = "0s"', "server.default_x509_svid_ttl: must be more than zero"),
        ("workers = -1", "server.workers: must be more than zero"),
        ('max_attested_node_info_staleness = "-1s"', "server.max_attested_node_info_staleness: must not be negative"),
        ('admin_ids = ["x"]', "server.admin_ids: 'x' is no SPIFFE ID: scheme is missing or invalid (line 1)"),
        (
            "federation { bundle_endpoint { port = 1 } }",
            "server.federation: federation is not supported by this version (line 1)",
        ),
        (
            'proxy_protocol_trusted_cidrs = ["10.0.0.0/8"]',
            "server.proxy_protocol_trusted_cidrs: the PROXY protocol is not supported by this version (line 1)",
        ),
        (
            "experimental { require_pq_kem = true }",
            "server.experimental.require_pq_kem: post-quantum key exchange cannot be required by this version (line 1)",
        ),
        (
            'experimental { auth_opa_policy_engine { local { rego_path = "x" } } }',
            "server.experimental.auth_opa_policy_engine: "
            "authorization policies are not supported by this version (line 1)",
        ),
        (
            'experimental { feature_flags = ["wit-svid"] }',
            "server.experimental.feature_flags: feature flags are not supported by this version (line 1)",
        ),
        (
            'experimental { named_pipe_name = "x" }',
            "server.experimental.named_pipe_name: named_pipe_name is not supported in this platform; "
            "please use socket_path instead (line 1)",
        ),
        (
            'experimental { event_timeout = "1m" sql_transaction_timeout = "1m" }',
            "server.experimental.sql_transaction_timeout: event_timeout is set too; only set event_timeout",
        ),
        (
            'experimental { cache_reload_interval = "1h" full_cache_reload_interval = "1h" }',
            "server.experimental.full_cache_reload_interval: must be greater than cache_reload_interval",
        ),
        (
            "experimental { cash_reload = 1 }",
            "server.experimental.cash_reload: unknown configuration detected (line 1); "
            "did you mean cache_reload_interval?",
        ),
        (
            "ratelimit { sining = true }",
            "server.ratelimit.sining: unknown configuration detected (line 1); did you mean signing?",
        ),
    ],
)
def test_what_is_wrong_or_missing_here_is_refused_by_name(server, message):
    with pytest.raises(InvalidConfig) as caught:
        config(server)
    assert str(caught.value) == message


def test_a_trust_domain_that_is_none_is_refused():
    with pytest.raises(InvalidConfig, match=r"^server\.trust_domain: trust domain 'Ex ample' is invalid"):
        config(trust_domain="Ex ample")


@pytest.mark.parametrize(
    ("plugins", "notes"),
    [
        (
            "",
            {
                "DataStore": ["constraint not satisfied: expected exactly 1 but got 0"],
                "KeyManager": ["constraint not satisfied: expected exactly 1 but got 0"],
            },
        ),
        (
            'DataStore "sql" {} KeyManager "memory" {} NodeAttestor "x509pop" {}',
            {'NodeAttestor "x509pop"': ['NodeAttestor "x509pop" is not built in (built in: join_token)']},
        ),
        (
            'DataStore "sql" {} KeyManager "aws_kms" {} UpstreamAuthority "disk" {} UpstreamAuthority "spire" {}',
            {
                'KeyManager "aws_kms"': ['KeyManager "aws_kms" is not built in (built in: disk, memory, pkcs11)'],
                'UpstreamAuthority "spire"': ['UpstreamAuthority "spire" is not built in (built in: disk)'],
                "UpstreamAuthority": ["constraint not satisfied: expected at most 1 but got 2"],
            },
        ),
        (
            'DataStore "sql" {} KeyManager "memory" {} Notifier "k8sbundle" {}',
            {'Notifier "k8sbundle"': ['Notifier "k8sbundle" is not built in (built in: none)']},
        ),
    ],
)
def test_plugins_that_are_not_here_are_refused_by_name(plugins, notes):
    with pytest.raises(InvalidPlugins) as caught:
        config(rest=f"plugins {{ {plugins} }}")
    assert caught.value.notes == notes


def test_a_disabled_plugin_counts_for_nothing():
    found = config(
        rest='plugins { DataStore "sql" {} KeyManager "memory" {} KeyManager "aws_kms" { enabled = false } }'
    )
    assert found.key_manager.name == "memory"
    assert found.upstream_authority is None


def test_the_dataclass_of_every_built_in_plugin_exists():
    for kind in PLUGIN_TYPES:
        for where in filter(None, kind.built_in.values()):
            module, _, name = where.partition(":")
            assert isinstance(getattr(import_module(module), name), type)


@pytest.mark.parametrize(("file", "key_manager"), [("server.conf", "disk"), ("server_pkcs11.conf", "pkcs11")])
def test_the_sample_files_are_valid(file, key_manager):
    found = load_server_config(f"conf/server/{file}")
    assert found.key_manager.name == key_manager
    assert found.warnings == ()
    check_plugin_data(found.plugins, PLUGIN_TYPES, {'KeyManager "pkcs11"': {"authority_group": "example.org"}})


@given(st.lists(st.sampled_from(OLD.split()), max_size=30).map(" ".join))
def test_any_file_is_read_or_refused(text):
    def read(text: str) -> object:
        return server_config(Block.parse(text))

    refused = refusal(read, text)
    assert refused is not None
    assert str(refused)
