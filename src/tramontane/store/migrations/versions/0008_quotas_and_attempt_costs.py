"""Quotas, racks that are kept for one organization, prices of classes and costs of attempts."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0008"
down_revision: Final = "0007"

INT64: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables, and an order of all attempts for the bill."""
    op.create_table(
        "quotas",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("devices_max", INT64, nullable=True),
        sa.Column("share", INT64, nullable=False),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_quotas"),
        sqlite_strict=True,
    )
    op.create_index("uq_quotas_subject", "quotas", ["subject_id"], unique=True)
    op.create_index("ix_quotas_order", "quotas", ["created_at_ms", "id"], unique=False)
    _add_reservations()
    op.create_table(
        "class_prices",
        sa.Column("priority_class", sa.Text(), nullable=False),
        sa.Column("device_hour_micro", INT64, nullable=False),
        sa.Column("changed_at_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("priority_class", name="pk_class_prices"),
        sqlite_strict=True,
    )
    op.create_table(
        "attempt_costs",
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("priority_class", sa.Text(), nullable=False),
        sa.Column("device_seconds", INT64, nullable=False),
        sa.Column("device_hour_micro", INT64, nullable=False),
        sa.Column("cost_nano", INT64, nullable=False),
        sa.Column("accounted_at_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("attempt_id", name="pk_attempt_costs"),
        sqlite_strict=True,
    )
    op.create_index("ix_attempts_order", "attempts", ["created_at_ms", "id"], unique=False)


def _add_reservations() -> None:
    table = "rack_reservations"
    op.create_table(
        table,
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("rack", sa.Text(), nullable=False),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name="fk_rack_reservations_organization_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_rack_reservations"),
        sqlite_strict=True,
    )
    op.create_index("uq_rack_reservations_rack", table, ["cluster", "rack"], unique=True)
    op.create_index("ix_rack_reservations_order", table, ["created_at_ms", "id"], unique=False)
