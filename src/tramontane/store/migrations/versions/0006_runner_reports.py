"""What runners report over HTTP."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0006"
down_revision: Final = "0005"

INT64: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "runner_reports",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("run_state", sa.Text(), nullable=False),
        sa.Column("at_ms", INT64, nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("requests_running", INT64, nullable=True),
        sa.Column("requests_waiting", INT64, nullable=True),
        sa.Column("exit_code", INT64, nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("node_name", sa.Text(), nullable=True),
        sa.Column("received_at_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runner_reports"),
        sqlite_strict=True,
    )
