"""The self-contained ``steeple-keymanager`` and a host of ours: SPIRE's whole exchange with it, on a token."""

import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keymanagers.base import fingerprint
from keymanagers.pkcs11.manager import Pkcs11KeyManager
from scripts import plugin_file
from spiffe_core.api.spire.plugin.agent.keymanager.v1 import keymanager_pb2 as agent_pb2
from spiffe_core.api.spire.plugin.server.keymanager.v1 import keymanager_pb2 as pb
from spiffe_core.errors import InvalidConfig, InvalidInput, NotFound, Unavailable
from spiffe_core.runtime.calls import rpc_in
from spiffe_core.runtime.plugin_host import ExternalPlugin
from spiffe_core.runtime.plugin_host_keys import service_name
from tests.support.plugins import checksum, plugin_of, program, running_key_manager, start_key_manager
from tests.support.server_processes import wait_until

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm

DIGEST = bytes(range(32))


@pytest.fixture(scope="module")
def plugin_program(tmp_path_factory) -> Path:
    """The file, made as ``make plugin`` makes it."""
    path = tmp_path_factory.mktemp("plugin") / "steeple-keymanager"
    plugin_file.make(path)
    return path


@pytest.fixture
def exchange(plugin_program, softhsm_token):
    with running_key_manager(plugin_of(plugin_program, softhsm_token.plugin_data("spire"))) as host:
        yield Exchange(host)


class Exchange:
    """SPIRE's calls."""

    def __init__(self, host: ExternalPlugin, messages=pb) -> None:
        self.host = host
        self._pb = messages

    def call(self, name, **fields):
        method = rpc_in(self._pb.DESCRIPTOR, name)
        return self.host.call(method, method.request(**fields), method.response, 30)

    def generate(self, key_id, key_type=pb.EC_P256):
        return self.call("GenerateKey", key_id=key_id, key_type=key_type).public_key

    def shown(self):
        return {one.id: one.fingerprint for one in self.call("GetPublicKeys").public_keys}


def keys_in(token, group="spire"):
    manager = Pkcs11KeyManager(token.config(authority_group=group))
    try:
        shown = manager.keys()
        return {key.id: fingerprint(key.public) for key in shown}
    finally:
        manager.close()


def test_keys_are_made_shown_replaced_and_sign(exchange, softhsm_token):
    first = exchange.generate("x509-CA-A")
    other = exchange.generate("x509-CA-B", pb.RSA_2048)
    assert (first.id, first.type, other.type) == ("x509-CA-A", pb.EC_P256, pb.RSA_2048)
    second = exchange.generate("x509-CA-A")
    public = load_der_public_key(second.pkix_data)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert second.fingerprint == fingerprint(public) != first.fingerprint
    assert exchange.shown() == {"x509-CA-A": second.fingerprint, "x509-CA-B": other.fingerprint}
    assert exchange.call("GetPublicKey", key_id="x509-CA-A").public_key == second
    assert not exchange.call("GetPublicKey", key_id="x509-CA-C").HasField("public_key")
    signed = exchange.call("SignData", key_id="x509-CA-A", data=DIGEST, hash_algorithm=pb.SHA256)
    assert signed.key_fingerprint == second.fingerprint
    public.verify(signed.signature, DIGEST, ec.ECDSA(Prehashed(hashes.SHA256())))
    with pytest.raises(InvalidSignature):
        public.verify(signed.signature, DIGEST[::-1], ec.ECDSA(Prehashed(hashes.SHA256())))
    exchange.host.close()
    assert keys_in(softhsm_token) == {"x509-CA-A..2": second.fingerprint, "x509-CA-B..1": other.fingerprint}
    assert keys_in(softhsm_token, "example.org") == {}


def test_an_rsa_key_signs_with_pss_options(exchange):
    public = load_der_public_key(exchange.generate("jwt", pb.RSA_2048).pkix_data)
    assert isinstance(public, rsa.RSAPublicKey)
    options = {"hash_algorithm": pb.SHA256, "salt_length": -1}
    signed = exchange.call("SignData", key_id="jwt", data=DIGEST, pss_options=options)
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    public.verify(signed.signature, DIGEST, scheme, Prehashed(hashes.SHA256()))


@pytest.mark.parametrize(
    ("name", "fields", "kind", "text"),
    [
        ("GenerateKey", {"key_type": pb.EC_P256}, InvalidInput, "key id is required"),
        ("GenerateKey", {"key_id": "a"}, InvalidInput, "key type is required"),
        ("GenerateKey", {"key_id": "a", "key_type": 9}, InvalidInput, "key type 9 is none"),
        ("GetPublicKey", {}, InvalidInput, "key id is required"),
        ("SignData", {"data": DIGEST, "hash_algorithm": pb.SHA256}, InvalidInput, "key id is required"),
        ("SignData", {"key_id": "a", "data": DIGEST, "hash_algorithm": pb.SHA256}, NotFound, 'no such key "a"'),
    ],
)
def test_a_call_that_cannot_be_met_is_refused(exchange, name, fields, kind, text):
    with pytest.raises(kind, match=rf"keymanager\(test\): .*{text}"):
        exchange.call(name, **fields)


def test_agents_are_served_as_servers_are(plugin_program, softhsm_token):
    plugin = plugin_of(plugin_program, softhsm_token.plugin_data("agent-1"))
    host = ExternalPlugin(plugin, service=service_name(agent_pb2), trust_domain="example.org")
    try:
        exchange = Exchange(host, agent_pb2)
        made = exchange.generate("agent-svid-A")
        assert exchange.shown() == {"agent-svid-A": made.fingerprint}
    finally:
        host.close()


