"""Where the first trust in a server comes from: a file, a URL, another Workload API, or nowhere.

Only X.509 authorities are taken from there; the whole bundle comes from the server that they vouch for.  Each
attempt asks anew, since the bundle may have been wrong, or not there yet.
"""

import asyncio
import http.client
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.config import AgentConfig, BundleFormat
from agent.foreign_workload_api import fetch_x509_bundle
from spiffe_core.bundle import Bundle, X509Authority, load_certificate
from spiffe_core.errors import InvalidBundle, Unavailable
from spiffe_core.jwks import MAX_DOCUMENT_BYTES, load_spiffe_bundle
from spiffe_core.runtime.gotext import os_error

TIMEOUT: Final = 30.0
"""Seconds that a web server may take for each step of its answer."""


class TrustSource:
    """The source that an agent's configuration names."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config

    async def bundle(self, circumstances: Mapping[str, str]) -> Bundle | None:
        """The bundle, or None if any server is to be trusted the first time.

        ``circumstances`` are told to a web server at a Unix socket, as parameters of its URL.

        Raises:
            Unavailable: if the source does not answer.
            InvalidBundle: if what it gives is no bundle, or an empty one.
        """
        config = self._config
        if config.trust_bundle_spiffe_workload_api:
            return await fetch_x509_bundle(config.trust_bundle_spiffe_workload_api, config.trust_domain)
        if config.trust_bundle_url:
            content = await asyncio.to_thread(self._download, circumstances)
        elif config.trust_bundle_path is not None:
            content = await asyncio.to_thread(_read, config.trust_bundle_path)
        else:
            return None
        authorities = self._parse(content)
        if not authorities:
            raise InvalidBundle("no certificates found in trust bundle")
        return Bundle(config.trust_domain, authorities)

    def _parse(self, content: bytes) -> tuple[X509Authority, ...]:
        if self._config.trust_bundle_format is BundleFormat.SPIFFE:
            return load_spiffe_bundle(self._config.trust_domain, content).x509_authorities
        try:
            ders = [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(content)]
        except ValueError as exc:
            raise InvalidBundle(f"could not parse trust bundle: {exc}") from exc
        for der in ders:
            load_certificate(der)
        return tuple(map(X509Authority, ders))

    def _download(self, circumstances: Mapping[str, str]) -> bytes:
        url, at_socket = self._config.trust_bundle_url, self._config.trust_bundle_unix_socket
        try:
            if at_socket is None:
                status, content = _get_https(url)
            else:
                status, content = _get_at_socket(at_socket, _with_parameters(url, circumstances))
        except (OSError, http.client.HTTPException) as exc:
            reason = exc.reason if isinstance(exc, URLError) else exc
            raise Unavailable(f"unable to fetch trust bundle URL {url}: {reason}") from exc
        if status != HTTPStatus.OK:
            raise Unavailable(f"error downloading trust bundle: {status}")
        if len(content) > MAX_DOCUMENT_BYTES:
            raise InvalidBundle(f"trust bundle is longer than {MAX_DOCUMENT_BYTES} bytes")
        return content


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as exc:
        raise Unavailable(f"could not parse trust bundle: {os_error('open', path, exc)}") from exc
    if len(content) > MAX_DOCUMENT_BYTES:
        raise InvalidBundle(f"trust bundle is longer than {MAX_DOCUMENT_BYTES} bytes")
    return content


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but not to where anybody on the way could put a bundle of his own."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:  # noqa: ANN401  as the library types it
        if urlsplit(newurl).scheme != "https":
            raise URLError(f"redirected to {newurl}, which is not https://")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _get_https(url: str) -> tuple[int, bytes]:
    trusted = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    try:
        with urllib.request.build_opener(trusted, _OnlyHttps).open(url, timeout=TIMEOUT) as answer:
            return answer.status, answer.read(MAX_DOCUMENT_BYTES + 1)
    except HTTPError as exc:
        with exc:
            return exc.code, b""


def _get_at_socket(path: Path, url: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = _UnixConnection(parts.netloc or "localhost", path)
    try:
        connection.request("GET", urlunsplit(("", "", parts.path or "/", parts.query, "")))
        answer = connection.getresponse()
        return answer.status, answer.read(MAX_DOCUMENT_BYTES + 1)
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, host: str, path: Path) -> None:
        super().__init__(host, timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self._path))


def _with_parameters(url: str, more: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    given = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in more]
    return urlunsplit(parts._replace(query=urlencode([*given, *more.items()])))
