"""The registry: bundles, entries, agents, join tokens, authority journals and leases, and the change feed."""

import time

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def exact(length):
    return sa.String(length).with_variant(mysql.VARBINARY(length), "mysql", "mariadb")


def document():
    return sa.Text().with_variant(mysql.MEDIUMTEXT(charset="ascii", collation="ascii_bin"), "mysql", "mariadb")


def digest():
    return sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")


def number():
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def required(name, kind, *args, **options):
    return sa.Column(name, kind, *args, nullable=False, **options)


def create(name, *items, **options):
    op.create_table(name, *items, mysql_engine="InnoDB", mysql_default_charset="utf8mb4", **options)


def index(table, column, **options):
    op.create_index(f"ix_{table}_{column}", table, [column], **options)


def upgrade():
    create(
        "bundles",
        required("row_id", number(), autoincrement=True),
        required("trust_domain", exact(255)),
        required("document", document()),
        sa.PrimaryKeyConstraint("row_id", name="pk_bundles"),
        sa.UniqueConstraint("trust_domain", name="uq_bundles_trust_domain"),
        sqlite_autoincrement=True,
    )
    create(
        "entries",
        required("row_id", number(), autoincrement=True),
        required("id", exact(255)),
        required("likeness", digest()),
        required("spiffe_id", exact(2048)),
        required("parent_id", exact(2048)),
        required("selectors", document()),
        required("federates_with", document()),
        required("dns_names", document()),
        required("hint", exact(1024)),
        required("x509_svid_ttl", sa.Integer()),
        required("jwt_svid_ttl", sa.Integer()),
        required("admin", sa.Boolean()),
        required("downstream", sa.Boolean()),
        required("store_svid", sa.Boolean()),
        required("disable_x509_svid_prefetch", sa.Boolean()),
        required("jwt_svid_include_jti", sa.Boolean()),
        required("expires_at", sa.BigInteger()),
        required("created_at", sa.BigInteger()),
        required("revision_number", sa.BigInteger()),
        sa.PrimaryKeyConstraint("row_id", name="pk_entries"),
        sa.UniqueConstraint("id", name="uq_entries_id"),
        sa.UniqueConstraint("likeness", name="uq_entries_likeness"),
        sqlite_autoincrement=True,
    )
    index("entries", "spiffe_id")
    index("entries", "parent_id")
    index("entries", "hint", sqlite_where=sa.text("hint != ''"), postgresql_where=sa.text("hint != ''"))
    index("entries", "expires_at", sqlite_where=sa.text("expires_at != 0"), postgresql_where=sa.text("expires_at != 0"))
    create(
        "entry_selectors",
        required("digest", digest()),
        required("entry", number()),
        sa.PrimaryKeyConstraint("digest", "entry", name="pk_entry_selectors"),
        sa.ForeignKeyConstraint(["entry"], ["entries.row_id"], name="fk_entry_selectors_entry", ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )
    index("entry_selectors", "entry")
    create(
        "entry_federation",
        required("bundle", number(), autoincrement=False),
        required("entry", number(), autoincrement=False),
        sa.PrimaryKeyConstraint("bundle", "entry", name="pk_entry_federation"),
        sa.ForeignKeyConstraint(["bundle"], ["bundles.row_id"], name="fk_entry_federation_bundle"),
        sa.ForeignKeyConstraint(["entry"], ["entries.row_id"], name="fk_entry_federation_entry", ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )
    index("entry_federation", "entry")
    create(
        "agents",
        required("row_id", number(), autoincrement=True),
        required("id", exact(2048)),
        required("attestation_type", exact(255)),
        required("cert_serial", exact(255)),
        required("cert_not_after", sa.BigInteger()),
        required("new_cert_serial", exact(255)),
        required("new_cert_not_after", sa.BigInteger()),
        required("can_reattest", sa.Boolean()),
        required("agent_version", exact(1020)),
        required("selectors", document()),
        sa.PrimaryKeyConstraint("row_id", name="pk_agents"),
        sa.UniqueConstraint("id", name="uq_agents_id"),
        sqlite_autoincrement=True,
    )
    index("agents", "cert_not_after")
    create(
        "agent_selectors",
        required("digest", digest()),
        required("agent", number()),
        sa.PrimaryKeyConstraint("digest", "agent", name="pk_agent_selectors"),
        sa.ForeignKeyConstraint(["agent"], ["agents.row_id"], name="fk_agent_selectors_agent", ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )
    index("agent_selectors", "agent")
    create(
        "join_tokens",
        required("digest", digest()),
        required("expires_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("digest", name="pk_join_tokens"),
    )
    index("join_tokens", "expires_at")
    create(
        "authority_records",
        required("authority_group", exact(255)),
        required("key_id", exact(255)),
        required("purpose", exact(16)),
        required("key_type", exact(16)),
        required("state", exact(16)),
        required("public_key", sa.LargeBinary()),
        required("authority_id", exact(255)),
        required("chain", document()),
        required("roots", document()),
        required("reserved_at", sa.BigInteger()),
        required("issued_at", sa.BigInteger()),
        required("not_after", sa.BigInteger()),
        required("published", sa.Boolean()),
        required("tainted", sa.Boolean()),
        required("changed_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("authority_group", "key_id", name="pk_authority_records"),
    )
    create(
        "authority_leases",
        required("authority_group", exact(255)),
        required("holder", exact(255)),
        required("epoch", sa.BigInteger()),
        required("beat", sa.BigInteger()),
        required("version", sa.BigInteger()),
        sa.PrimaryKeyConstraint("authority_group", name="pk_authority_leases"),
    )
    create(
        "changes",
        required("row_id", number(), autoincrement=True),
        required("at", sa.BigInteger()),
        required("what", document()),
        sa.PrimaryKeyConstraint("row_id", name="pk_changes"),
        sqlite_autoincrement=True,
    )
    index("changes", "at")
    # The feed is never empty: a reader begins after its newest row.
    op.execute(sa.text("INSERT INTO changes (at, what) VALUES (:at, '{}')").bindparams(at=int(time.time())))
