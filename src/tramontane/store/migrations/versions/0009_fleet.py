"""Racks, sites and drains of nodes, replicas on several nodes, and orders of what ended."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0009"
down_revision: Final = "0008"

INT64: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_ENDED_REPLICA: Final = "status IN ('stopped', 'failed')"
_ENDED_ATTEMPT: Final = "ended_at_ms IS NOT NULL"


def upgrade() -> None:
    """Add them. Every replica that is there is on one node; no node is to be drained."""
    for name in ("rack", "site", "country", "reason", "wanted_drain_reason"):
        op.add_column("nodes", sa.Column(name, sa.Text(), nullable=True))
    for name in ("is_resume_wanted", "counted_from_ms"):
        zero = sa.Column(name, INT64, nullable=False, server_default=sa.text("0"))
        op.add_column("nodes", zero)
    op.add_column("replicas", sa.Column("peer_node_ids", sa.Text(), nullable=True))
    _index("ix_replicas_ended_order", "replicas", "changed_at_ms", _ENDED_REPLICA)
    _index("ix_attempts_ended_order", "attempts", "ended_at_ms", _ENDED_ATTEMPT)


def _index(name: str, table: str, column: str, where: str) -> None:
    condition = sa.text(where)
    op.create_index(
        name,
        table,
        [column, "id"],
        unique=False,
        sqlite_where=condition,
        postgresql_where=condition,
    )