def test_a_plugin_that_is_killed_comes_back_with_the_same_keys(exchange):
    made = exchange.generate("x509-CA-A")
    killed = exchange.host.running
    killed.kill()
    wait_until(lambda: is_another(exchange.host, killed.pid))
    assert exchange.shown() == {"x509-CA-A": made.fingerprint}
    signed = exchange.call("SignData", key_id="x509-CA-A", data=DIGEST, hash_algorithm=pb.SHA256)
    assert signed.key_fingerprint == made.fingerprint


def is_another(host, pid):
    return runs(host) and host.running.pid != pid


def runs(host):
    try:
        return bool(host.running.pid)
    except Unavailable:
        return False


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ('token = "x"', "authority_group must be configured"),
        ('token = "x" authority_group = "a"', "module must be configured"),
        ('authority_group = "a" tokn = "x"', "tokn: unknown configuration detected.*did you mean token"),
        ("{", "line 1|At 1|1:"),
    ],
    ids=["no-group", "no-module", "unknown", "malformed"],
)
def test_a_configuration_that_is_wrong_is_refused_with_its_reason(plugin_program, tmp_path, data, text):
    file = tmp_path / "data.hcl"
    file.write_text(data)
    plugin = plugin_of(plugin_program, data_file=file)
    with pytest.raises(InvalidConfig, match=f'plugins.KeyManager "test": failed to configure plugin "test": .*{text}'):
        start_key_manager(plugin)


def test_everything_that_runs_comes_from_the_one_file(plugin_program, softhsm_token, tmp_path, monkeypatch):
    """No module from the environment or an installation, and nothing that was unpacked to a folder."""
    (tmp_path / "grpc.py").write_text("raise SystemExit('a module from the environment')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with running_key_manager(plugin_of(plugin_program, softhsm_token.plugin_data("spire"))) as host:
        Exchange(host).generate("x509-CA-A")
        maps = Path(f"/proc/{host.running.pid}/maps").read_text()
    assert "site-packages" not in maps
    libraries = {line.split(maxsplit=5)[5] for line in maps.splitlines() if "/memfd:" in line}
    assert {name.partition(" ")[0] for name in libraries} >= {
        "/memfd:grpc._cython.cygrpc",
        "/memfd:cryptography.hazmat.bindings._rust",
        "/memfd:google._upb._message",
    }


def test_a_plugin_that_the_system_cannot_start_is_refused_and_not_waited_for(plugin_program):
    with pytest.raises(Unavailable, match="failed to launch plugin: ValueError: embedded null byte"):
        start_key_manager(plugin_of(plugin_program, args=("a\0b",)))


def test_a_file_in_which_one_bit_was_changed_is_not_run(plugin_program, softhsm_token, tmp_path):
    content = bytearray(plugin_program.read_bytes())
    content[len(content) // 2] ^= 1
    changed = tmp_path / "changed"
    changed.write_bytes(content)
    changed.chmod(0o755)
    plugin = plugin_of(changed, softhsm_token.plugin_data("spire"), checksum=checksum(plugin_program))
    with pytest.raises(InvalidConfig, match="checksums did not match"):
        start_key_manager(plugin)


def test_the_same_installation_makes_the_same_file(plugin_program, tmp_path):
    again = tmp_path / "again"
    plugin_file.make(again)
    assert checksum(again) == checksum(plugin_program)
    said = plugin_program.with_name("steeple-keymanager.sha256").read_text()
    assert said == f"{checksum(plugin_program)}  steeple-keymanager\n"


@pytest.mark.parametrize("environment", [{}, {"KeyManager": "NodeAttestor"}], ids=["none", "other"])
def test_who_starts_it_by_hand_is_told_what_it_is(plugin_program, environment):
    found = subprocess.run([plugin_program], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 1
    assert found.stdout == ""
    assert "is started by a SPIRE server or agent: name it as plugin_cmd" in found.stderr


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"PLUGIN_PROTOCOL_VERSIONS": "2,3"}, "the host speaks versions 2, 3"),
        ({"PLUGIN_CLIENT_CERT": "-----BEGIN CERTIFICATE-----"}, "wants TLS"),
    ],
    ids=["version", "tls"],
)
def test_a_host_that_wants_another_protocol_is_told_so(plugin_program, environment, text):
    found = subprocess.run(
        [plugin_program], env={"KeyManager": "KeyManager", **environment}, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (1, "")
    assert text in found.stderr


def test_it_leaves_nothing_behind(plugin_program, softhsm_token):
    with running_key_manager(plugin_of(plugin_program, softhsm_token.plugin_data("spire"))) as host:
        pid, socket = host.running.pid, Path(host.running.address.target.removeprefix("unix:"))
        assert socket.is_socket()
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        folder = socket.parents[1]
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_a_copy_runs_wherever_the_path_leads_later(plugin_program, softhsm_token, tmp_path):
    """What the path leads to may be changed between the check and the start: the checked bytes run."""
    path = tmp_path / "steeple-keymanager"
    path.write_bytes(plugin_program.read_bytes())
    path.chmod(0o755)
    plugin = plugin_of(path, softhsm_token.plugin_data("spire"))
    with running_key_manager(plugin) as host:
        argv0 = Path(f"/proc/{host.running.pid}/cmdline").read_bytes().split(b"\0")
        assert any(part.startswith(b"/proc/self/fd/") for part in argv0)
        program(path, ["echo other"])
        made = Exchange(host).generate("x509-CA-A")
        killed = host.running
        killed.kill()
        wait_until(lambda: not runs(host))
        path.unlink()
        path.write_bytes(plugin_program.read_bytes())
        path.chmod(0o755)
        wait_until(lambda: is_another(host, killed.pid))
        assert Exchange(host).shown() == {"x509-CA-A": made.fingerprint}
