"""The tables of jobs. What a job ships lies apart, so that lists need not read it."""

from typing import Final

from sqlalchemy import Column, ForeignKey, Index, Text, and_, literal_column
from sqlalchemy.sql.elements import ColumnElement

from tramontane.store.tables import (
    id_column,
    int_column,
    int_or_null,
    make_table,
    reference,
    text_column,
    text_or_null,
)

jobs: Final = make_table(
    "jobs",
    id_column(),
    reference("project_id", "projects"),
    text_column("name"),
    text_column("spec"),
    int_column("created_at_ms"),
    text_column("status"),
    text_or_null("reason"),
    text_or_null("cluster_id"),
    int_or_null("started_at_ms"),
    int_or_null("ended_at_ms"),
    int_or_null("cancelled_at_ms"),
    text_or_null("idempotency_key"),
    text_column("digest"),
    int_or_null("files_expired_at_ms"),
    int_or_null("files_removed_at_ms"),
    int_or_null("deleted_at_ms"),
    int_column("revision"),
)
JOB_IS_LIVE: Final[ColumnElement[bool]] = jobs.c.status.in_(
    [literal_column("'pending'"), literal_column("'running'")]
)
JOB_HAS_KEY: Final[ColumnElement[bool]] = jobs.c.idempotency_key.is_not(None)
# Of a deleted job only what its bill needs is left: no list shows it, nor reads past it.
JOB_IS_LISTED: Final[ColumnElement[bool]] = jobs.c.deleted_at_ms.is_(None)
JOB_IS_UNEXPIRED: Final[ColumnElement[bool]] = and_(
    jobs.c.files_expired_at_ms.is_(None), jobs.c.ended_at_ms.is_not(None)
)
JOB_IS_EXPIRED: Final[ColumnElement[bool]] = and_(
    jobs.c.files_expired_at_ms.is_not(None), jobs.c.files_removed_at_ms.is_(None)
)
JOB_IS_WITHOUT_FILES: Final[ColumnElement[bool]] = and_(
    jobs.c.files_removed_at_ms.is_not(None), jobs.c.deleted_at_ms.is_(None)
)
Index(
    "ix_jobs_order",
    jobs.c.created_at_ms,
    jobs.c.id,
    sqlite_where=JOB_IS_LISTED,
    postgresql_where=JOB_IS_LISTED,
)
Index(
    "ix_jobs_project_order",
    jobs.c.project_id,
    jobs.c.created_at_ms,
    jobs.c.id,
    sqlite_where=JOB_IS_LISTED,
    postgresql_where=JOB_IS_LISTED,
)
Index(
    "ix_jobs_unexpired_order",
    jobs.c.ended_at_ms,
    jobs.c.id,
    sqlite_where=JOB_IS_UNEXPIRED,
    postgresql_where=JOB_IS_UNEXPIRED,
)
Index(
    "ix_jobs_expired_order",
    jobs.c.cluster_id,
    jobs.c.files_expired_at_ms,
    jobs.c.id,
    sqlite_where=JOB_IS_EXPIRED,
    postgresql_where=JOB_IS_EXPIRED,
)
Index(
    "ix_jobs_without_files_order",
    jobs.c.ended_at_ms,
    jobs.c.id,
    sqlite_where=JOB_IS_WITHOUT_FILES,
    postgresql_where=JOB_IS_WITHOUT_FILES,
)
Index(
    "ix_jobs_live_order",
    jobs.c.created_at_ms,
    jobs.c.id,
    sqlite_where=JOB_IS_LIVE,
    postgresql_where=JOB_IS_LIVE,
)
Index(
    "uq_jobs_idempotency_key",
    jobs.c.project_id,
    jobs.c.idempotency_key,
    unique=True,
    sqlite_where=JOB_HAS_KEY,
    postgresql_where=JOB_HAS_KEY,
)

# What a job ships into its working folder; gone once it is over.
job_files: Final = make_table(
    "job_files",
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    text_column("files"),
)

attempts: Final = make_table(
    "attempts",
    id_column(),
    reference("job_id", "jobs"),
    reference("project_id", "projects"),
    int_column("array_index"),
    int_column("number"),
    reference("cluster_id", "clusters"),
    text_column("secret"),
    int_column("created_at_ms"),
    int_column("changed_at_ms"),
    text_column("status"),
    text_or_null("node_id"),
    text_column("device_indexes"),
    text_column("node_names"),
    int_column("devices"),
    text_or_null("reason"),
    int_or_null("exit_code"),
    int_or_null("started_at_ms"),
    int_or_null("ended_at_ms"),
    int_or_null("starts_at_ms"),
    text_or_null("external_id"),
    int_column("device_seconds"),
    int_column("is_accounted"),
    int_column("is_forgotten"),
    int_column("revision"),
)
ATTEMPT_IS_LIVE: Final[ColumnElement[bool]] = attempts.c.status.in_(
    [literal_column("'pending'"), literal_column("'queued'"), literal_column("'running'")]
)
ATTEMPT_IS_UNACCOUNTED: Final[ColumnElement[bool]] = attempts.c.is_accounted == literal_column("0")
ATTEMPT_HAS_ENDED: Final[ColumnElement[bool]] = attempts.c.ended_at_ms.is_not(None)
Index(
    "uq_attempts_number",
    attempts.c.job_id,
    attempts.c.array_index,
    attempts.c.number,
    unique=True,
)
Index("ix_attempts_order", attempts.c.created_at_ms, attempts.c.id)
Index("ix_attempts_project_order", attempts.c.project_id, attempts.c.created_at_ms, attempts.c.id)
Index(
    "ix_attempts_live_order",
    attempts.c.created_at_ms,
    attempts.c.id,
    sqlite_where=ATTEMPT_IS_LIVE,
    postgresql_where=ATTEMPT_IS_LIVE,
)
Index(
    "ix_attempts_unaccounted_order",
    attempts.c.created_at_ms,
    attempts.c.id,
    sqlite_where=ATTEMPT_IS_UNACCOUNTED,
    postgresql_where=ATTEMPT_IS_UNACCOUNTED,
)
Index(
    "ix_attempts_ended_order",
    attempts.c.ended_at_ms,
    attempts.c.id,
    sqlite_where=ATTEMPT_HAS_ENDED,
    postgresql_where=ATTEMPT_HAS_ENDED,
)
