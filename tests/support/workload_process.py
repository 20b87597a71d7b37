"""A workload in a process of its own: ``python -m tests.support.workload_process SOCKET [UID]``.

It becomes that user if one is named, reads commands and answers each in a line: ``id`` its SPIFFE IDs, by
FetchX509SVID; ``exit`` ends it.
"""

import os
import sys

import grpc

from spiffe_core.api import workload_pb2


def ids(channel: grpc.Channel) -> str:
    """The IDs, or the refusal."""
    fetch = channel.unary_stream(
        "/SpiffeWorkloadAPI/FetchX509SVID",
        request_serializer=workload_pb2.X509SVIDRequest.SerializeToString,
        response_deserializer=workload_pb2.X509SVIDResponse.FromString,
    )
    stream = fetch(workload_pb2.X509SVIDRequest(), metadata=(("workload.spiffe.io", "true"),), timeout=20)
    try:
        return " ".join(svid.spiffe_id for svid in next(stream).svids)
    except grpc.RpcError as exc:
        return f"{exc.code().name} {exc.details()}"
    finally:
        stream.cancel()


def main() -> None:
    """Obey."""
    for uid in map(int, sys.argv[2:]):
        os.setgroups([uid])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    with grpc.insecure_channel(f"unix:{sys.argv[1]}") as channel:
        for line in sys.stdin:
            if line.strip() == "exit":
                break
            print(ids(channel), flush=True)


if __name__ == "__main__":
    main()
