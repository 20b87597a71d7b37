"""Which servers sign with the same keys: the name that belongs to a key file."""

import re
import stat

import pytest

from keymanagers.disk import DiskConfig, DiskKeyManager
from keymanagers.memory import MemoryKeyManager
from server.authority_group import authority_group
from spiffe_core.errors import FailedPrecondition, InvalidConfig
from spiffe_core.runtime.block import Block
from spiffe_core.runtime.config import read_plugins


@pytest.fixture
def keys(tmp_path):
    manager = DiskKeyManager(DiskConfig(keys_path=tmp_path / "keys.json"))
    yield manager
    manager.close()


@pytest.fixture
def plugin(tmp_path):
    text = f'KeyManager "disk" {{ plugin_data {{ keys_path = "{tmp_path}/keys.json" }} }}'
    [plugin] = read_plugins(Block.parse(text))
    return plugin


def test_a_key_file_has_one_name_for_ever(plugin, keys, tmp_path):
    name = authority_group(plugin, keys, tmp_path)
    assert re.fullmatch(r"disk-[0-9a-f-]{36}", name)
    assert authority_group(plugin, keys, tmp_path) == name
    kept = tmp_path / "keys.json.group"
    assert kept.read_text() == name
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_where_no_group_may_begin_a_name_is_read_and_none_is_made(plugin, keys, tmp_path):
    with pytest.raises(FailedPrecondition, match=r"there is no .*/keys\.json\.group: no server has made keys here yet"):
        authority_group(plugin, keys, tmp_path, begin=False)
    assert not (tmp_path / "keys.json.group").exists()
    name = authority_group(plugin, keys, tmp_path)
    assert authority_group(plugin, keys, tmp_path, begin=False) == name


def test_a_name_that_is_there_is_read_where_nothing_can_be_written(plugin, keys, tmp_path):
    name = authority_group(plugin, keys, tmp_path)
    (tmp_path / "keys.json.group").chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        assert authority_group(plugin, keys, tmp_path) == name
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(("content", "text"), [(b"", "is empty: remove it if"), (b"\xff", "cannot read")])
def test_a_name_that_was_lost_is_no_reason_for_a_new_one(plugin, keys, tmp_path, content, text):
    (tmp_path / "keys.json.group").write_bytes(content)
    with pytest.raises(InvalidConfig, match=text):
        authority_group(plugin, keys, tmp_path)
    assert (tmp_path / "keys.json.group").read_bytes() == content


def test_keys_in_memory_are_of_a_group_of_their_own(tmp_path):
    [memory] = read_plugins(Block.parse('KeyManager "memory" {}'))
    names = {authority_group(memory, MemoryKeyManager(), tmp_path) for _ in range(2)}
    assert len(names) == 2


def test_the_keys_of_an_external_key_manager_are_the_servers_whatever_its_name(tmp_path):
    [external] = read_plugins(Block.parse('KeyManager "disk" { plugin_cmd = "/bin/x" }'))
    name = authority_group(external, MemoryKeyManager(), tmp_path)
    assert authority_group(external, MemoryKeyManager(), tmp_path) == name
    assert (tmp_path / "keymanager-disk.group").read_text() == name
    assert re.fullmatch(r"external-[0-9a-f-]{36}", name)
