"""Runs migrations on the connection that `migrating.migrate` hands over, in its transaction."""

from alembic import context

from heliograph.event_store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
