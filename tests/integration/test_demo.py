"""``make demo``, ``make up`` and ``make down``, as a newcomer runs them."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spiffe_core.runtime.files import private_folder
from tests.support.checkout import Checkout, end_group, processes_of


@pytest.fixture
def checkout(tmp_path):
    """A clone on a path with a space in it."""
    with private_folder() as sockets:
        made = Checkout.make(tmp_path / "my clone", sockets)
        yield made
        made.run("examples/demo/down.sh")


def state_of(output):
    """The demo's own folder."""
    return Path(re.search(r"made (/\S+)/softhsm/softhsm2\.conf", output)[1])


@pytest.mark.softhsm
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_shows_the_main_job_and_cleans_up(checkout):
    done = checkout.run("examples/demo/demo.sh")
    said = done.stdout
    assert done.returncode == 0, said
    for line in (
        r"     Token: [0-9a-f-]{36}",
        r"     SPIFFE ID               : spiffe://example\.org/demo-workload",
        rf"     Selector                : unix:uid:{os.getuid()}",
        r"     Received 1 svid after .*",
        r"     /tmp/steeple-demo\.\w+/svids/svid\.0\.pem: OK",
        r"         URI:spiffe://example\.org/demo-workload",
        r"   The key that came with it is that of the certificate\.",
        r"     SVID is valid\.",
        r"     SVID is not valid: .*",
        r'     Found 2 keys of authority group "example\.org"',
        r"     Signature        : over a nonce, ECDSA with SHA-256, verified with the public key",
        r"       CKA_SENSITIVE           : true",
        r"       CKA_ALWAYS_SENSITIVE    : true",
        r"       CKA_EXTRACTABLE         : false",
        r"       CKA_NEVER_EXTRACTABLE   : true",
        r"       CKA_LOCAL               : true",
        r"       C_GetAttributeValue\(CKA_VALUE\)              : refused: CKR_ATTRIBUTE_SENSITIVE",
        r"       C_WrapKey\(CKM_AES_KEY_WRAP_PAD\)             : refused: CKR_KEY_UNEXTRACTABLE",
        r"   The public key in the token is the CA certificate's\.",
        r"       Access:     sensitive, always sensitive, never extractable, local",
        r"     C_GetAttributeValue\(CKA_VALUE\) +refused: AttributeSensitive",
        r"     C_WrapKey, with a new AES key +refused: KeyUnextractable",
        r"     C_SetAttributeValue\(CKA_EXTRACTABLE = true\) +refused: ActionProhibited",
        r"     C_SetAttributeValue\(CKA_SENSITIVE = false\) +refused: ActionProhibited",
        r"     C_CopyObject\(CKA_EXTRACTABLE = true\) +refused: ActionProhibited",
        r"To keep the same set-up running: make up\.  To end it: make down\.",
    ):
        assert re.search(rf"^{line}$", said, re.MULTILINE), line
    assert not state_of(said).exists()
    assert processes_of(state_of(said)) == []
    assert not (checkout.folder / ".run").exists()


@pytest.mark.softhsm
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_is_left_running_answers_until_it_is_ended_and_goes_on_with_the_same_authority(checkout):
    up = checkout.run("examples/demo/up.sh")
    assert up.returncode == 0, up.stdout
    fetched = checkout.run(".venv/bin/steeple-agent", "api", "fetch", "x509", "-write", ".")
    assert "spiffe://example.org/demo-workload" in fetched.stdout
    first = (checkout.folder / "bundle.0.pem").read_text()

    again = checkout.run("examples/demo/up.sh")
    assert again.returncode == 1
    assert re.fullmatch(r"error: the server runs already \(process \d+\): make down ends it\n", again.stdout)

    down = checkout.run("examples/demo/down.sh")
    assert down.stdout.startswith("stopped the agent\nstopped the server\n")
    assert processes_of(checkout.sockets) == []

    assert checkout.run("examples/demo/up.sh").returncode == 0
    checkout.run(".venv/bin/steeple-agent", "api", "fetch", "x509", "-write", ".")
    assert (checkout.folder / "bundle.0.pem").read_text() == first
    assert checkout.run(".venv/bin/steeple-server", "entry", "count").stdout.startswith("3 registration entries")


@pytest.mark.softhsm
def test_a_program_that_fails_is_shown_with_its_log_and_nothing_is_left(checkout):
    (checkout.folder / ".venv").unlink()
    bin_folder = checkout.folder / ".venv/bin"
    bin_folder.mkdir(parents=True)
    for name in ("python", "steeple-server"):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec "{sys.prefix}/bin/{name}" "$@"\n')
    (bin_folder / "steeple-agent").write_text("#!/bin/sh\necho the agent has bad luck\nexit 1\n")
    for path in bin_folder.iterdir():
        path.chmod(0o755)
    done = checkout.run("examples/demo/demo.sh")
    assert done.returncode == 1
    assert "error: the agent has ended\n\nFailed in step 3, Attest an agent with a join token.\n" in done.stdout
    assert "The end of the agent's log:\n    the agent has bad luck\n" in done.stdout
    assert "The end of the server's log:\n" in done.stdout
    assert not state_of(done.stdout).exists()
    assert processes_of(state_of(done.stdout)) == []


@pytest.mark.softhsm
def test_a_demo_that_is_interrupted_leaves_nothing(checkout, tmp_path):
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [checkout.folder / "examples/demo/demo.sh"],
            env=dict(checkout.env),
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as demo,
    ):
        try:
            while "2. Start a server" not in log.read_text():
                assert demo.poll() is None, log.read_text()
                time.sleep(0.05)
            os.kill(demo.pid, signal.SIGTERM)
            assert demo.wait(60) == 143
        finally:
            end_group(demo)
    assert log.read_text().endswith("\nInterrupted; cleaning up.\n")
    state = state_of(log.read_text())
    assert not state.exists()
    assert processes_of(state) == []


@pytest.mark.softhsm
@pytest.mark.parametrize("program", ["demo", "up"])
def test_a_port_that_is_taken_is_named(checkout, program):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = checkout.run(f"examples/demo/{program}.sh", PORT=str(port))
    assert done.returncode == 1
    assert f"error: port {port} cannot be used: Address already in use; choose another with PORT=..." in done.stdout


@pytest.mark.softhsm
@pytest.mark.parametrize("port", ["http", "65536", "-1"])
def test_what_is_no_port_is_refused(checkout, port):
    done = checkout.run("examples/demo/demo.sh", PORT=port)
    assert done.returncode == 1
    assert f"error: PORT={port} is no port\n" in done.stdout


@pytest.mark.softhsm
@pytest.mark.parametrize("whose", ["spire-server/private", "spire-agent/public"])
def test_a_socket_at_which_something_serves_is_left_alone(checkout, whose):
    path = checkout.sockets / whose / "api.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        done = checkout.run("examples/demo/up.sh")
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
    assert done.returncode == 1
    assert f"error: something serves at {path} already; end it, or choose a folder" in done.stdout
    assert "log" not in done.stdout


@pytest.mark.softhsm
def test_a_folder_too_long_for_a_socket_is_named(checkout):
    done = checkout.run("examples/demo/up.sh", SOCKETS=f"/tmp/{'long/' * 20}")
    assert done.returncode == 1
    assert "is too long for a socket: choose a shorter folder\n" in done.stdout


@pytest.mark.softhsm
def test_a_tool_that_is_missing_is_named(checkout, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "dirname", "mktemp", "id", "sed", "mkdir", "rm", "cut", "tail", "cat", "rmdir"):
        (tools / name).symlink_to(shutil.which(name))
    done = checkout.run("examples/demo/demo.sh", PATH=str(tools))
    assert done.returncode == 1
    assert "pkcs11-tool was not found: install opensc\n" in done.stdout


def test_a_clone_that_is_not_installed_says_so(tmp_path):
    shutil.copytree(Path(__file__).parents[2] / "examples", tmp_path / "examples")
    done = subprocess.run([tmp_path / "examples/demo/demo.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: Steeple is not installed: run make install\n" in done.stderr


def test_ending_what_does_not_run_does_nothing(tmp_path):
    shutil.copytree(Path(__file__).parents[2] / "examples", tmp_path / "examples")
    done = subprocess.run([tmp_path / "examples/demo/down.sh"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_process_that_has_got_the_number_of_an_ended_one_is_left_alone(tmp_path):
    shutil.copytree(Path(__file__).parents[2] / "examples", tmp_path / "examples")
    state = tmp_path / ".run/demo"
    state.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as other:
        (state / "server.pid").write_text(f"{other.pid} 1\n")
        try:
            done = subprocess.run([tmp_path / "examples/demo/down.sh"], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
            assert "stopped" not in done.stdout
            assert other.poll() is None
        finally:
            other.kill()
