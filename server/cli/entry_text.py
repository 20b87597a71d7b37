"""How an entry is printed: SPIRE's labels, with what is not set left out, and a blank line after it."""

from datetime import UTC, datetime

from spiffe_core.api.spire.api.types.entry_pb2 import Entry
from spiffe_core.api.spire.api.types.spiffeid_pb2 import SPIFFEID
from spiffe_core.runtime.gotext import time_text


def entry_text(entry: Entry) -> str:
    """The lines of one entry, each with its end."""
    lines = [
        ("Entry ID", entry.id or "(none)"),
        ("SPIFFE ID", id_text(entry.spiffe_id)),
        ("Parent ID", id_text(entry.parent_id)),
        ("Revision", entry.revision_number),
        *([("Downstream", "true")] if entry.downstream else []),
        ("X509-SVID TTL", entry.x509_svid_ttl or "default"),
        ("JWT-SVID TTL", entry.jwt_svid_ttl or "default"),
        *([("Expiration time", _time(entry.expires_at))] if entry.expires_at else []),
        *(("Selector", f"{selector.type}:{selector.value}") for selector in entry.selectors),
        *(("FederatesWith", trust_domain) for trust_domain in entry.federates_with),
        *(("DNS name", name) for name in entry.dns_names),
        *([("Admin", "true")] if entry.admin else []),
        *([("StoreSvid", "true")] if entry.store_svid else []),
        *([("Hint", entry.hint)] if entry.hint else []),
        *([("DisableX509SvidPrefetch", "true")] if entry.additional_attributes.disable_x509_svid_prefetch else []),
        *([("JwtSvidIncludeJti", "true")] if entry.additional_attributes.jwt_svid_include_jti else []),
    ]
    return "".join(f"{label:<23} : {value}\n" for label, value in lines) + "\n"


def id_text(pb: SPIFFEID) -> str:
    """A SPIFFE ID as the server sent it, valid or not."""
    return f"spiffe://{pb.trust_domain}{pb.path}"


def _time(seconds: int) -> str:
    try:
        return time_text(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s after 1970"
