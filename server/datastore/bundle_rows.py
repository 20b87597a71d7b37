"""Bundles as rows: one document holds all of a bundle."""

from typing import Any

import sqlalchemy as sa

from server.datastore import documents
from server.datastore.database import Write
from server.datastore.tables import BUNDLES
from spiffe_core.bundle import Bundle, JwtAuthority, X509Authority
from spiffe_core.ids import TrustDomain


def from_row(row: sa.Row[Any]) -> Bundle:
    """The bundle of a row of all columns."""
    content = documents.load(row.document)
    return Bundle(
        TrustDomain(row.trust_domain),
        tuple(X509Authority(documents.from_text(der), tainted) for der, tainted in content["x509"]),
        tuple(JwtAuthority(kid, documents.from_text(der), end, tainted) for kid, der, end, tainted in content["jwt"]),
        refresh_hint=content["refresh_hint"],
        sequence_number=content["sequence_number"],  # up to 2^64 - 1, which is no SQL integer
    )


def locked(write: Write, trust_domain: TrustDomain) -> Bundle | None:
    """The bundle, which nobody else changes until the transaction ends."""
    query = sa.select(BUNDLES).where(BUNDLES.c.trust_domain == trust_domain.name).with_for_update()
    row = write.connection.execute(query).first()
    return from_row(row) if row else None


def insert(write: Write, bundle: Bundle) -> Bundle:
    """Store a bundle that is not there."""
    values = {"trust_domain": bundle.trust_domain.name, "document": _dump(bundle)}
    write.connection.execute(sa.insert(BUNDLES), values)
    write.changed_bundle(bundle.trust_domain)
    return bundle


def store(write: Write, bundle: Bundle) -> Bundle:
    """Store a bundle in the place of the one that is there."""
    change = sa.update(BUNDLES).where(BUNDLES.c.trust_domain == bundle.trust_domain.name)
    write.connection.execute(change, {"document": _dump(bundle)})
    write.changed_bundle(bundle.trust_domain)
    return bundle


def _dump(bundle: Bundle) -> str:
    content = {
        "x509": [(documents.to_text(a.der), a.tainted) for a in bundle.x509_authorities],
        "jwt": [(a.id, documents.to_text(a.public_key_der), a.expires_at, a.tainted) for a in bundle.jwt_authorities],
        "refresh_hint": bundle.refresh_hint,
        "sequence_number": bundle.sequence_number,
    }
    return documents.dump(content)
