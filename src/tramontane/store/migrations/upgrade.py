"""Runs Alembic in-process, on a connection whose transaction is already open."""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def run(connection: Connection, revision: str) -> None:
    """Bring the tables to ``revision``; the caller commits."""
    config = Config()
    config.set_main_option("script_location", "tramontane.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
