"""The tables, as the newest migration leaves them.

One row is one value: the row of an entry, agent or bundle holds all of it.  Beside it stand *indexes*, rows
derived from the value and written in the same transaction, by which it is found: a selector under the digest of
its text, a federated bundle under its row.  ``row_id`` is the number by which lists are paged; it only grows.

Text that is looked up is compared byte by byte on every database, and lists are JSON in ASCII, so collations and
character sets decide nothing.  Times are Unix seconds.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

DIGEST_BYTES: Final = 32
"""Length of the SHA-256 digests by which texts of any length are found."""


class MySqlBytes(mysql.VARBINARY):
    """Text in MySQL, kept as the bytes of its UTF-8: its own text types ignore case or trailing blanks."""

    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:  # noqa: ANN401, ARG002  SQLAlchemy's own signature
        """Encode what goes in."""
        return _encode

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:  # noqa: ANN401, ARG002  as above
        """Decode what comes out."""
        return _decode

    def literal_processor(self, dialect: Dialect) -> Any:  # noqa: ANN401, ARG002  as above
        """Render it where DDL needs a literal."""
        return None


def _encode(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def _decode(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def exact(length: int) -> TypeEngine[str]:
    """Text of at most that many bytes, compared byte by byte."""
    return String(length).with_variant(MySqlBytes(length), "mysql", "mariadb")


def document() -> TypeEngine[str]:
    """JSON in ASCII, of up to 16 MiB."""
    return Text().with_variant(mysql.MEDIUMTEXT(charset="ascii", collation="ascii_bin"), "mysql", "mariadb")


def digest() -> TypeEngine[bytes]:
    """A SHA-256 digest."""
    return LargeBinary(DIGEST_BYTES).with_variant(mysql.BINARY(DIGEST_BYTES), "mysql", "mariadb")


def number() -> TypeEngine[int]:
    """A row's number."""
    # Only a column of exactly type INTEGER is SQLite's own row number.
    return BigInteger().with_variant(Integer(), "sqlite")


METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _table(name: str, *columns: Column[Any], **options: bool) -> Table:
    # InnoDB has transactions and foreign keys; AUTOINCREMENT keeps SQLite from using a number twice.
    dialects: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_default_charset": "utf8mb4", **options}
    return Table(name, METADATA, *columns, **dialects)


def _row() -> Column[int]:
    return Column("row_id", number(), primary_key=True, autoincrement=True)


BUNDLES: Final = _table(
    "bundles",
    _row(),
    Column("trust_domain", exact(255), nullable=False, unique=True),
    Column("document", document(), nullable=False),
    sqlite_autoincrement=True,
)

ENTRIES: Final = _table(
    "entries",
    _row(),
    Column("id", exact(255), nullable=False, unique=True),
    Column("likeness", digest(), nullable=False, unique=True),
    Column("spiffe_id", exact(2048), nullable=False, index=True),
    Column("parent_id", exact(2048), nullable=False, index=True),
    Column("selectors", document(), nullable=False),
    Column("federates_with", document(), nullable=False),
    Column("dns_names", document(), nullable=False),
    Column("hint", exact(1024), nullable=False),
    Column("x509_svid_ttl", Integer, nullable=False),
    Column("jwt_svid_ttl", Integer, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("downstream", Boolean, nullable=False),
    Column("store_svid", Boolean, nullable=False),
    Column("disable_x509_svid_prefetch", Boolean, nullable=False),
    Column("jwt_svid_include_jti", Boolean, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revision_number", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
# Few entries have these; where a database can, it indexes only those that do.
Index("ix_entries_hint", ENTRIES.c.hint, sqlite_where=ENTRIES.c.hint != "", postgresql_where=ENTRIES.c.hint != "")
Index(
    "ix_entries_expires_at",
    ENTRIES.c.expires_at,
    sqlite_where=ENTRIES.c.expires_at != 0,
    postgresql_where=ENTRIES.c.expires_at != 0,
)

ENTRY_SELECTORS: Final = _table(
    "entry_selectors",
    Column("digest", digest(), primary_key=True),
    Column("entry", number(), ForeignKey("entries.row_id", ondelete="CASCADE"), primary_key=True, index=True),
    sqlite_with_rowid=False,
)

ENTRY_FEDERATION: Final = _table(
    "entry_federation",
    Column("bundle", number(), ForeignKey("bundles.row_id"), primary_key=True, autoincrement=False),
    Column(
        "entry",
        number(),
        ForeignKey("entries.row_id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        index=True,
    ),
    sqlite_with_rowid=False,
)

AGENTS: Final = _table(
    "agents",
    _row(),
    Column("id", exact(2048), nullable=False, unique=True),
    Column("attestation_type", exact(255), nullable=False),
    Column("cert_serial", exact(255), nullable=False),
    Column("cert_not_after", BigInteger, nullable=False, index=True),
    Column("new_cert_serial", exact(255), nullable=False),
    Column("new_cert_not_after", BigInteger, nullable=False),
    Column("can_reattest", Boolean, nullable=False),
    Column("agent_version", exact(1020), nullable=False),
    Column("selectors", document(), nullable=False),
    sqlite_autoincrement=True,
)

AGENT_SELECTORS: Final = _table(
    "agent_selectors",
    Column("digest", digest(), primary_key=True),
    Column("agent", number(), ForeignKey("agents.row_id", ondelete="CASCADE"), primary_key=True, index=True),
    sqlite_with_rowid=False,
)

JOIN_TOKENS: Final = _table(
    "join_tokens",
    Column("digest", digest(), primary_key=True),
    Column("expires_at", BigInteger, nullable=False, index=True),
)

AUTHORITY_RECORDS: Final = _table(
    "authority_records",
    Column("authority_group", exact(255), primary_key=True),
    Column("key_id", exact(255), primary_key=True),
    Column("purpose", exact(16), nullable=False),
    Column("key_type", exact(16), nullable=False),
    Column("state", exact(16), nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("authority_id", exact(255), nullable=False),
    Column("chain", document(), nullable=False),
    Column("roots", document(), nullable=False),
    Column("reserved_at", BigInteger, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("published", Boolean, nullable=False),
    Column("tainted", Boolean, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
)

AUTHORITY_LEASES: Final = _table(
    "authority_leases",
    Column("authority_group", exact(255), primary_key=True),
    Column("holder", exact(255), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

CHANGES: Final = _table(
    "changes",
    _row(),
    Column("at", BigInteger, nullable=False, index=True),
    Column("what", document(), nullable=False),
    sqlite_autoincrement=True,
)
