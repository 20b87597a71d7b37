"""The same configuration files given to SPIRE's ``validate`` and to ours: taken by both, refused by both, or known.

Where we differ, the case says so: we are stricter where SPIRE starts with a setting that it does not understand, and
laxer where a file of former times, or one with quoted booleans, is clear.
"""

import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.cli_runs import CommandLine, agent_cli, server_cli
from tests.support.spire import spire_program

pytestmark = pytest.mark.interop

SQL: Final = 'DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "x" } }'
MEMORY: Final = 'KeyManager "memory" { plugin_data {} }'
PLUGINS: Final = f"plugins {{ {SQL} {MEMORY} }}"
NEEDED: Final = 'trust_domain = "example.org" data_dir = "d"'
AS_JSON: Final = (
    '{"server": {"trust_domain": "example.org", "data_dir": "d", %s}, "plugins": {"DataStore": {"sql": {"plugin_data": '
    '{"database_type": "sqlite3", "connection_string": "x"}}}, "KeyManager": {"memory": {"plugin_data": {}}}}}'
)
BOTH, NEITHER, STRICTER, LAXER = (True, True), (False, False), (True, False), (False, True)

SERVER_KEYS: Final = {
    # numbers
    "": BOTH,
    "bind_port = 8081": BOTH,
    'bind_port = "8081"': BOTH,
    "bind_port = 0x1F91": BOTH,
    'bind_port = "0x1F91"': BOTH,
    "bind_port = 017621": BOTH,
    'bind_port = "+8081"': BOTH,
    "bind_port = 8081.5": NEITHER,
    "bind_port = 1e3": NEITHER,
    'bind_port = "abc"': NEITHER,
    'bind_port = " 8081"': NEITHER,
    "bind_port = -5": NEITHER,
    "bind_port = 70000": NEITHER,
    "bind_port = 99999999999999999999": NEITHER,
    "bind_port = true": NEITHER,
    "bind_port = [8081]": NEITHER,
    'bind_port = ""': LAXER,
    # booleans
    "audit_log_enabled = true": BOTH,
    "audit_log_enabled = 1": NEITHER,
    'audit_log_enabled = "yes"': NEITHER,
    'audit_log_enabled = "TRUE"': NEITHER,
    'audit_log_enabled = "true"': LAXER,
    'ratelimit { attestation = "false" }': LAXER,
    # what is given twice, commas
    'log_level = "INFO" log_level = "WARN"': BOTH,
    'log_level = "LOUD" log_level = "WARN"': BOTH,
    'log_level = "WARN" log_level = "LOUD"': NEITHER,
    'ca_subject { country = ["US"] } ca_subject { organization = ["x"] }': BOTH,
    'log_level = "INFO", bind_port = 8081,': BOTH,
    ', log_level = "INFO"': BOTH,
    'log_level = "INFO",, bind_port = 1': NEITHER,
    'admin_ids = ["spiffe://example.org/a",]': BOTH,
    'admin_ids = ["spiffe://example.org/a",,]': BOTH,
    'admin_ids = ["spiffe://example.org/a" "spiffe://example.org/b"]': NEITHER,
    # texts
    "jwt_issuer = <<E\nhello\nE\n": BOTH,
    "jwt_issuer = <<-E\n  hello\n  E\n": BOTH,
    "log_level = <<E\nINFO\nE\n": NEITHER,
    "jwt_issuer = <<E\nhello": NEITHER,
    r'jwt_issuer = "a\nb\t\"\\ \u00e9 \101 \x41"': BOTH,
    r'jwt_issuer = "a\qb"': NEITHER,
    'jwt_issuer = "a\nb"': NEITHER,
    'jwt_issuer = "${foo("x")} $foo $$"': BOTH,
    'jwt_issuer = "${foo"': NEITHER,
    "jwt_issuer = 'x'": NEITHER,
    "log_level = DEBUG": NEITHER,
    'log_level: "DEBUG"': NEITHER,
    "bind_port = 1 + 1": NEITHER,
    '# x\n// y\n/* z */ /* /* */ log_level = "INFO"': BOTH,
    "/* /* x */ */": NEITHER,
    r'jwt_issuer = "\ud800"': STRICTER,
    # names
    'LOG_LEVEL = "DEBUG"': BOTH,
    '"log_level" = "DEBUG"': BOTH,
    'LogLevel = "DEBUG"': NEITHER,
    "foo = 1": NEITHER,
    "ratelimit { foo = true }": NEITHER,
    'ca_subject { foo = "x" }': NEITHER,
    "é = 1": NEITHER,
    "experimental { foo = 1 }": STRICTER,
    # values
    'ca_subject = { country = ["US"] }': BOTH,
    'ca_subject { country = "US" }': NEITHER,
    'ca_subject = "x"': NEITHER,
    'ca_subject = [{ country = ["US"] }]': LAXER,
    'log_level = "warning" log_format = "JSON"': BOTH,
    'log_level = " DEBUG"': NEITHER,
    'log_format = "xml"': NEITHER,
    'ca_ttl = "1.5h"': BOTH,
    'ca_ttl = "1h5µs"': BOTH,
    'ca_ttl = ""': BOTH,
    'ca_ttl = "1d"': NEITHER,
    'ca_ttl = "5"': NEITHER,
    "ca_ttl = 5": NEITHER,
    'ca_ttl = " 1h"': NEITHER,
    'ca_ttl = "-1h"': STRICTER,
    'default_jwt_svid_ttl = "0s"': STRICTER,
    'ca_key_type = "EC-P256"': BOTH,
    'ca_key_type = "x"': NEITHER,
    'admin_ids = ["foo"]': NEITHER,
    'admin_ids = "spiffe://example.org/a"': NEITHER,
    'trust_domain = "spiffe://example.org"': BOTH,
    'trust_domain = "Ex!"': NEITHER,
    'trust_domain = "spiffe://example.org/x"': BOTH,
    "trust_domain = true": NEITHER,
    'default_svid_ttl = "1h"': LAXER,
    'registration_uds_path = "/tmp/x"': LAXER,
    "federation { bundle_endpoint { port = 8443 } }": STRICTER,
}
SERVER_FILES: Final = {
    "": NEITHER,
    "# x": NEITHER,
    "}{": NEITHER,
    f"\ufeffserver {{ {NEEDED} }} {PLUGINS}": NEITHER,
    f"server {{ {NEEDED} \0 }} {PLUGINS}": NEITHER,
    f"server {{ {NEEDED} }}\r\n{PLUGINS}\r\n": BOTH,
    f"server {{ {NEEDED} }} server {{ bind_port = 1 }} {PLUGINS}": BOTH,
    f'server {{ data_dir = "d" }} {PLUGINS}': NEITHER,
    f'server {{ trust_domain = "example.org" }} {PLUGINS}': NEITHER,
    f"server {{ {NEEDED} }}": NEITHER,
    f"server {{ {NEEDED} }} plugins {{}}": NEITHER,
    f"server {{ {NEEDED} }} plugins {{ {SQL} KeyManager memory {{}} }}": BOTH,
    f"server {{ {NEEDED} }} plugins {{ {SQL} keymanager memory {{}} }}": NEITHER,
    f'server {{ {NEEDED} }} plugins {{ {SQL} KeyManager "memory" {{ plugin_data = {{}} }} }}': BOTH,
    f"server {{ {NEEDED} }} plugins {{ {SQL} {MEMORY} {MEMORY} }}": NEITHER,
    f'server {{ {NEEDED} }} plugins {{ {SQL} {MEMORY} KeyManager "disk" {{ plugin_data {{ keys_path = "k" }} }} }}': (
        NEITHER
    ),
    f'server {{ {NEEDED} }} plugins {{ {SQL} {MEMORY} NodeAttestor "x" {{ plugin_data {{}} }} }}': NEITHER,
    f'server {{ {NEEDED} }} plugins {{ {SQL} {MEMORY} Foo "x" {{}} }}': NEITHER,
    f'server {{ {NEEDED} }} plugins {{ {SQL} {MEMORY} KeyManager "x" {{ enabled = false plugin_data {{}} }} }}': BOTH,
    f'server {{ {NEEDED} }} plugins {{ {SQL} {MEMORY} NodeAttestor "join_token" {{ plugin_data {{ a = 1 }} }} }}': (
        NEITHER
    ),
    f'server {{ {NEEDED} }} plugins {{ {SQL} KeyManager "memory" {{ plugin_data {{ a = 1 }} }} }}': STRICTER,
    f'server {{ {NEEDED} }} plugins {{ {SQL} {MEMORY} NodeResolver "noop" {{ plugin_data {{}} }} }}': LAXER,
    f"server {{ {NEEDED} }} {PLUGINS} foo {{}}": NEITHER,
    f"server {{ {NEEDED} }} {PLUGINS} health_checks {{ foo = 1 }}": NEITHER,
    f'server {{ {NEEDED} }} {PLUGINS} health_checks {{ listener_enabled = true bind_port = "8080" }}': BOTH,
    f'server {{ {NEEDED} }} {PLUGINS} telemetry {{ Prometheus {{ port = "9988" }} }}': BOTH,
    f"server {{ {NEEDED} }} {PLUGINS} telemetry {{ Prometheus {{ port = 1 foo = 1 }} }}": NEITHER,
    f"server {{ {NEEDED} }} {PLUGINS} telemetry {{ foo = 1 }}": STRICTER,
    AS_JSON % '"bind_port": 8081': BOTH,
    AS_JSON % '"bind_port": "8081", "audit_log_enabled": true': BOTH,
    AS_JSON % '"log_level": "LOUD"': NEITHER,
    AS_JSON % '"bind_port": 1,': STRICTER,
    " \n" + AS_JSON % '"bind_port": 1': BOTH,
    "{ server { } }": NEITHER,
}

