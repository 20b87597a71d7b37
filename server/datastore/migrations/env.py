"""How Alembic runs our migrations: on the connection that ``server.datastore.schema`` opened, in its transaction."""

from alembic import context

from server.datastore.schema import VERSION_TABLE
from server.datastore.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
