"""Responses that organizations allow to be kept."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0004"
down_revision: Final = "0003"

INT64: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_UNFINISHED: Final = "(status IN ('queued', 'in_progress'))"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "responses",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("api_key_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("is_background", INT64, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("previous_id", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("input_items", sa.Text(), nullable=False),
        sa.Column("size_bytes", INT64, nullable=False),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.Column("seen_at_ms", INT64, nullable=False),
        sa.Column("revision", INT64, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_responses"),
        sqlite_strict=True,
    )
    op.create_index("ix_responses_order", "responses", ["created_at_ms", "id"], unique=False)
    op.create_index(
        "ix_responses_project_order",
        "responses",
        ["project_id", "created_at_ms", "id"],
        unique=False,
    )
    op.create_index(
        "ix_responses_unfinished",
        "responses",
        ["seen_at_ms"],
        unique=False,
        sqlite_where=sa.text(_UNFINISHED),
        postgresql_where=sa.text(_UNFINISHED),
    )