AGENT_NEEDED: Final = 'trust_domain = "example.org" server_address = "h" server_port = "8081"'
AGENT_PLUGINS: Final = 'plugins { NodeAttestor "join_token" {} KeyManager "memory" {} WorkloadAttestor "unix" {} }'
INSECURE: Final = "insecure_bootstrap = true"
AGENT_KEYS: Final = {
    INSECURE: BOTH,
    "": NEITHER,
    'trust_bundle_path = "/x"': BOTH,
    f'{INSECURE} trust_bundle_path = "/x"': NEITHER,
    'trust_bundle_url = "https://x"': BOTH,
    'trust_bundle_url = "http://x"': NEITHER,
    'trust_bundle_url = "http://x" trust_bundle_unix_socket = "/x"': BOTH,
    'trust_bundle_url = "http://x?spire-a=1" trust_bundle_unix_socket = "/x"': NEITHER,
    f'{INSECURE} trust_bundle_unix_socket = "/x"': NEITHER,
    'trust_bundle_path = "/x" trust_bundle_format = "der"': NEITHER,
    f"{INSECURE} foo = 1": NEITHER,
    f"{INSECURE} server_port = 0": NEITHER,
    f"{INSECURE} server_port = 99999": STRICTER,
    f'{INSECURE} join_token = "x" join_token_file = "/no/such"': NEITHER,
    f'{INSECURE} join_token_file = "/no/such"': NEITHER,
    f'{INSECURE} availability_target = "24h"': BOTH,
    f'{INSECURE} availability_target = "23h"': NEITHER,
    f"{INSECURE} x509_svid_cache_max_size = -5": NEITHER,
    f'{INSECURE} workload_x509_svid_key_type = "EC-P256"': BOTH,
    f'{INSECURE} workload_x509_svid_key_type = "rsa-4096"': NEITHER,
    f'{INSECURE} admin_socket_path = "/tmp/x/admin.sock"': BOTH,
    f'{INSECURE} admin_socket_path = "/tmp/spire-agent/public/x/admin.sock"': NEITHER,
    f'{INSECURE} admin_socket_path = "/tmp/spire-agent/public/../admin.sock"': BOTH,
    f'{INSECURE} rebootstrap_mode = "auto"': NEITHER,
    'trust_bundle_path = "/x" rebootstrap_mode = "auto"': BOTH,
    'trust_bundle_path = "/x" rebootstrap_mode = "x"': NEITHER,
    f'{INSECURE} experimental {{ sync_interval = "3s" }}': BOTH,
    f'{INSECURE} experimental {{ sync_interval = "x" }}': NEITHER,
    f'{INSECURE} experimental {{ sync_interval = "0s" }}': STRICTER,
    f'{INSECURE} experimental {{ jwt_svid_cache_hit_timeout = "1s" }}': NEITHER,
    f"{INSECURE} experimental {{ ratelimit {{ fetch_x509_svid = -5 }} }}": NEITHER,
    f"{INSECURE} experimental {{ foo = 1 }}": STRICTER,
}


