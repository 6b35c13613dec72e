"""Jobs, what they ship, and the attempts at them."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0007"
down_revision: Final = "0006"

INT64: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_LIVE_JOB: Final = "(status IN ('pending', 'running'))"
_HAS_KEY: Final = "(idempotency_key IS NOT NULL)"
_LIVE_ATTEMPT: Final = "(status IN ('pending', 'queued', 'running'))"
_UNACCOUNTED: Final = "(is_accounted = 0)"
_KEPT: Final = "(is_accounted = 1 AND is_forgotten = 0)"


def upgrade() -> None:
    """Add the tables."""
    _add_jobs()
    op.create_table(
        "job_files",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("files", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_files_job_id"),
        sa.PrimaryKeyConstraint("job_id", name="pk_job_files"),
        sqlite_strict=True,
    )
    _add_attempts()


def _add_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("cluster_id", sa.Text(), nullable=True),
        sa.Column("started_at_ms", INT64, nullable=True),
        sa.Column("ended_at_ms", INT64, nullable=True),
        sa.Column("cancelled_at_ms", INT64, nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("revision", INT64, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_jobs_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sqlite_strict=True,
    )
    _index("ix_jobs_order", "jobs", "created_at_ms", "id")
    _index("ix_jobs_project_order", "jobs", "project_id", "created_at_ms", "id")
    _index("ix_jobs_live_order", "jobs", "created_at_ms", "id", where=_LIVE_JOB)
    key = ("project_id", "idempotency_key")
    _index("uq_jobs_idempotency_key", "jobs", *key, unique=True, where=_HAS_KEY)


def _add_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("array_index", INT64, nullable=False),
        sa.Column("number", INT64, nullable=False),
        sa.Column("cluster_id", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.Column("changed_at_ms", INT64, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=True),
        sa.Column("device_indexes", sa.Text(), nullable=False),
        sa.Column("node_names", sa.Text(), nullable=False),
        sa.Column("devices", INT64, nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("exit_code", INT64, nullable=True),
        sa.Column("started_at_ms", INT64, nullable=True),
        sa.Column("ended_at_ms", INT64, nullable=True),
        sa.Column("starts_at_ms", INT64, nullable=True),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("device_seconds", INT64, nullable=False),
        sa.Column("is_accounted", INT64, nullable=False),
        sa.Column("is_forgotten", INT64, nullable=False),
        sa.Column("revision", INT64, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_attempts_project_id"),
        sa.ForeignKeyConstraint(["cluster_id"], ["clusters.id"], name="fk_attempts_cluster_id"),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
        sqlite_strict=True,
    )
    _index("uq_attempts_number", "attempts", "job_id", "array_index", "number", unique=True)
    _index("ix_attempts_project_order", "attempts", "project_id", "created_at_ms", "id")
    _index("ix_attempts_live_order", "attempts", "created_at_ms", "id", where=_LIVE_ATTEMPT)
    order = ("created_at_ms", "id")
    _index("ix_attempts_unaccounted_order", "attempts", *order, where=_UNACCOUNTED)
    _index("ix_attempts_kept_order", "attempts", "ended_at_ms", "id", where=_KEPT)


def _index(
    name: str, table: str, *columns: str, unique: bool = False, where: str | None = None
) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(
        name,
        table,
        list(columns),
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )
