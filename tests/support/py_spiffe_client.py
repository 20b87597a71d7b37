"""A workload built with py-spiffe: ``python tests/support/py_spiffe_client.py ADDRESS AUDIENCE UPDATES``.

It fetches and validates everything that the library can, then says, one JSON object a line, what the first updates
of its stream are.  It is no module of the tests': py-spiffe's messages and ours cannot live in one process.
"""

import json
import queue
import sys
from typing import Any

from spiffe import JwtSource, JwtSvid, WorkloadApiClient, X509Source
from spiffe.workloadapi.errors import ValidateJwtSvidError


def say(**what: Any) -> None:
    """Tell the test."""
    print(json.dumps(what), flush=True)


def fetch(client: WorkloadApiClient, audience: str) -> None:
    """Each call once."""
    context = client.fetch_x509_context()
    say(
        ids=[str(svid.spiffe_id) for svid in client.fetch_x509_svids()],
        default=str(context.default_svid.spiffe_id),
        chain=len(context.default_svid.cert_chain),
        bundles=sorted(bundle.trust_domain.name for bundle in context.x509_bundle_set.bundles),
        x509_bundles={b.trust_domain.name: len(b.x509_authorities) for b in client.fetch_x509_bundles().bundles},
    )
    tokens = client.fetch_jwt_svids({audience})
    bundles = client.fetch_jwt_bundles()
    token = tokens[0]
    bundle = bundles.get_bundle_for_trust_domain(token.spiffe_id.trust_domain)
    assert bundle is not None
    try:
        client.validate_jwt_svid(token.token, f"another {audience}")
        refused = False
    except ValidateJwtSvidError:
        refused = True
    say(
        jwt_ids=[str(one.spiffe_id) for one in tokens],
        audience=sorted(token.audience),
        jwt_authorities=len(bundle.jwt_authorities),
        validated_here=str(JwtSvid.parse_and_validate(token.token, bundle, {audience}).spiffe_id),
        validated_there=str(client.validate_jwt_svid(token.token, audience).spiffe_id),
        refused_for_another=refused,
    )


def main() -> None:
    """Fetch, then stream."""
    address, audience, updates = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with WorkloadApiClient(address, default_timeout=20) as client:
        fetch(client, audience)
        with X509Source(socket_path=address, timeout_in_seconds=20) as source, JwtSource(socket_path=address) as tokens:
            say(
                source=str(source.get_x509_context().default_svid.spiffe_id),
                jwt_source=str(tokens.fetch_svid({audience}).spiffe_id),
            )
        heard: queue.Queue[Any] = queue.Queue()
        handler = client.stream_x509_contexts(heard.put, heard.put)
        for _ in range(updates):
            update = heard.get(timeout=20)
            if isinstance(update, Exception):
                raise update
            say(update=[svid.cert_chain[0].serial_number % 2**53 for svid in update.x509_svids])
        handler.cancel()


if __name__ == "__main__":
    main()
