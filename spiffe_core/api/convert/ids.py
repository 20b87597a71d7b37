"""SPIFFE IDs, and what the server's API asks of them in each place."""

from functools import lru_cache

from spiffe_core.api.spire.api.types.spiffeid_pb2 import SPIFFEID
from spiffe_core.entries import check_parent_id, check_workload_id
from spiffe_core.errors import InvalidSpiffeId
from spiffe_core.ids import SpiffeId, TrustDomain


@lru_cache(maxsize=256)
def trust_domain_from_pb(text: str) -> TrustDomain:
    """The trust domain of a field that holds its name or, as SPIRE allows everywhere, an ID in it.

    Raises:
        InvalidSpiffeId: if it is neither.
    """
    return TrustDomain.parse(text)


def id_from_pb(pb: SPIFFEID | None) -> SpiffeId:
    """Any SPIFFE ID, the trust domain's own included; None stands for a field that was not set.

    Raises:
        InvalidSpiffeId: if it is none.
    """
    if pb is None:
        raise InvalidSpiffeId("request must specify SPIFFE ID")
    return SpiffeId(trust_domain_from_pb(pb.trust_domain), pb.path)


def id_to_pb(spiffe_id: SpiffeId) -> SPIFFEID:
    """The ID as a message."""
    return SPIFFEID(trust_domain=spiffe_id.trust_domain.name, path=spiffe_id.path)


def member_id_from_pb(pb: SPIFFEID | None, trust_domain: TrustDomain) -> SpiffeId:
    """An ID with a path in ``trust_domain``: what may be a parent.

    Raises:
        InvalidSpiffeId: if it is none.
    """
    spiffe_id = id_from_pb(pb)
    check_parent_id(spiffe_id, trust_domain)
    return spiffe_id


def workload_id_from_pb(pb: SPIFFEID | None, trust_domain: TrustDomain) -> SpiffeId:
    """An ID in ``trust_domain`` that a workload may have.

    Raises:
        InvalidSpiffeId: if it is none.
    """
    spiffe_id = id_from_pb(pb)
    check_workload_id(spiffe_id, trust_domain)
    return spiffe_id


def agent_id_from_pb(pb: SPIFFEID | None, trust_domain: TrustDomain) -> SpiffeId:
    """An ID in ``trust_domain`` below ``/spire/agent/``.

    Raises:
        InvalidSpiffeId: if it is none.
    """
    spiffe_id = id_from_pb(pb)
    if not spiffe_id.member_of(trust_domain):
        raise InvalidSpiffeId(f'"{spiffe_id}" is not a member of trust domain "{trust_domain}"')
    if not spiffe_id.path:
        raise InvalidSpiffeId(f'"{spiffe_id}" is not an agent in trust domain "{trust_domain}"; path is empty')
    if not spiffe_id.path.startswith("/spire/agent/"):
        raise InvalidSpiffeId(
            f'"{spiffe_id}" is not an agent in trust domain "{trust_domain}"; path is not in the agent namespace'
        )
    return spiffe_id
