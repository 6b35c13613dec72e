"""Limits, prices, slices; the switches of tenants; what a request cost."""

import os
import time
from typing import Final

import sqlalchemy as sa
from alembic import op

from tramontane.domain import ids

revision: Final = "0002"
down_revision: Final = "0001"

INT64: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add them. What was used before was free; keys keep their bound, as a limit."""
    _limits()
    _slices()
    _prices()
    _tenants()
    _costs()


def _limits() -> None:
    op.create_table(
        "limits",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("requests_per_minute_max", INT64, nullable=True),
        sa.Column("tokens_per_minute_max", INT64, nullable=True),
        sa.Column("requests_in_flight_max", INT64, nullable=True),
        sa.Column("budget_micro", INT64, nullable=True),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_limits"),
        sqlite_strict=True,
    )
    op.create_index("uq_limits_subject", "limits", ["subject_id", "model"], unique=True)
    op.create_index("ix_limits_order", "limits", ["created_at_ms", "id"], unique=False)


def _slices() -> None:
    op.create_table(
        "slice_holders",
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("sequence", INT64, nullable=False),
        sa.Column("seen_ms", INT64, nullable=False),
        sa.Column("awake_ms", INT64, nullable=False),
        sa.Column("lease", INT64, nullable=False),
        sa.Column("is_lapsed", INT64, nullable=False),
        sa.Column("reply", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("holder", name="pk_slice_holders"),
        sqlite_strict=True,
    )
    op.create_table(
        "slice_windows",
        sa.Column("limit_id", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("number", INT64, nullable=False),
        sa.Column("start_ms", INT64, nullable=False),
        sa.Column("end_ms", INT64, nullable=False),
        sa.Column("granted", INT64, nullable=False),
        sa.Column("lent_until_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("limit_id", "meter", name="pk_slice_windows"),
        sqlite_strict=True,
    )
    op.create_table(
        "slice_holds",
        sa.Column("limit_id", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("period", INT64, autoincrement=False, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("lease", INT64, nullable=False),
        sa.Column("amount", INT64, nullable=False),
        sa.PrimaryKeyConstraint("limit_id", "meter", "period", "holder", name="pk_slice_holds"),
        sqlite_strict=True,
    )
    op.create_index("ix_slice_holds_holder", "slice_holds", ["holder"], unique=False)
    op.create_table(
        "budget_spending",
        sa.Column("limit_id", sa.Text(), nullable=False),
        sa.Column("period", INT64, autoincrement=False, nullable=False),
        sa.Column("spent_nano", INT64, nullable=False),
        sa.PrimaryKeyConstraint("limit_id", "period", name="pk_budget_spending"),
        sqlite_strict=True,
    )


def _prices() -> None:
    op.create_table(
        "prices",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("prompt_micro", INT64, nullable=False),
        sa.Column("completion_micro", INT64, nullable=False),
        sa.Column("cached_micro", INT64, nullable=True),
        sa.Column("request_micro", INT64, nullable=False),
        sa.Column("changed_at_ms", INT64, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_prices_model_id"),
        sa.PrimaryKeyConstraint("model_id", name="pk_prices"),
        sqlite_strict=True,
    )


def _tenants() -> None:
    op.add_column("organizations", _count("may_store_responses"))
    op.add_column("organizations", sa.Column("blocked_at_ms", INT64, nullable=True))
    op.add_column("projects", sa.Column("blocked_at_ms", INT64, nullable=True))
    op.add_column("projects", _count("is_strict"))
    op.add_column("projects", sa.Column("allowed_models", sa.Text(), nullable=True))
    op.add_column("api_keys", sa.Column("blocked_at_ms", INT64, nullable=True))
    op.add_column("api_keys", sa.Column("allowed_models", sa.Text(), nullable=True))
    _move_bounds_of_keys()
    op.drop_column("api_keys", "requests_in_flight_max")


def _move_bounds_of_keys() -> None:
    connection = op.get_bind()
    bounded = connection.execute(
        sa.text(
            "SELECT id, requests_in_flight_max AS bound FROM api_keys"
            " WHERE requests_in_flight_max IS NOT NULL"
        )
    ).all()
    insert = sa.text(
        "INSERT INTO limits (id, scope, subject_id, model, requests_in_flight_max, created_at_ms)"
        " VALUES (:id, 'api_key', :subject_id, '', :bound, :now_ms)"
    )
    for key in bounded:
        values = {
            "id": ids.make_id(ids.LIMIT, os.urandom(ids.ENTROPY_BYTES)),
            "subject_id": key.id,
            "bound": key.bound,
            "now_ms": time.time_ns() // 1_000_000,
        }
        connection.execute(insert, values)


def _costs() -> None:
    op.add_column("usage_events", _count("cost_nano"))
    op.add_column(
        "usage_events",
        sa.Column("holder", sa.Text(), nullable=False, server_default=sa.text("''")),
    )
    op.add_column("usage_totals", _count("cost_nano"))


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, INT64, nullable=False, server_default=sa.text("0"))
