"""Alembic's entry: uses the connection that `upgrade.run` hands over."""

from alembic import context

from tramontane.store.migrations.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite rolls DDL back too, once transactions begin explicitly
)
with context.begin_transaction():
    context.run_migrations()
