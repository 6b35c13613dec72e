"""Which revision the tables have and which they should have, without importing Alembic.

Alembic costs about 10 MB of memory and a quarter of a second: it is imported only by the process
that really changes the tables.
"""

from typing import Final

from sqlalchemy import Connection, inspect, text

from tramontane.store.errors import NewerSchemaError

REVISIONS: Final = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
    "0010",
    "0011",
)
HEAD: Final = REVISIONS[-1]

# Any number that nobody else is likely to lock; the first bytes of SHA-256 of "tramontane".
_MIGRATION_LOCK: Final = 0x5DC4_0E5A


def is_current(connection: Connection) -> bool:
    """Tell whether the tables are this version's; `NewerSchemaError` when they are newer."""
    return _stored_revision(connection) == HEAD


def bring_to_head(connection: Connection) -> None:
    """Run the missing revisions in the open transaction of ``connection``.

    The first of several processes does the work, the others wait for it and find it done.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _MIGRATION_LOCK})
    if is_current(connection):
        return
    from tramontane.store.migrations import upgrade  # noqa: PLC0415 - see above

    upgrade.run(connection, HEAD)
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        assert not broken, f"a migration broke references: {broken[:5]}"  # a bug


def _stored_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    stored = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    unknown = sorted(set(stored) - set(REVISIONS))
    if unknown or len(stored) > 1:
        msg = (
            f"the database has the schema {', '.join(unknown or sorted(stored))}, newer than this"
            f" version's {HEAD}: nothing was changed; run the newer version, or restore a backup"
        )
        raise NewerSchemaError(msg)
    return stored[0] if stored else None
