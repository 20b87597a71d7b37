"""``run`` and ``validate`` of the server: what they say of a configuration file, before anything is started."""

from pathlib import Path

import pytest

from tests.support.cli_runs import Ran, server_cli

VALID = Ran(0, "SPIRE server configuration file is valid.\n")
PLUGINS = 'plugins { DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "x" } } %s }'
MEMORY = PLUGINS % 'KeyManager "memory" {}'
NEEDED = 'trust_domain = "example.org" data_dir = "/data"'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "server.conf"


def validate(file: Path, server: str = "", plugins: str = MEMORY, *flags: str) -> Ran:
    """Validate a file with these settings."""
    file.write_text(f"server {{ {NEEDED} {server} }} {plugins}")
    return server_cli()("validate", "-config", file, *flags)


def test_a_valid_file_is_called_so(file):
    assert validate(file) == VALID


def test_warnings_go_to_standard_error(file):
    ran = validate(file, 'default_svid_ttl = "2h"', PLUGINS % 'KeyManager "memory" {} NodeResolver "noop" {}')
    assert ran == Ran(
        0,
        VALID.out,
        "Warning: server.default_svid_ttl is deprecated: use default_x509_svid_ttl instead\n"
        'Warning: plugins.NodeResolver "noop" is deprecated: node resolvers are gone; delete it\n',
    )


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ("bind_prt = 1", "server.bind_prt: unknown configuration detected (line 1); did you mean bind_port?"),
        ("bind_port = ", "unable to decode configuration at \"{}\": At 1:71: expected a value, got }} '}}'"),
        ('log_level = "☃"', 'server.log_level: not a valid logrus Level: "☃" (line 1)'),
    ],
)
def test_what_is_wrong_with_a_file_is_told_by_both_commands(file, server, message):
    text = message.format(file)
    assert validate(file, server) == Ran(1, err=f"SPIRE server configuration file is invalid: {text}\n")
    assert server_cli()("run", "-config", file) == Ran(1, err=f"{text}\n")


def test_what_is_wrong_with_plugins_is_listed(file):
    plugins = PLUGINS % (
        'KeyManager "pkcs11" { plugin_data { tokn = "x" } } NodeAttestor "join_token" { plugin_data { a = 1 } }'
    )
    ran = validate(file, "", plugins)
    assert ran == Ran(
        1,
        err="SPIRE server configuration file is invalid.\nValidation errors:\n"
        '\tKeyManager "pkcs11":\n'
        "\t\tplugins.KeyManager.pkcs11.plugin_data.tokn: unknown configuration detected (line 1); did you mean token?\n"
        '\tNodeAttestor "join_token":\n'
        "\t\tplugins.NodeAttestor.join_token.plugin_data.a: unknown configuration detected (line 1)\n",
    )
    assert server_cli()("run", "-config", file).code == 1


def test_plugins_that_are_not_here_are_refused_by_name(file):
    ran = validate(file, "", PLUGINS % 'KeyManager "memory" {} UpstreamAuthority "spire" {}')
    assert ran == Ran(
        1,
        err="SPIRE server configuration file is invalid.\nValidation errors:\n"
        '\tUpstreamAuthority "spire":\n\t\tUpstreamAuthority "spire" is not built in (built in: disk)\n',
    )


def test_a_file_that_is_not_there_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = "could not find config file {}: please use the -config flag\n"
    default = missing.format(tmp_path / "conf/server/server.conf")
    assert server_cli()("validate") == Ran(1, err=f"SPIRE server configuration file is invalid: {default}")
    assert server_cli()("run") == Ran(1, err=default)
    assert server_cli()("run", "-config", "x") == Ran(1, err=missing.format(tmp_path / "x"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-trustDomain", "Foo"], "server.trust_domain: trust domain 'Foo' is invalid"),
        (["-serverPort", "99999"], "server.bind_port: 99999 is no port; must be 1 to 65535"),
        (["-logLevel", "loud"], 'server.log_level: not a valid logrus Level: "loud"'),
        (["-logFormat=xml"], 'server.log_format: "xml" is unknown; must be one of [text json]'),
        (["--trust-domain", "Foo"], "server.trust_domain: trust domain 'Foo' is invalid"),
    ],
)
def test_flags_take_the_place_of_the_files_values(file, flags, message):
    ran = validate(file, "", MEMORY, *flags)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"SPIRE server configuration file is invalid: {message}")


@pytest.mark.parametrize(
    "flags", [["-serverPort", "0"], ["-logLevel", ""], ["-goOnWithoutLostKeys=false"], ["-dataDir", "☃"]]
)
def test_flags_that_say_nothing_change_nothing(file, flags):
    assert validate(file, "", MEMORY, *flags) == VALID


def test_flags_mend_what_is_wrong_in_a_file(file):
    assert validate(file, 'log_level = "loud"', MEMORY, "-logLevel", "info") == VALID


def test_variables_are_expanded_only_if_asked_for(file, monkeypatch):
    monkeypatch.setenv("STEEPLE_TEST_LEVEL", "DEBUG")
    server = 'log_level = "${STEEPLE_TEST_LEVEL}"'
    assert validate(file, server).code == 1
    assert validate(file, server, MEMORY, "-expandEnv") == VALID
    assert validate(file, server, MEMORY, "-expandEnv=false").code == 1
