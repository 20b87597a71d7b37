"""A trust bundle from an HTTPS server, whose own certificate the machine's trust store must vouch for."""

import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.config import agent_config
from agent.trust_source import TrustSource
from spiffe_core.errors import InvalidBundle, Unavailable
from spiffe_core.jwks import MAX_DOCUMENT_BYTES
from spiffe_core.runtime.block import Block
from tests.support.certificates import Shape, leaf, sans
from tests.support.pki import CA_VALID, Realm, authority

SPIFFE = Realm()
WEB_CA = authority(subject="Web CA")


@pytest.fixture
def context(tmp_path, monkeypatch) -> ssl.SSLContext:
    """What an HTTPS server at 127.0.0.1 presents; the machine's trust store vouches for it."""
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    own = leaf(
        WEB_CA,
        "https://unused.example.org",
        Shape(validity=CA_VALID),
        subject="web",
        extensions=[(sans(others=[address]), False)],
    )
    key = own.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "web.pem").write_bytes(key + own.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "roots.pem").write_bytes(WEB_CA.certificate.public_bytes(Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(tmp_path / "web.pem")
    return made


@contextmanager
def web_server(context: ssl.SSLContext, body: bytes = b"", redirect: str = "") -> Iterator[str]:
    """An HTTPS server; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302 if redirect and self.path != "/there" else 200)
            self.send_header("Location", redirect)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args):
            """Nothing to say."""

    class Server(http.server.HTTPServer):
        def handle_error(self, *_args):
            """A client that does not trust us hangs up."""

    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def source(url: str) -> TrustSource:
    return TrustSource(
        agent_config(
            Block.parse(
                f"""
                agent {{
                    trust_domain = "example.org" server_address = "127.0.0.1" server_port = 1
                    trust_bundle_url = "{url}"
                }}
                plugins {{
                    KeyManager "memory" {{}} NodeAttestor "join_token" {{}} WorkloadAttestor "unix" {{}}
                }}
                """
            )
        )
    )


PEM = SPIFFE.root.certificate.public_bytes(Encoding.PEM)


async def test_a_bundle_comes_from_a_server_that_the_machine_trusts(context):
    with web_server(context, PEM) as url:
        bundle = await source(url).bundle({})
    assert bundle == SPIFFE.bundle


async def test_a_server_that_the_machine_does_not_trust_is_not_believed(context, tmp_path, monkeypatch):
    (tmp_path / "roots.pem").write_bytes(PEM)
    with web_server(context, PEM) as url, pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await source(url).bundle({})


async def test_a_server_of_another_name_is_not_believed(context):
    with web_server(context, PEM) as url, pytest.raises(Unavailable, match=r"(?i)hostname mismatch"):
        await source(url.replace("127.0.0.1", "localhost")).bundle({})


async def test_a_redirection_is_followed_by_https_only(context):
    with web_server(context, PEM, redirect="/there") as url:
        assert await source(url).bundle({}) == SPIFFE.bundle
    with (
        web_server(context, PEM, redirect="http://127.0.0.1:1/there") as url,
        pytest.raises(Unavailable, match=r"redirected to http://127\.0\.0\.1:1/there, which is not https://"),
    ):
        await source(url).bundle({})


async def test_an_endless_answer_is_cut_off(context):
    endless = b"x" * (MAX_DOCUMENT_BYTES + 10)
    with web_server(context, endless) as url, pytest.raises(InvalidBundle, match="trust bundle is longer than"):
        await source(url).bundle({})
