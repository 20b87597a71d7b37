"""Another agent's Workload API, of which this one takes the bundle that its server is first trusted by."""

from typing import Final
from urllib.parse import quote, urlsplit

import grpc

from spiffe_core.api import workload_pb2
from spiffe_core.bundle import Bundle, X509Authority, load_certificate, split_certificates
from spiffe_core.errors import InvalidBundle, Unavailable
from spiffe_core.ids import TrustDomain
from spiffe_core.runtime.calls import error_of, rpc_in

TIMEOUT: Final = 60.0
"""Seconds that it may take to answer (SPIRE's)."""
_FETCH: Final = rpc_in(workload_pb2.DESCRIPTOR, "FetchX509Bundles")
_HEADER: Final = (("workload.spiffe.io", "true"),)


async def fetch_x509_bundle(address: str, trust_domain: TrustDomain) -> Bundle:
    """The bundle of a trust domain, from the Workload API at an address such as ``unix:///run/api.sock``.

    Raises:
        Unavailable: if it does not answer, or has no bundle of that trust domain.
        InvalidBundle: if what it has is none.
    """
    async with grpc.aio.insecure_channel(_target(address)) as channel:
        fetch: grpc.aio.UnaryStreamMultiCallable[workload_pb2.X509BundlesRequest, workload_pb2.X509BundlesResponse] = (
            channel.unary_stream(
                _FETCH.path,
                request_serializer=workload_pb2.X509BundlesRequest.SerializeToString,
                response_deserializer=workload_pb2.X509BundlesResponse.FromString,
            )
        )
        call = fetch(workload_pb2.X509BundlesRequest(), timeout=TIMEOUT, metadata=_HEADER)
        try:
            answer = await call.read()
        except grpc.aio.AioRpcError as exc:
            text = f"unable to fetch trust bundle from SPIFFE Workload API {address}: {error_of(exc)}"
            raise Unavailable(text) from None
        finally:
            call.cancel()
    found = answer.bundles.get(str(trust_domain.id)) if isinstance(answer, workload_pb2.X509BundlesResponse) else None
    if not found:
        raise Unavailable(
            f'SPIFFE Workload API {address} did not provide a trust bundle for trust domain "{trust_domain}"'
        )
    ders = split_certificates(found)
    for der in ders:
        load_certificate(der)
    if not ders:
        raise InvalidBundle("no certificates found in trust bundle")
    return Bundle(trust_domain, tuple(map(X509Authority, ders)))


def _target(address: str) -> str:
    """What gRPC calls an address that is in the form of SPIFFE_Workload_Endpoint.md §4."""
    parts = urlsplit(address)
    if parts.scheme == "tcp":
        return parts.netloc
    return f"unix:{quote(parts.netloc + parts.path)}"
