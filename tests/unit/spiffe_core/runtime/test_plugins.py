"""The plugins that a file declares, and which of them may run together."""

from pathlib import Path

import pytest

from spiffe_core.errors import InvalidConfig
from spiffe_core.runtime.config import (
    Block,
    InvalidPlugins,
    Plugin,
    PluginType,
    check_plugin_data,
    check_plugins,
    read_plugins,
)
from tests.support.refusals import refusal

TYPES = (
    PluginType("Key", 1, 1, {"memory": "", "disk": "tests.support.plugin_data:DiskData"}),
    PluginType("Node", 1, 0, {"token": ""}),
    PluginType("Up", 0, 1, {"disk": ""}),
    PluginType("Gone", 0, 0, {}),
)


def plugins(text: str) -> tuple[Plugin, ...]:
    return read_plugins(Block.parse(text, "plugins"))


@pytest.mark.parametrize(
    "text",
    [
        'Key "memory" { plugin_data { a = 1 } } Node "token" {}',
        'Key "memory" { plugin_data = { a = 1 } } Node "token" {}',
        'Key "memory" plugin_data { a = 1 } Node "token" {}',
        'Key { memory { plugin_data { a = 1 } } } Node { "token" {} }',
        'Key = { "memory" = { plugin_data = { a = 1 } } }, Node "token" = {},'.replace('"token" =', '"token"'),
        '{"Key": {"memory": {"plugin_data": {"a": 1}}}, "Node": {"token": {}}}',
        '{"Key": [{"memory": {"plugin_data": {"a": 1}}}], "Node": [{"token": {}}]}',
    ],
)
def test_a_plugin_may_be_declared_in_several_ways(text):
    found = plugins(text)
    assert [(plugin.type, plugin.name) for plugin in found] == [("Key", "memory"), ("Node", "token")]
    assert found[0].data.items[0].key == "a"
    assert found[0].data.path == "plugins.Key.memory.plugin_data"
    assert found[1].data.items == ()
    assert found[1].data.path == "plugins.Node.token.plugin_data"


def test_several_plugins_of_a_type_keep_their_order():
    found = plugins('Node "b" {} Key "memory" {} Node "a" {}')
    assert [plugin.name for plugin in found] == ["b", "memory", "a"]


def test_everything_that_a_declaration_may_say_is_read():
    (found,) = plugins(
        'Key "x" { plugin_cmd = "/bin/x" plugin_args = ["-a"] plugin_checksum = "ab" plugin_data_file = "f" '
        "enabled = false }"
    )
    assert (found.cmd, found.args, found.checksum, found.enabled) == ("/bin/x", ("-a",), "ab", False)
    assert found.data_file == Path("f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('Key "a" {} Key "a" {}', 'plugins.Key.a: plugin "Key"/"a" declared more than once'),
        (
            'Key "a" { plugin_dta {} }',
            "plugins.Key.a.plugin_dta: unknown configuration detected (line 1); did you mean plugin_data?",
        ),
        (
            'Key "a" { plugin_data {} plugin_data_file = "x" }',
            "plugins.Key.a: only one of [plugin_data, plugin_data_file] can be used",
        ),
        ("Key = 1", "plugins.Key: must be a block { ... } (line 1)"),
        ("Key { a = 1 }", "plugins.Key.a: must be a block { ... } (line 1)"),
        ('Key "a" { plugin_data = "x" }', "plugins.Key.a.plugin_data: must be a block { ... } (line 1)"),
    ],
)
def test_a_malformed_declaration_is_refused(text, message):
    with pytest.raises(InvalidConfig) as caught:
        plugins(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ('Key "memory" {} Node "token" {}', {}),
        ('Key "disk" {} Node "token" {} Up "disk" {}', {}),
        ('Node "token" {}', {"Key": ["constraint not satisfied: expected exactly 1 but got 0"]}),
        (
            'Key "memory" {} Key "disk" {} Node "token" {}',
            {"Key": ["constraint not satisfied: expected exactly 1 but got 2"]},
        ),
        ('Key "memory" {}', {"Node": ["constraint not satisfied: expected at least 1 but got 0"]}),
        (
            'Key "memory" {} Node "token" {} Up "disk" {} Up "tape" {}',
            {
                'Up "tape"': ['Up "tape" is not built in (built in: disk)'],
                "Up": ["constraint not satisfied: expected at most 1 but got 2"],
            },
        ),
        ('Key "memory" {} Node "token" {} Gone "x" {}', {'Gone "x"': ['Gone "x" is not built in (built in: none)']}),
        ('Key "memory" {} Node "token" {} Odd "x" {}', {"Odd": ['unsupported plugin type "Odd"']}),
        (
            'Key "memory" { plugin_cmd = "/bin/x" } Node "token" {}',
            {'Key "memory"': ["external plugins (plugin_cmd) of type Key are not supported by this version"]},
        ),
    ],
)
def test_plugins_that_may_not_run_together_are_refused_with_every_reason(text, notes):
    refused = refusal(check_plugins, plugins(text), TYPES)
    assert isinstance(refused, InvalidPlugins) == bool(notes)
    assert getattr(refused, "notes", {}) == notes
    assert all(f"plugins.{what}: {note}" in str(refused) for what, more in notes.items() for note in more)


def test_the_data_of_a_plugin_are_checked_by_its_own_dataclass():
    good = plugins('Key "disk" { plugin_data { file = "x" } } Node "token" { plugin_data {} }')
    check_plugin_data(good, TYPES)
    bad = plugins('Key "disk" { plugin_data { fiel = "x" } } Node "token" { plugin_data { file = "x" } }')
    with pytest.raises(InvalidPlugins) as caught:
        check_plugin_data(bad, TYPES)
    assert caught.value.notes == {
        'Key "disk"': [
            "plugins.Key.disk.plugin_data.fiel: unknown configuration detected (line 1); did you mean file?"
        ],
        'Node "token"': ["plugins.Node.token.plugin_data.file: unknown configuration detected (line 1)"],
    }


def test_data_in_a_file_are_read_each_time(tmp_path):
    file = tmp_path / "data"
    (plugin,) = plugins(f'Key "disk" {{ plugin_data_file = "{file}" }}')
    file.write_text("a = 1")
    assert plugin.load_data().items[0].key == "a"
    file.write_text("b = 1")
    assert plugin.load_data().items[0].key == "b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "open {}: no such file or directory"),
        (b"\xff", "{} is no UTF-8 text"),
        (b"a", "{}: At 1:2: key 'a' expected start of object ('{{') or assignment ('=')"),
    ],
)
def test_a_data_file_that_cannot_be_read_is_named(tmp_path, content, message):
    file = tmp_path / "data"
    if content is not None:
        file.write_bytes(content)
    (plugin,) = plugins(f'Key "disk" {{ plugin_data_file = "{file}" }}')
    with pytest.raises(InvalidConfig) as caught:
        plugin.load_data()
    assert str(caught.value) == f"plugins.Key.disk.plugin_data_file: {message.format(file)}"
