"""An upstream authority outside this process, by SPIRE's plugin interface.

The plugin answers a CSR with our CA certificate and its roots, and may go on to tell whenever its roots change, on the
same stream.  That stream is kept open until the next one takes its place, and what it tells is published at once.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import grpc
import structlog

from hsm_ca.upstream import MintedCa
from spiffe_core.api.services import service_in
from spiffe_core.api.spire.plugin.server.upstreamauthority.v1 import upstreamauthority_pb2
from spiffe_core.bundle import load_certificate
from spiffe_core.errors import InvalidBundle, SpiffeError, UpstreamUnavailable
from spiffe_core.runtime.calls import rpc_in
from spiffe_core.runtime.plugin_host import ExternalPlugin

SERVICE: Final = str(service_in(upstreamauthority_pb2.DESCRIPTOR).full_name)
TIMEOUT: Final = 60.0
"""Seconds that the plugin has to sign."""
_MINT: Final = rpc_in(upstreamauthority_pb2.DESCRIPTOR, "MintX509CAAndSubscribe")

log: Final = structlog.get_logger()


class ExternalUpstream:
    """Lets a plugin sign.  Thread-safe; blocks on the plugin."""

    def __init__(self, plugin: ExternalPlugin, publish: Callable[[Sequence[bytes]], None]) -> None:
        self._plugin = plugin
        self._publish = publish
        self._prefix = f"upstreamauthority({plugin.name})"
        self._stream: Any = None

    def mint_x509_ca(self, request: bytes, ttl: timedelta, now: datetime) -> MintedCa:  # noqa: ARG002  the plugin has a clock
        """Have a CSR signed.

        Raises:
            UpstreamUnavailable: if the plugin does not run, refuses, or answers with less than a chain and roots.
        """
        asked = upstreamauthority_pb2.MintX509CARequest(csr=request, preferred_ttl=int(ttl.total_seconds()))
        try:
            stream = self._plugin.running.stream(_MINT, asked, upstreamauthority_pb2.MintX509CAResponse)
        except SpiffeError as exc:
            raise UpstreamUnavailable(str(exc)) from exc
        impatience = threading.Timer(TIMEOUT, stream.cancel)
        impatience.start()
        try:
            minted = self._minted(next(stream, None))
        except grpc.RpcError as exc:
            raise UpstreamUnavailable(str(self._plugin.error(exc))) from None
        except BaseException:
            stream.cancel()
            raise
        finally:
            impatience.cancel()
        former, self._stream = self._stream, stream
        if former is not None:
            former.cancel()
        threading.Thread(target=self._follow, args=(stream,), name="upstream roots", daemon=True).start()
        return minted

    def _minted(self, answer: upstreamauthority_pb2.MintX509CAResponse | None) -> MintedCa:
        if answer is None:
            raise UpstreamUnavailable(f"{self._prefix}: plugin closed stream unexpectedly")
        chain = tuple(one.asn1 for one in answer.x509_ca_chain)
        roots = tuple(one.asn1 for one in answer.upstream_x509_roots)
        for what, certificates in (("X.509 CA chain", chain), ("upstream X.509 roots", roots)):
            if not certificates:
                raise UpstreamUnavailable(f"{self._prefix}: plugin response missing {what}")
            try:
                for der in certificates:
                    load_certificate(der)
            except InvalidBundle as exc:
                raise UpstreamUnavailable(f"{self._prefix}: plugin response has malformed {what}: {exc}") from exc
        return MintedCa(chain, roots)

    def _follow(self, stream: Any) -> None:  # noqa: ANN401  an iterator of answers
        """Publish the roots that the plugin tells of, until the stream ends."""
        try:
            for answer in stream:
                self._told(answer)
        except grpc.RpcError as exc:
            if stream is self._stream:
                log.info("Upstream tells of no more roots", plugin_name=self._plugin.name, reason=str(exc.details()))

    def _told(self, answer: upstreamauthority_pb2.MintX509CAResponse) -> None:
        try:
            if answer.x509_ca_chain:
                raise UpstreamUnavailable("plugin response has an X.509 CA chain after the first response")
            roots = [one.asn1 for one in answer.upstream_x509_roots]
            for der in roots:
                load_certificate(der)
            self._publish(roots)
        except SpiffeError as exc:
            log.warning("Roots of the upstream were not taken", plugin_name=self._plugin.name, error=str(exc))
        else:
            log.info("Roots of the upstream published", plugin_name=self._plugin.name, count=len(roots))
