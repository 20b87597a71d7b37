"""Who may come in by the front door: a connection is identified, or refused, before a byte of it is relayed.

``TlsAdmission`` does the TLS handshake and verifies what the client presented, as SPIRE does on its port:
nobody has to present a certificate, and who presents one must be a member of our trust domain, or one of
the ``admin_ids`` of another, and is verified against the bundle of *its own* trust domain.
``LocalAdmission`` asks the kernel who opened a Unix socket.
"""

import asyncio
import ssl
from collections.abc import Callable, Collection
from enum import StrEnum
from socket import socket
from typing import Any, Final, Protocol

from spiffe_core.bundle import Bundle
from spiffe_core.errors import InvalidX509Svid, Unavailable
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.runtime.clock import Clock
from spiffe_core.runtime.peers import Peer, PeerKind, PeerProcess
from spiffe_core.runtime.relay import End
from spiffe_core.runtime.sockets import tune_tcp
from spiffe_core.runtime.tls import ALPN, ServerContexts, TlsIdentity, presented_chain
from spiffe_core.x509svid import X509Svid, check_leaf, parse_chain, verify_x509_svid

_SHUTDOWN: Final = 2.0
"""Seconds that a TLS peer has to answer our close_notify."""


class Refusal(StrEnum):
    """Why a connection was not let in."""

    FULL = "too many connections"
    CALLER_FULL = "too many connections of one caller"
    NO_IDENTITY = "the server has no X509-SVID"
    TLS = "TLS handshake failed"
    TIMEOUT = "timeout"
    GONE = "connection closed"
    RESUMED = "TLS session resumed"
    ALPN = "HTTP/2 was not negotiated"
    SVID = "X509-SVID not verified"
    FOREIGN = "foreign trust domain"
    NO_BUNDLE = "no bundle of the trust domain"
    PREFACE = "not HTTP/2"
    BACKEND = "gRPC server not reached"


class Refused(Exception):
    """A connection is not let in; it never reaches a caller, since there is none yet."""

    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Admission(Protocol):
    """Identifies the peers of one kind of listening socket."""

    def caller(self, connection: socket, address: Any) -> str:  # noqa: ANN401  as socket.accept types it
        """Whose share of the connections this one counts in, before anything is known of it."""

    async def admit(self, connection: socket, address: Any, end: End, seconds: float) -> Peer:  # noqa: ANN401
        """Make ``end`` the protocol of the connection, and say who it is, within ``seconds``.

        The connection's descriptor belongs to the loop once this was called.

        Raises:
            Refused: if it may not come in; ``end`` or the socket is still to be closed.
        """


class TlsAdmission:
    """Admits TLS clients to the port of a trust domain."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        identity: Callable[[], TlsIdentity | None],
        bundle_of: Callable[[TrustDomain], Bundle | None],
        admin_ids: Collection[SpiffeId] = (),
        clock: Clock,
    ) -> None:
        self._trust_domain = trust_domain
        self._bundle_of = bundle_of
        self._admin_ids = frozenset(admin_ids)
        self._clock = clock
        self._trust_domains = (trust_domain, *sorted({i.trust_domain for i in admin_ids} - {trust_domain}))
        self._contexts = ServerContexts(identity=identity, anchors=self._anchors)

    def caller(self, connection: socket, address: Any) -> str:  # noqa: ANN401, ARG002
        """The client's IP address."""
        return _host(address)

    async def admit(self, connection: socket, address: Any, end: End, seconds: float) -> Peer:  # noqa: ANN401
        """Do the handshake and verify the client's certificate, if it has one."""
        try:
            context = self._contexts.current()
        except Unavailable as exc:
            raise Refused(Refusal.NO_IDENTITY, str(exc)) from exc
        tls = await _handshake(connection, context, end, seconds)
        if tls.session_reused:
            # OpenSSL keeps sessions of TLS 1.2 by their IDs, and Python cannot tell it not to.  Cut off like this, it
            # forgets the session, so that the client's next attempt is a full handshake.
            raise Refused(Refusal.RESUMED, "the client resumed a TLS session instead of showing its certificate")
        if tls.selected_alpn_protocol() != ALPN:
            raise Refused(Refusal.ALPN, "the client did not offer the ALPN protocol h2")
        chain = presented_chain(tls)
        host = _host(address)
        return Peer(
            kind=PeerKind.TCP,
            address=f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}",
            since=self._clock.now(),
            svid=self._verify(chain) if chain else None,
        )

    def _anchors(self) -> tuple[bytes, ...]:
        """The authorities of every trust domain whose members could be let in."""
        bundles = [self._bundle_of(trust_domain) for trust_domain in self._trust_domains]
        return tuple(authority.der for bundle in bundles if bundle is not None for authority in bundle.x509_authorities)

    def _verify(self, ders: tuple[bytes, ...]) -> X509Svid:
        try:
            chain = parse_chain(ders)
            spiffe_id = check_leaf(chain[0])
            if not spiffe_id.member_of(self._trust_domain) and spiffe_id not in self._admin_ids:
                raise Refused(Refusal.FOREIGN, f'unexpected trust domain in ID "{spiffe_id}"')
            bundle = self._bundle_of(spiffe_id.trust_domain)
            if bundle is None:
                raise Refused(Refusal.NO_BUNDLE, f'no bundle found for trust domain "{spiffe_id.trust_domain}"')
            return verify_x509_svid(chain, bundle, self._clock.now())
        except InvalidX509Svid as exc:
            raise Refused(Refusal.SVID, f"x509svid: {exc}") from exc


class LocalAdmission:
    """Admits whoever the file system let connect to a Unix socket, and knows which process it is."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock

    def caller(self, connection: socket, address: Any) -> str:  # noqa: ANN401, ARG002
        """The process's user."""
        return f"uid {PeerProcess.credentials(connection)[1]}"

    async def admit(self, connection: socket, address: Any, end: End, seconds: float) -> Peer:  # noqa: ANN401, ARG002
        """Ask the kernel."""
        process = PeerProcess.of(connection)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: end, connection)
        except BaseException:
            process.close()
            raise
        return Peer(kind=PeerKind.UNIX, address="@", since=self._clock.now(), process=process)


async def _handshake(connection: socket, context: ssl.SSLContext, end: End, seconds: float) -> ssl.SSLObject:
    try:
        tune_tcp(connection)
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: end, connection, ssl=context, ssl_handshake_timeout=seconds, ssl_shutdown_timeout=_SHUTDOWN
        )
    except ssl.SSLCertVerificationError as exc:
        raise Refused(Refusal.SVID, f"x509svid: certificate is not vouched for: {exc.verify_message}") from exc
    except ssl.SSLError as exc:
        raise Refused(Refusal.TLS, f"TLS handshake failed: {exc.reason or exc}") from exc
    except ConnectionAbortedError as exc:
        raise Refused(Refusal.TIMEOUT, f"TLS handshake took longer than {seconds:g} s") from exc
    except OSError as exc:
        raise Refused(Refusal.GONE, "the client closed the connection during the TLS handshake") from exc
    if end.transport is None:
        raise Refused(Refusal.GONE, "the client closed the connection during the TLS handshake")
    tls = transport.get_extra_info("ssl_object")
    assert isinstance(tls, ssl.SSLObject)
    return tls


def _host(address: Any) -> str:  # noqa: ANN401
    """The IP address of a TCP peer, an IPv4 one as such even if it came in by an IPv6 socket."""
    host = str(address[0]).partition("%")[0]
    return host.removeprefix("::ffff:") if "." in host else host
