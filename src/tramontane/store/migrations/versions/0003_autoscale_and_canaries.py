"""Autoscaling and canaries: two columns of deployments, and what gateways say of the demand."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"

INT64: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add them. Deployments that are there neither scale by themselves nor are canaries."""
    op.add_column("deployments", sa.Column("scale", sa.Text(), nullable=True))
    op.add_column("deployments", sa.Column("canary", sa.Text(), nullable=True))
    op.create_table(
        "demands",
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("requests_in_flight", INT64, nullable=False),
        sa.Column("requests_queued", INT64, nullable=False),
        sa.Column("tokens_per_s", INT64, nullable=False),
        sa.Column("idle_ms", INT64, nullable=False),
        sa.Column("at_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("holder", "deployment_id", name="pk_demands"),
        sqlite_strict=True,
    )
