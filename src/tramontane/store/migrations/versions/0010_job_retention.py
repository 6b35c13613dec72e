"""What becomes of ended jobs: when their files are given up and gone, and they are deleted."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0010"
down_revision: Final = "0009"

INT64: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_LISTED: Final = "deleted_at_ms IS NULL"
_UNEXPIRED: Final = "files_expired_at_ms IS NULL AND ended_at_ms IS NOT NULL"
_EXPIRED: Final = "files_expired_at_ms IS NOT NULL AND files_removed_at_ms IS NULL"
_WITHOUT_FILES: Final = "files_removed_at_ms IS NOT NULL AND deleted_at_ms IS NULL"


def upgrade() -> None:
    """Add them. Of every job that is there, the files are kept and the job is listed."""
    for name in ("files_expired_at_ms", "files_removed_at_ms", "deleted_at_ms"):
        op.add_column("jobs", sa.Column(name, INT64, nullable=True))
    op.drop_index("ix_jobs_order", "jobs")
    op.drop_index("ix_jobs_project_order", "jobs")
    op.drop_index("ix_attempts_kept_order", "attempts")
    order = ("created_at_ms", "id")
    _index("ix_jobs_order", *order, where=_LISTED)
    _index("ix_jobs_project_order", "project_id", *order, where=_LISTED)
    _index("ix_jobs_unexpired_order", "ended_at_ms", "id", where=_UNEXPIRED)
    _index("ix_jobs_expired_order", "cluster_id", "files_expired_at_ms", "id", where=_EXPIRED)
    _index("ix_jobs_without_files_order", "ended_at_ms", "id", where=_WITHOUT_FILES)


def _index(name: str, *columns: str, where: str) -> None:
    condition = sa.text(where)
    op.create_index(
        name,
        "jobs",
        list(columns),
        unique=False,
        sqlite_where=condition,
        postgresql_where=condition,
    )
