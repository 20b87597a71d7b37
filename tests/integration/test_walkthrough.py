"""The walk through that SPIRE's users know, with the programs' names exchanged, and the README's own."""

import re
import time
from pathlib import Path

import pytest

from spiffe_core.runtime.cli.pem import read_certificates
from spiffe_core.runtime.files import private_folder
from tests.support.checkout import PATIENCE, ROOT, Checkout

ID = "spiffe://example.org/myservice"


@pytest.fixture
def checkout(tmp_path):
    with private_folder() as sockets:
        yield Checkout.make(tmp_path / "steeple-0.1", sockets)


def eventually(checkout, *command, log):
    """What the command says once it succeeds."""
    for _ in range(100):
        done = checkout.run(*command)
        if done.returncode == 0:
            return done.stdout
        time.sleep(0.2)
    raise AssertionError(f"{done.stdout}\n{log.read_text()}")


@pytest.mark.softhsm
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_known_walk_through_works_with_the_programs_names_exchanged(checkout, tmp_path):
    """With ``steeple-server`` for ``spire-server`` and ``steeple-agent`` for ``spire-agent``; nothing is added."""
    (checkout.folder / "bin").symlink_to(checkout.folder / ".venv/bin")
    here = Checkout(tmp_path, checkout.sockets, checkout.env)
    server, agent = "steeple-0.1/bin/steeple-server", "steeple-0.1/bin/steeple-agent"
    server_log, agent_log = tmp_path / "server.log", tmp_path / "agent.log"

    with here.running(server, "run", "-config", "steeple-0.1/conf/server/server.conf", log=server_log):
        assert eventually(here, server, "healthcheck", log=server_log) == "Server is healthy.\n"

        said = here.run(server, "token", "generate", "-spiffeID", "spiffe://example.org/myagent").stdout
        token = re.fullmatch(r"Token: ([0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})\n", said)[1]

        create = f"{server} entry create -parentID spiffe://example.org/myagent -spiffeID {ID}"
        said = here.run("sh", "-c", f"{create} -selector unix:uid:$(id -u)").stdout
        assert re.match(
            rf"Entry ID +: [0-9a-f-]{{36}}\nSPIFFE ID +: {ID}\nParent ID +: spiffe://example\.org/myagent", said
        )

        agent_run = (agent, "run", "-config", "steeple-0.1/conf/agent/agent.conf", "-joinToken", token)
        with here.running(*agent_run, log=agent_log):
            said = eventually(here, agent, "api", "fetch", "x509", "--write", ".", log=agent_log)
            assert re.match(rf"Received 1 svid after \S+\n\nSPIFFE ID:\t\t{ID}\nSVID Valid After:\t", said)
            assert said.endswith(
                "\nWriting SVID #0 to file svid.0.pem.\n"
                "Writing key #0 to file svid.0.key.\n"
                "Writing bundle #0 to file bundle.0.pem.\n"
            )
            text = here.run("openssl", "x509", "-in", "./svid.0.pem", "-text", "-noout").stdout
            assert f"URI:{ID}\n" in text
            assert "Digital Signature, Key Encipherment, Key Agreement\n" in text
            assert here.run("openssl", "verify", "-CAfile", "bundle.0.pem", "svid.0.pem").stdout == "svid.0.pem: OK\n"

            said = here.run(agent, "api", "fetch", "jwt", "-audience", "test").stdout
            jwt = re.match(rf"token\({ID}\):\n\t(\S+)\n", said)[1]
            said = here.run(agent, "api", "validate", "jwt", "-audience", "test", "-svid", jwt).stdout
            assert said.startswith(f"SVID is valid.\nSPIFFE ID : {ID}\n")


@pytest.mark.softhsm
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_readmes_own_words_lead_to_an_svid(checkout, tmp_path):
    (script,) = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    first, rest = script.split("\n", 1)
    assert first == "make install"  # what the checkout has had
    log = tmp_path / "log"
    with checkout.running("sh", "-euc", rest, log=log) as script:
        code = script.wait(PATIENCE)
    assert code == 0, log.read_text() + (checkout.folder / "agent.log").read_text()
    assert "Server is healthy.\n" in log.read_text()
    assert log.read_text().endswith("svid.0.pem: OK\n")
    svid = checkout.run("openssl", "x509", "-in", "svid.0.pem", "-noout", "-ext", "subjectAltName").stdout
    assert f"URI:{ID}\n" in svid


@pytest.mark.softhsm
def test_a_server_whose_keys_move_into_a_token_keeps_its_registry_and_its_former_authority(checkout, tmp_path):
    server, log, bundle = ".venv/bin/steeple-server", tmp_path / "log", checkout.folder / ".data/server/bundle.crt"
    entry = ("-node", "-spiffeID", "spiffe://example.org/node", "-selector", "x:y")
    with checkout.running(server, "run", "-config", "conf/server/server.conf", log=log):
        eventually(checkout, server, "healthcheck", log=log)
        before = bundle.read_text()
        assert checkout.run(server, "entry", "create", *entry).returncode == 0
    assert checkout.run("softhsm-setup/init-token.sh").returncode == 0

    env = {**checkout.env, "SOFTHSM2_CONF": f"{checkout.folder}/.run/softhsm/softhsm2.conf"}
    here = Checkout(checkout.folder, checkout.sockets, env)
    with here.running(server, "run", "-config", "conf/server/server_pkcs11.conf", log=log):
        eventually(here, server, "healthcheck", log=log)
        assert here.run(server, "entry", "count").stdout == "1 registration entry\n"
        assert len(read_certificates(before.encode())) == 1
        assert set(read_certificates(bundle.read_bytes())) > set(read_certificates(before.encode()))


def commands(path):
    """The commands of a page, each on one line, without where the programs lie."""
    text = path.read_text().replace("\\\n", "").replace(".venv/bin/", "")
    return [re.sub(r"\s+", " ", line) for line in re.findall(r"^\$ (.*)$", text, re.MULTILINE)]


def test_the_page_of_the_walk_through_names_no_other_commands():
    token = "db38cbed-5bf9-439d-951a-e2d300b50a9d"
    assert commands(Path(ROOT, "docs/walkthrough.md")) == [
        "steeple-server run -config conf/server/server.conf",
        "steeple-server healthcheck",
        "steeple-server token generate -spiffeID spiffe://example.org/myagent",
        "steeple-server entry create -parentID spiffe://example.org/myagent -spiffeID spiffe://example.org/myservice "
        "-selector unix:uid:$(id -u)",
        f"steeple-agent run -config conf/agent/agent.conf -joinToken {token}",
        "steeple-agent api fetch x509 --write .",
        "openssl verify -CAfile bundle.0.pem svid.0.pem",
        "steeple-agent api fetch jwt -audience test",
    ]