def cases(**tables: dict[str, tuple[bool, bool]]) -> list[object]:
    """Every case, with a name that says where it stands and how it begins."""
    found = []
    for name, table in tables.items():
        for number, (text, expected) in enumerate(table.items()):
            found.append(pytest.param(name, text, expected, id=f"{name}-{number}"))
    return found


FRAMES: Final = {
    "keys": ("server", f"server {{ {NEEDED} %s }} {PLUGINS}"),
    "file": ("server", "%s"),
    "agent": ("agent", f"agent {{ {AGENT_NEEDED} %s }} {AGENT_PLUGINS}"),
}


def verdicts(kind: str, file: Path, *flags: str) -> tuple[bool, bool]:
    """Whether SPIRE takes the file, and whether we do."""
    command = [spire_program(f"spire-{kind}"), "validate", "-config", str(file), *flags]
    theirs = subprocess.run(command, cwd=file.parent, capture_output=True, timeout=60, check=False)
    cli: CommandLine = server_cli() if kind == "server" else agent_cli()
    ours = cli("validate", "-config", file, *flags)
    assert {theirs.returncode, ours.code} <= {0, 1}
    assert bool(ours.out) == (not ours.code)
    return not theirs.returncode, not ours.code


@pytest.mark.parametrize(("frame", "text", "expected"), cases(keys=SERVER_KEYS, file=SERVER_FILES, agent=AGENT_KEYS))
def test_a_file_is_taken_or_refused_as_by_spire(tmp_path: Path, frame, text, expected):
    kind, whole = FRAMES[frame]
    file = tmp_path / "a.conf"
    file.write_bytes((whole % text).encode() if frame != "file" else text.encode())
    assert verdicts(kind, file) == expected


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        ('bind_port = $PORT log_level = "${LEVEL}"', ["-expandEnv"], BOTH),
        ('jwt_issuer = "$PORT" log_level = "${LEVEL}"', [], NEITHER),
        ('log_level = "$NO_SUCH_VARIABLE"', ["-expandEnv"], BOTH),
        ("bind_port = $NO_SUCH_VARIABLE", ["-expandEnv"], NEITHER),
        ('jwt_issuer = "$QUOTE"', ["-expandEnv"], NEITHER),
        ('log_level = "LOUD"', ["-logLevel", "INFO"], BOTH),
        ("", ["-logLevel", "LOUD"], NEITHER),
        ("", ["-serverPort", "99999"], NEITHER),
        ("bind_port = 99999", ["-serverPort", "0"], NEITHER),
        ("", ["-trustDomain", "Foo Bar"], NEITHER),
        ('trust_domain = "Foo"', ["-trustDomain=foo"], BOTH),
        ("", ["-logFormat", "xml"], NEITHER),
    ],
)
def test_variables_and_flags_count_as_with_spire(tmp_path: Path, monkeypatch, text, flags, expected):
    for name, value in {"PORT": "8081", "LEVEL": "DEBUG", "QUOTE": 'a"b'}.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "server.conf"
    file.write_text(FRAMES["keys"][1] % text)
    assert verdicts("server", file, *flags) == expected
