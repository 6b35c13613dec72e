"""Runs Alembic in-process, on a connection whose transaction is already open."""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from tramontane.store.migrations.revisions import HEAD


def run(connection: Connection) -> None:
    """Bring the tables to `HEAD`; the caller commits."""
    config = Config()
    config.set_main_option("script_location", "tramontane.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
